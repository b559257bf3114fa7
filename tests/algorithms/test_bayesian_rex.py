"""B-REX in the loop against the exact posterior on the circle, and what is said of returns under it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.algorithms import bayesian_rex
from jaxpref.data import SegmentRecords
from jaxpref.environments import gridworld
from jaxpref.evals import posterior_returns
from jaxpref.evals.base import Context
from jaxpref.planning import occupancy, policy_values
from jaxpref.policies.reward_functions import linear_reward, tabular_reward
from jaxpref.policies.rewarded import return_scores
from jaxpref.types import Segments

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


def test_params_are_the_posterior_mean_and_the_bank_has_the_likeliest(chain):
    state, metrics, held_out = chain
    circle, shares, logs = exact()
    np.testing.assert_allclose(state.params["weights"], shares @ circle, atol=0.03)
    np.testing.assert_allclose(state.bank["map"]["weights"], circle[logs.argmax()], atol=0.03)
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


def test_bounds_are_quantiles_of_exact_returns(chain):
    state, *_ = chain
    members = state.bank | {"policy": state.params}
    context = Context(
        policy, state.params, None, 0, lambda b: b, jnp.asarray, jax.device_get, member=members.__getitem__
    )
    start, uniform = np.full(S, 1 / S), np.full((S, 5), 0.2)
    evaluated = partial(
        posterior_returns, context, world=world, rewards=rewards, start=lambda: start, unit=2.0
    )
    found = evaluated(policies={"uniform": lambda: uniform}, confidence=0.9).metrics
    visits = np.asarray(occupancy(world(), jnp.asarray(uniform), jnp.asarray(start))).sum(-1)
    returns = np.asarray(state.bank["draws"]["weights"]) @ (visits @ PHI)
    assert found["uniform: at least"].mean == pytest.approx(np.quantile(returns, 0.1), abs=1e-4)
    assert found["uniform: return"].mean == pytest.approx(returns.mean(), abs=1e-4)
    assert found["uniform: return"].high == pytest.approx(np.quantile(returns, 0.95), abs=1e-4)
    truly = float(start @ policy_values(world(), jnp.asarray(uniform))) / 2
    assert found["uniform: truly"].mean == pytest.approx(truly, abs=1e-4)
    assert found["mean: truly"].mean > truly
    assert found["MAP: at least"].mean < found["MAP: return"].mean
    with pytest.raises(ValueError, match=r"confidence in \(0, 1\)"):
        evaluated(policies={}, confidence=1.0)


def test_scores_must_be_linear_in_weights():
    with pytest.raises(ValueError, match="expected scores linear in params"):
        bayesian_rex(return_scores(world=world, rewards=partial(tabular_reward, states=S)))
    with pytest.raises(ValueError, match="draws and thin of 1 or more"):
        bayesian_rex(policy, draws=0)


def test_returns_are_sums_of_rewards_along_the_way():
    """Discounted, under a table, up to where the segment ends; terminal states pay nothing."""
    ended = partial(gridworld, height=2, width=2, terminal=(3,))
    table = return_scores(world=ended, rewards=partial(tabular_reward, states=S, actions=5), discount=0.5)
    given = np.random.default_rng(2).normal(size=(S, 5)).astype(np.float32)
    batch = Segments(
        jnp.array([[[0, 1, 3], [2, 2, 0]]]),
        jnp.array([[[1, 4, 2], [0, 3, 1]]]),
        jnp.array([[[True, True, True], [True, True, False]]]),
    )
    found = table.quantities({"rewards": jnp.asarray(given)}, batch, ("embeddings",), None)["embeddings"]
    expected = [given[0, 1] + 0.5 * given[1, 4], given[2, 0] + 0.5 * given[2, 3]]
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"return_scores\.rewards: expected \[4, 5\] or \[4, 1\]"):
        return_scores(world=world, rewards=partial(tabular_reward, states=3))
