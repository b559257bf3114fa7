"""B-REX in the loop against the exact posterior on the circle."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.algorithms import bayesian_rex
from jaxpref.algorithms.bayesian_rex import ATARI, GRIDWORLD
from jaxpref.data import SegmentRecords
from jaxpref.environments import gridworld
from jaxpref.metrics import to_floats
from jaxpref.policies.reward_functions import linear_reward, tabular_reward
from jaxpref.policies.rewarded import return_scores

S, TRUTH = 4, np.array([0.8, -0.6])
PHI = np.random.default_rng(0).normal(size=(S, 2))
world = partial(gridworld, height=2, width=2, rewards=PHI @ TRUTH, discount=0.8)
rewards = partial(linear_reward, features=lambda: PHI)
policy = return_scores(world=world, rewards=rewards)


def pairs(n=12):
    """Random segments of three steps, the better one first."""
    generator = np.random.default_rng(1)
    states, actions = (generator.integers(0, high, (n, 2, 3)) for high in (S, 5))
    order = np.argsort(-(PHI @ TRUTH)[states].sum(-1), 1)
    rows = np.arange(n)[:, None]
    return SegmentRecords(states[rows, order], actions[rows, order], np.full((n, 2), 3))


@pytest.fixture(scope="module")
def chain():
    """Two steps; two rows of padding."""
    algorithm = bayesian_rex(policy, draws=6000, thin=2, width=0.8, confidence=1.5)
    batch = jax.tree.map(jnp.asarray, pairs().rows([*range(12), -1, -1]))
    state, step = algorithm.init(policy.init(jax.random.key(0))), jax.jit(algorithm.step)
    for i in range(2):
        state, metrics = step(state, batch, jax.random.key(i))
    return state, metrics, jax.jit(algorithm.evaluate)(state, batch, jax.random.key(0))


def exact():
    """Angles and their probabilities."""
    angles = np.linspace(-np.pi, np.pi, 4001)[:-1]
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    records = pairs()
    sums = PHI[records.observations].sum(2)
    logs = -np.logaddexp(0, -1.5 * circle @ (sums[:, 0] - sums[:, 1]).T).sum(-1)
    return circle, np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum(), logs


def test_params_are_the_posterior_mean_and_the_state_has_the_likeliest(chain):
    state, metrics, held_out = chain
    circle, shares, logs = exact()
    np.testing.assert_allclose(state.params["weights"], shares @ circle, atol=0.03)
    np.testing.assert_allclose(state.policies["map"]["weights"], circle[logs.argmax()], atol=0.03)
    assert float(state.loss_state) == pytest.approx(logs.max(), abs=1e-3)
    assert float(metrics["chain/loss"].value) == pytest.approx(-(shares @ logs) / 12, abs=0.02)
    assert float(metrics["chain/concentration"].value) == pytest.approx(
        np.linalg.norm(shares @ circle), abs=0.03
    )
    sums = PHI[pairs().observations].sum(2)
    margins = (sums[:, 0] - sums[:, 1]) @ np.asarray(state.params["weights"])
    for found in (metrics, held_out):
        assert float(found["loss"].value) == pytest.approx(np.logaddexp(0, -1.5 * margins).mean(), rel=1e-4)
        assert float(found["rewards/accuracies"].value) == pytest.approx((margins > 0).mean())


@pytest.mark.parametrize(("settings", "proposals", "order"), [(ATARI, 195_000, 2), (GRIDWORLD, 5_000, 1)])
def test_settings_of_the_released_programs(settings, proposals, order):
    """As many proposals as there, on their sphere, and short steps: neighbours in the chain are close."""
    algorithm = bayesian_rex(policy, **settings)
    batch = jax.tree.map(jnp.asarray, pairs().rows(np.arange(12)))
    state, metrics = jax.jit(algorithm.step)(
        algorithm.init(policy.init(jax.random.key(0))), batch, jax.random.key(0)
    )
    draws = np.asarray(state.policies["draws"]["weights"])
    assert len(draws) * settings["thin"] == proposals
    np.testing.assert_allclose(np.linalg.norm(draws, order, axis=-1), 1, rtol=1e-5)
    concentration = np.linalg.norm(draws.mean(0), order)
    assert float(metrics["chain/concentration"].value) == pytest.approx(concentration, abs=1e-4)
    assert np.abs(np.diff(draws, axis=0)).max() < 12 * settings["width"] * settings["thin"] ** 0.5
    assert float(metrics["chain/accepted"].value) > 0.5


def test_a_row_of_weight_2_is_seen_twice_and_one_of_0_never():
    """The same chain, draw for draw."""
    algorithm = bayesian_rex(policy, draws=40, width=0.8)
    state, step = algorithm.init(policy.init(jax.random.key(0))), jax.jit(algorithm.step)

    def drawn(index, weights):
        batch = jax.tree.map(jnp.asarray, pairs().rows(index))
        batch = dataclasses.replace(batch, columns=batch.columns | {"weights": jnp.asarray(weights)})
        after, metrics = step(state, batch, jax.random.key(1))
        return after.policies["draws"]["weights"], to_floats(metrics)

    twice, expected = drawn([0, 1, 1, 2, -1], [1.0, 1, 1, 1, 1])
    weighed, metrics = drawn([0, 1, 2, 3, -1], [1.0, 2, 1, 0, 1])
    np.testing.assert_allclose(weighed, twice, atol=1e-5)
    for name in ("loss", "chain/loss", "chain/accepted"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-5), name


def test_scores_must_be_linear_in_weights():
    with pytest.raises(ValueError, match="expected scores linear in params"):
        bayesian_rex(return_scores(world=world, rewards=partial(tabular_reward, states=S)))
    with pytest.raises(ValueError, match="draws and thin of 1 or more"):
        bayesian_rex(policy, draws=0)
