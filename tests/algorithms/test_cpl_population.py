"""Population consistency of contrastive preference learning in float64: experiments/cpl_tabular.py."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from x64 import enable_x64

from jaxpref import config, losses
from jaxpref.algorithms.inputs import call_loss, recorded
from jaxpref.evals import soft_optimal_error
from jaxpref.evals.base import Context
from jaxpref.planning import values
from jaxpref.policies.states import state_table
from jaxpref.types import Segments

ALPHA = 0.5


@pytest.fixture(scope="module")
def tabular(repository):
    config.load(str(repository / "experiments/cpl_tabular.py"))  # makes its folder importable
    return importlib.import_module("cpl_tabular")


def _soft_optimum(mdp):
    """Soft value iteration in numpy."""
    p, r = np.asarray(mdp.transitions), np.asarray(mdp.rewards)
    v = np.zeros(len(r))
    for _ in range(2000):
        q = r + mdp.discount * p @ v
        v = ALPHA * np.log(np.exp(q / ALPHA).sum(-1))
    return np.exp((q - v[:, None]) / ALPHA)


def _minimiser(tabular, mdp, bias):
    """Probabilities at the minimum of the mean loss over all pairs, by L-BFGS on the loss that trains."""
    policy = state_table(states=4, actions=3, param_dtype="float64")
    states, actions = (jnp.asarray(x) for x in tabular.every_segment())
    first, second = np.triu_indices(len(states), 1)
    p = jnp.asarray(tabular.regret_probabilities(mdp, ALPHA)[first, second])
    half = jnp.full_like(p, 0.5)
    batch = Segments(
        jnp.stack([states[first], states[second]], 1),
        jnp.stack([actions[first], actions[second]], 1),
        jnp.ones((len(first), 2, 2), bool),
        preferences=jnp.stack([jnp.stack([half, p], 1), jnp.stack([1 - p, half], 1)], 1),
    )

    loss = partial(losses.cpl, alpha=ALPHA, bias=bias, discount=mdp.discount)

    @jax.jit
    @jax.value_and_grad
    def objective(logits):
        logps = policy.token_logps({"logits": logits}, batch)
        return call_loss(loss, recorded(batch) | {"token_logps": logps}, {}).mean()

    def flat(x):
        value, slope = objective(jnp.asarray(x.reshape(4, 3)))
        return float(value), np.asarray(slope).reshape(-1)

    found = minimize(flat, np.zeros(12), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12})
    return np.asarray(jax.nn.softmax(jnp.asarray(found.x.reshape(4, 3)), -1))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_soft_optimal_policy_is_recovered_and_a_bias_moves_it(tabular, seed):
    """The bias is of the method, not of the search: both minima have no slope left."""
    with enable_x64():
        mdp = tabular.world(seed=seed)
        best = _soft_optimum(mdp)
        np.testing.assert_allclose(values(mdp, ALPHA, tolerance=1e-14)[2], best, atol=1e-12)
        np.testing.assert_allclose(_minimiser(tabular, mdp, 1.0), best, atol=1e-8)
        moved = np.abs(_minimiser(tabular, mdp, 0.5) - best).max()
        assert moved == pytest.approx((0.1495, 0.2613)[seed], abs=1e-3)


def test_the_evaluator_is_zero_at_the_optimum_only(tabular):
    policy = state_table(states=4, actions=3)

    def measured(logits):
        context = Context(
            policy, {"logits": logits}, None, 0, rewards=lambda b: b, put=lambda x: x, fetch=jax.device_get
        )
        found = soft_optimal_error(context, mdp=tabular.world, temperature=ALPHA)
        lines = found.pictures[0].data["lines"]
        assert list(lines) == ["soft, temperature 0.5", "hard", "bound: discount^sweep"]
        return [found.metrics[n].mean for n in ("max |pi - pi*|", "KL(pi* || pi)", "lost value")]

    best = _soft_optimum(tabular.world())
    np.testing.assert_allclose(measured(jnp.log(best).astype(jnp.float32)), 0, atol=1e-5)
    uniform = measured(jnp.zeros((4, 3)))
    np.testing.assert_allclose(uniform[0], np.abs(best - 1 / 3).max(), rtol=1e-5)
    np.testing.assert_allclose(uniform[1], (best * np.log(best * 3)).sum(-1).mean(), rtol=1e-4)
    assert uniform[2] > 1
