"""SPAC on a bandit with an action that no comparison covers: the policy leaves it, and finds the best other.

Four actions, rewards (.2, .9, .5, .4), comparisons (Bradley-Terry of three times the rewards) among the first
three only; all policies start uniform.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from scipy.optimize import minimize
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.spac import critic_objective, policy_step

REWARDS = np.array([0.2, 0.9, 0.5, 0.4])
SCALE = 3.0
CHOSEN, REJECTED = np.array([(i, j) for i in range(3) for j in range(3) if i != j]).T
WINS = 1 / (1 + np.exp(-SCALE * (REWARDS[CHOSEN] - REWARDS[REJECTED]))) / 3  # they add up to 1


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def test_values_where_the_policy_is_the_iterate():
    one, samples = jnp.zeros(3), jnp.zeros((3, 2))
    smooth = losses.spac(one, one, one, one, samples, samples, weight=7.0)
    np.testing.assert_allclose(smooth, 8 * np.log(2.0))
    linear = losses.spac_linear(one, one, one, one, samples, samples, weight=7.0)
    np.testing.assert_allclose(linear, 7 * np.log(2.0))


def test_it_is_dpo_of_the_pair_and_of_each_side_against_a_sample():
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.spac, 6).items()}
    chosen, rejected, ref_chosen, ref_rejected, own, ref_own = x.values()
    expected = 3 * losses.dpo(chosen, rejected, ref_chosen, ref_rejected, beta=1 / 0.4)
    for side, reference in ((chosen, ref_chosen), (rejected, ref_rejected)):
        spin = [losses.dpo(side, own[:, s], reference, ref_own[:, s], beta=1 / 0.4) for s in range(3)]
        expected = expected + sum(spin) / 3 / 2
    np.testing.assert_allclose(losses.spac(**x, weight=3.0, eta=0.4), expected, rtol=1e-12)


def test_the_linear_form_falls_without_bound():
    """Its mean over samples of the iterate, on the way to a policy that leaves all but one action."""

    def mean(far):
        logps, before = jax.nn.log_softmax(jnp.array([0.0, far, 0.0, 0.0])), jnp.full(4, -jnp.log(4.0))
        sides = [x[i] for x in (logps, before) for i in (CHOSEN, REJECTED)]
        own = [jnp.broadcast_to(x, (6, 4)) for x in (logps, before)]
        return WINS @ losses.spac_linear(*sides, *own, weight=0.1), WINS @ losses.spac(
            *sides, *own, weight=0.1
        )

    values, smooth = np.asarray(jax.jit(jax.vmap(mean))(jnp.array([1e2, 1e3, 1e4])))
    assert (np.diff(values) < -500).all()
    assert (smooth > 0).all()


@jax.jit
def _smooth(logits, iterate, eta, weight):
    """Mean of `spac` over comparisons, and over samples of the iterate; and its gradient."""

    def mean(logits):
        logps, before = (jax.nn.log_softmax(x) for x in (logits, iterate))
        # One row for every comparison and sample of the iterate; hyper-parameters are checked, so not traced.
        chosen, rejected, own = (
            x.ravel() for x in np.broadcast_arrays(CHOSEN[:, None], REJECTED[:, None], range(4))
        )
        weights = (WINS[:, None] * jnp.exp(before)[None]).ravel()
        sides = [x[i] / eta for x in (logps, before) for i in (chosen, rejected)]
        samples = [x[own, None] / eta for x in (logps, before)]
        one, two = (losses.spac(*sides, *samples, weight=w, eta=1.0) for w in (1.0, 2.0))
        return (weights * (one + (weight - 1) * (two - one))).sum()

    return jax.value_and_grad(mean)(logits)


@pytest.mark.parametrize(
    ("eta", "weight", "first", "value"),
    [
        (1.0, 1.0, None, 0.7738),
        (1.0, 10.0, 5e-5, 0.8978),
        (1.0, 100.0, 5e-5, 0.8996),
        (0.3, 10.0, 0.002, 0.8194),
    ],
)
def test_six_rounds(eta, weight, first, value):
    iterate = np.zeros(4)
    for i in range(6):
        found = minimize(_smooth, iterate, args=(iterate, eta, weight), jac=True, options={"gtol": 1e-9})
        iterate = np.asarray(jax.nn.log_softmax(found.x))
        if i == 0 and first is not None:
            assert np.exp(iterate[3]) < first + 5e-4
    np.testing.assert_allclose(np.exp(iterate) @ REWARDS, value, atol=6e-5)


def test_without_the_self_samples_the_uncovered_action_stays():
    """`dpo` against the iterate before, on the comparisons: the logit of the fourth action never moves."""

    @jax.jit
    def slope(logits, iterate):
        def mean(logits):
            logps, before = jax.nn.log_softmax(logits), jax.nn.log_softmax(iterate)
            sides = [x[i] for x in (logps, before) for i in (CHOSEN, REJECTED)]
            return WINS @ losses.dpo(*sides, beta=1 / 0.3)

        return jax.grad(mean)(logits), jax.hessian(mean)(logits)

    logits, left = np.zeros(4), []
    for _ in range(6):
        iterate = logits
        for _ in range(12):  # Newton; the least step leaves alone what has no slope
            g, h = slope(logits, iterate)
            logits = logits - np.linalg.pinv(h, rcond=1e-9) @ g
        np.testing.assert_allclose(slope(logits, iterate)[0], 0, atol=1e-12)
        left.append(np.exp(logits[3]) / np.exp(logits).sum())
    np.testing.assert_allclose([left[0], left[-1]], [0.244, 0.108], atol=5e-4)


@jax.jit
def _critic(f, own, weight_of_pairs):
    """Mean of the critic's objective over comparisons; `own` is the policy. Linear in the samples."""

    def mean(f):
        samples = jnp.broadcast_to(own @ f, (6, 1))
        one, two = (
            critic_objective(f[CHOSEN], f[REJECTED], samples, weight=w, scale=SCALE) for w in (0.0, 1.0)
        )
        return WINS @ (one + weight_of_pairs * (two - one))

    return jax.value_and_grad(mean)(f)


@pytest.mark.parametrize(("weight", "value"), [(1.0, 0.8355), (10.0, 0.8931)])
def test_two_time_scales(weight, value):
    """400 rounds of an exact critic in [0, 1] and a step of the policy; the mixture of all of them."""
    logps, critic, total = np.full(4, -np.log(4.0)), np.full(4, 0.5), np.zeros(4)
    step = jax.jit(policy_step)
    for _ in range(400):
        policy = np.exp(logps)
        total += policy
        options = {"ftol": 1e-13, "gtol": 1e-8}
        critic = minimize(
            _critic, critic, (policy, weight), "L-BFGS-B", jac=True, bounds=[(0, 1)] * 4, options=options
        ).x
        logps = np.asarray(step(logps, critic, 0.5))
    np.testing.assert_allclose(total @ REWARDS / 400, value, atol=6e-5)
    if weight >= 10:
        assert total[3] / 400 <= 0.0034


def test_the_critic_is_boxed():
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.spac_critic, 5).items()}
    inside = [2 / (1 + np.exp(-np.asarray(v))) for v in x.values()]
    expected = critic_objective(*map(jnp.asarray, inside), weight=4.0, scale=3.0)
    found = losses.spac_critic(**x, weight=4.0, bound=2.0, scale=3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
