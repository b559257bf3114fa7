"""Returns of whole episodes, in a world whose returns are known, and worlds that are not there."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxpref.environments.gymnasium import gymnasium_world
from jaxpref.evals import control_returns
from jaxpref.evals.base import Context
from jaxpref.policies.controllers import deterministic_controller, gaussian_controller
from jaxpref.policies.states import state_table


class Countdown:
    """Starts at 1 for the first seed it ever sees, at 2 for the second and so on, loses one a step, and pays
    what its action says; 0 is the end."""

    def __init__(self, tells):
        self.tells, self.left, self.closed = tells, 0, False
        OPEN.append(self)

    def _seen(self):
        return np.array([self.left, 1.0])

    def reset(self, *, seed=None):
        if seed not in SEEDS:
            SEEDS.append(seed)
        self.left = SEEDS.index(seed) + 1
        return self._seen(), {}

    def step(self, action):
        assert self.left > 0, "a world that has ended is left alone"
        self.left -= 1
        info = {"success": self.left == 0} if self.tells else {}
        return self._seen(), float(action[0]), self.left == 0, False, info

    def close(self):
        self.closed = True


OPEN, SEEDS = [], []


@pytest.fixture(autouse=True)
def _nothing_seen():
    OPEN.clear()
    SEEDS.clear()


def _context(policy, params, seed=0, step=0):
    return Context(
        policy=policy,
        params=params,
        tokenizer=None,
        seed=seed,
        stage="cpl",
        step=step,
        rewards=lambda batch: batch,
        put=lambda x: x,
        fetch=jax.device_get,
    )


def _constant(action):
    """Acts `action` wherever it is."""
    policy = deterministic_controller(observation_size=2, action_size=1, hidden=(2,))
    params = jax.tree.map(np.zeros_like, policy.init(jax.random.key(0)))
    params["layer_1"]["bias"] = np.array([np.arctanh(action)], np.float32)
    return policy, params


def test_returns_lengths_and_successes_of_a_world_that_counts_down():
    found = control_returns(
        _context(*_constant(0.5)),
        world=partial(Countdown, True),
        episodes=4,
        max_steps=3,
        reference_returns=(0.5, 2.5),
    )
    # Lengths 1, 2, 3 and 4, the last one cut short; half a point a step.
    assert found.metrics["episode length"].mean == pytest.approx((1 + 2 + 3 + 3) / 4)
    assert found.metrics["return"].mean == pytest.approx(0.5 * 9 / 4, rel=1e-5)
    assert found.metrics["return"].low < found.metrics["return"].mean < found.metrics["return"].high
    assert found.metrics["normalised return"].mean == pytest.approx(50 * (9 / 8 - 0.5), rel=1e-4)
    assert found.metrics["success"].mean == 3 / 4
    assert all(w.closed for w in OPEN)
    silent = control_returns(_context(*_constant(0.5)), world=partial(Countdown, False), num_prompts=2)
    assert set(silent.metrics) == {"return", "episode length"}
    assert silent.metrics["return"].count == 2


def test_drawn_actions_differ_and_repeat():
    """At another step too they differ, from the same starts; another run has other starts."""
    policy = gaussian_controller(observation_size=2, action_size=1, hidden=(2,))
    params = policy.init(jax.random.key(0))

    def total(seed=0, step=0, **more):
        context = _context(policy, params, seed, step)
        return control_returns(context, world=partial(Countdown, False), episodes=3, **more)

    first, again, likeliest = total(stochastic=True), total(stochastic=True), total()
    assert first == again
    assert first.metrics["return"] != likeliest.metrics["return"]
    later = total(stochastic=True, step=5)
    assert first.metrics["return"] != later.metrics["return"]
    assert first.metrics["episode length"] == later.metrics["episode length"]
    assert len(SEEDS) == 3
    total(seed=1)
    assert len(SEEDS) == 6


def test_worlds_and_policies_that_are_not_there(monkeypatch):
    with pytest.raises(ValueError, match="expected episodes and steps, got 0"):
        control_returns(_context(*_constant(0.5)), world=partial(Countdown, True), episodes=0)
    table = state_table(states=2, actions=2)._replace(act=None)
    with pytest.raises(ValueError, match="has no `act`"):
        control_returns(_context(table, {}), world=partial(Countdown, True))
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(ValueError, match=r"Hopper-v5: gymnasium is not installed.*jaxpref\[control\]"):
        gymnasium_world(name="Hopper-v5")
