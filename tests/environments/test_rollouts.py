"""Segments scored by regret in a world whose optimum is known, and the returns of a compiled evaluation."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import keys
from jaxpref.environments.gymnax import gymnax_pendulum
from jaxpref.environments.rollouts import JaxWorld, expert_return, regret_segments
from jaxpref.evals import compiled_returns
from jaxpref.evals.base import Context
from jaxpref.policies.controllers import deterministic_controller


def point():
    """A point on a line in [-1, 1] is moved by its action and pays for its distance: -x is optimal."""
    return POINT


POINT = JaxWorld(
    reset=lambda key: jax.random.uniform(key, (1,), minval=-1, maxval=1),
    observe=lambda x: x,
    step=lambda x, action: (jnp.clip(x + action, -1, 1), -jnp.abs(x).sum()),
    expert=lambda x: -x,
)
SIZES = {"num": 64, "steps": 4, "horizon": 10, "burn_in": 3}


def _paid_more(x, action, wage):
    after, reward = POINT.step(x, action)
    return after, reward + wage


@pytest.mark.parametrize("wage", [0, 2])
def test_scores_are_those_of_a_loop(wage):
    """A wage for every step goes into the return and not into the regret: both have the same horizon."""
    world = POINT._replace(step=partial(_paid_more, wage=wage))
    found = regret_segments(world, jax.random.key(0), **SIZES)
    assert found.observations.shape == (64, 4, 1)
    x, actions = np.asarray(found.observations, np.float64)[..., 0], np.asarray(found.actions)[..., 0]
    np.testing.assert_allclose(x[:, 1:], np.clip(x[:, :-1] + actions[:, :-1], -1, 1), atol=1e-6)
    np.testing.assert_allclose(found.returns, 4 * wage - np.abs(x).sum(1), rtol=1e-5)
    # The expert pays once for where it stands, then nothing.
    end = np.clip(x[:, -1] + actions[:, -1], -1, 1)
    np.testing.assert_allclose(
        found.scores, -np.abs(x).sum(1) - np.abs(end) + np.abs(x[:, 0]), rtol=1e-4, atol=1e-5
    )
    assert (np.asarray(found.scores) <= 1e-6 * (1 + 10 * wage)).all()  # ten wages are rounded, too


def test_the_optimal_expert_has_no_regret():
    found = regret_segments(POINT, jax.random.key(0), **SIZES, shares=(1.0, 1.0), noise=0.0)
    np.testing.assert_allclose(found.scores, 0, atol=1e-6)
    with pytest.raises(ValueError, match="expected 0 < steps < horizon"):
        regret_segments(POINT, jax.random.key(0), num=1, steps=10, horizon=10)


def test_returns_beside_those_of_the_expert():
    policy = deterministic_controller(observation_size=1, action_size=1, hidden=(2,))

    def measured(act):
        context = Context(
            policy._replace(act=act), {}, None, 0, rewards=lambda b: b, put=lambda x: x, fetch=jax.device_get
        )
        return compiled_returns(context, world=point, episodes=8, steps=5).metrics

    best = measured(lambda params, x, key: -x)
    assert best["lost to expert"].mean == 0
    starts = jax.vmap(POINT.reset)(jax.random.split(keys.key(0, None, "evaluator", "episodes", "starts"), 8))
    assert best["return"].mean == pytest.approx(-np.abs(starts).mean(), rel=1e-5)
    idle = measured(lambda params, x, key: 0 * x)
    assert idle["lost to expert"].mean == pytest.approx(4 * np.abs(starts).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="has no `act`"):
        measured(None)


def test_gymnax_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ValueError, match="pip install gymnax"):
        gymnax_pendulum()


def test_the_pendulum_expert_swings_up_and_stays():
    pytest.importorskip("gymnax")
    world = gymnax_pendulum()
    states = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 32))
    earned = jax.jit(jax.vmap(partial(expert_return, world, steps=200)))(states)
    assert float(earned.mean()) > -300
