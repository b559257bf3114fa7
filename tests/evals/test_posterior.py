"""What draws of rewards say of policies: quantiles of exact returns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.environments import gridworld
from jaxpref.evals import posterior_returns
from jaxpref.evals.base import Context
from jaxpref.planning import occupancy, policy_values
from jaxpref.policies.reward_functions import linear_reward
from jaxpref.policies.rewarded import return_scores

S, TRUTH = 4, np.array([0.8, -0.6])
PHI = np.random.default_rng(0).normal(size=(S, 2))
world = partial(gridworld, height=2, width=2, rewards=PHI @ TRUTH, discount=0.8)
rewards = partial(linear_reward, features=lambda: PHI)


def test_bounds_are_quantiles_of_exact_returns():
    draws = TRUTH + 0.3 * np.random.default_rng(1).normal(size=(500, 2))
    policies = {"draws": draws, "map": draws[3]}
    members = {name: {"weights": jnp.asarray(w, jnp.float32)} for name, w in policies.items()}
    policy, mean = return_scores(world=world, rewards=rewards), jnp.asarray(draws.mean(0), jnp.float32)
    context = Context(
        policy,
        {"weights": mean},
        None,
        0,
        lambda batch: batch,
        jnp.asarray,
        jax.device_get,
        member=members.__getitem__,
    )
    start, uniform = np.full(S, 1 / S), np.full((S, 5), 0.2)
    evaluated = partial(
        posterior_returns, context, world=world, rewards=rewards, start=lambda: start, unit=2.0
    )
    found = evaluated(policies={"uniform": lambda: uniform}, confidence=0.9).metrics
    visits = np.asarray(occupancy(world(), jnp.asarray(uniform), jnp.asarray(start))).sum(-1)
    returns = draws @ (visits @ PHI)
    assert found["uniform: at least"].mean == pytest.approx(np.quantile(returns, 0.1), abs=1e-4)
    assert found["uniform: return"].mean == pytest.approx(returns.mean(), abs=1e-4)
    assert found["uniform: return"].low == pytest.approx(np.quantile(returns, 0.05), abs=1e-4)
    assert found["uniform: return"].high == pytest.approx(np.quantile(returns, 0.95), abs=1e-4)
    truly = float(start @ policy_values(world(), jnp.asarray(uniform))) / 2
    assert found["uniform: truly"].mean == pytest.approx(truly, abs=1e-4)
    assert found["mean: truly"].mean > truly
    assert found["MAP: at least"].mean < found["MAP: return"].mean
    with pytest.raises(ValueError, match=r"confidence in \(0, 1\)"):
        evaluated(policies={}, confidence=1.0)
