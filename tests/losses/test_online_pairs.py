"""Losses of drawn pairs: where their mean gradients vanish, in small games that can be solved exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from scipy.optimize import root
from x64 import enable_x64

from jaxpref import losses

SIDES = ("chosen_logps", "rejected_logps", "reference_chosen_logps", "reference_rejected_logps")


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _pairs(n):
    return np.array(list(itertools.product(range(n), repeat=2))).T


def _mean(loss, logits, reference, draws, *labels, **arguments):
    """Mean of `loss` over ordered pairs, both drawn from `draws`; `labels` are [n, n] tables."""
    first, second = _pairs(len(reference))
    logps, reference = jax.nn.log_softmax(logits), jnp.asarray(reference)
    tables = [jnp.asarray(t)[first, second] for t in labels]
    sides = (logps[first], logps[second], reference[first], reference[second])
    return (draws[first] * draws[second] * loss(*sides, *tables, **arguments)).sum()


def _slope(loss, logits, reference, draws, *labels, **arguments):
    of = jax.jit(jax.grad(lambda x: _mean(loss, x, reference, jnp.asarray(draws), *labels, **arguments)))
    return np.asarray(of(logits))


def _softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


RNG = np.random.default_rng(2)
SKEW = np.triu(RNG.uniform(-0.45, 0.45, (5, 5)), 1)
GAME = 0.5 + SKEW - SKEW.T
REFERENCE = np.log(_softmax(RNG.normal(size=5)))
TAU = 0.4


def _fixed_point(mixture):
    """log pi proportional to log ref + P(. beats m) / tau, m the mixture of pi and the reference."""
    logits = REFERENCE
    for _ in range(4000):
        m = _softmax((1 - mixture) * logits + mixture * REFERENCE)
        logits = 0.95 * logits + 0.05 * (REFERENCE + GAME @ m / TAU)
    return logits


def test_online_ipo_is_the_two_sided_form():
    x = inputs_for(losses.online_ipo, 9)
    sides, p = [x[n] for n in SIDES], x["pair_preferences"]
    swapped = [x[n] for n in (SIDES[1], SIDES[0], SIDES[3], SIDES[2])]
    two_sided = p * losses.ipo(*sides, tau=0.3) + (1 - p) * losses.ipo(*swapped, tau=0.3)
    constant = (0.25 - (p - 0.5) ** 2) / 0.3**2
    np.testing.assert_allclose(losses.online_ipo(**x, tau=0.3), two_sided - constant, rtol=1e-12)
    certain = losses.online_ipo(*sides, np.ones(9), tau=0.3)
    np.testing.assert_array_equal(certain, losses.ipo(*sides, tau=0.3))


def test_online_ipo_stands_still_at_the_regularised_nash():
    nash = _fixed_point(0.0)
    value = _softmax(REFERENCE + GAME @ _softmax(nash) / TAU)
    np.testing.assert_allclose(value, _softmax(nash), atol=1e-14)
    slope = _slope(losses.online_ipo, nash, REFERENCE, _softmax(nash), GAME, tau=TAU)
    np.testing.assert_allclose(slope, 0, atol=1e-13)
    # Off policy (offline IPO against the reference's draws), and away from it, it moves.
    assert np.abs(_slope(losses.online_ipo, nash, REFERENCE, np.exp(REFERENCE), GAME, tau=TAU)).max() > 1e-3
    elsewhere = _slope(losses.online_ipo, REFERENCE, REFERENCE, np.exp(REFERENCE), GAME, tau=TAU)
    assert np.abs(elsewhere).max() > 1e-2


def test_mean_gradient_of_ipo_md_is_centred():
    """Both responses from the mixture m: -(4 / tau) E_m[(score - E_m score) A], any theta."""
    logits, b = np.random.default_rng(7).normal(size=5), 0.3
    logps = logits - np.log(np.exp(logits).sum())
    m = _softmax((1 - b) * logits + b * REFERENCE)
    gain = GAME @ m - 0.5 - TAU * (logps - REFERENCE)
    score = np.eye(5) - _softmax(logits)  # [y, logit]
    found = _slope(losses.online_ipo, logits, REFERENCE, m, GAME, tau=TAU)
    np.testing.assert_allclose(found, -(4 / TAU) * (m * gain) @ (score - m @ score), atol=1e-13)
    assert np.abs(found + (4 / TAU) * (m * gain) @ score).max() > 1e-2, "without centring"
    still = _fixed_point(b)
    m = _softmax((1 - b) * still + b * REFERENCE)
    np.testing.assert_allclose(_slope(losses.online_ipo, still, REFERENCE, m, GAME, tau=TAU), 0, atol=1e-13)


def test_online_dpo_stands_still_at_the_optimum_of_the_reward_and_not_at_the_nash():
    r = np.random.default_rng(4).normal(size=5)
    bradley_terry = 1 / (1 + np.exp(r[None] - r[:, None]))
    best = REFERENCE + r / TAU
    found = _slope(losses.osp, best, REFERENCE, _softmax(best), bradley_terry, beta=TAU)
    np.testing.assert_allclose(found, 0, atol=1e-15)
    nash = _fixed_point(0.0)
    assert np.abs(_slope(losses.osp, nash, REFERENCE, _softmax(nash), GAME, beta=TAU)).max() > 1e-3


@pytest.mark.parametrize("loss", [losses.osp, losses.online_ipo])
def test_a_response_against_itself_has_no_gradient(loss):
    reference = jnp.asarray(REFERENCE)

    def same(logits):
        logps = jax.nn.log_softmax(logits)
        return loss(logps, logps, reference, reference, jnp.full(5, 0.5)).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(same))(jnp.arange(5.0)), 0)


def test_xpo_lowers_what_the_reference_drew():
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.xpo, 8).items()}
    x["pair_preferences"] = jnp.arange(8.0) % 2  # whoever won
    np.testing.assert_array_equal(losses.xpo(**x, alpha=0.0), losses.osp(**x))

    def slopes(alpha):
        @jax.jit
        def total(first, second):
            return losses.xpo(**(x | {"chosen_logps": first, "rejected_logps": second}), alpha=alpha).sum()

        return np.asarray(jax.grad(total, (0, 1))(x["chosen_logps"], x["rejected_logps"]))

    np.testing.assert_allclose(slopes(0.2) - slopes(0.0), [np.zeros(8), np.full(8, 0.2)], atol=1e-12)


def test_dno_has_the_iterate_times_exponentials_of_win_rates():
    r = GAME @ np.exp(REFERENCE)  # against the iterate before, which is the reference
    ones = np.ones((5, 5))
    best = REFERENCE + r / 0.2
    found = _slope(losses.dno, best, REFERENCE, np.full(5, 0.2), r[:, None] * ones, r * ones, beta=0.2)
    np.testing.assert_allclose(found, 0, atol=1e-15)
    x = inputs_for(losses.dno, 6)
    label = jax.nn.sigmoid(x["chosen_scores"] - x["rejected_scores"])
    expected = losses.osp(*(x[n] for n in SIDES), label, beta=0.3)
    np.testing.assert_allclose(losses.dno(**x, beta=0.3), expected, rtol=1e-12)


REWARDS = np.array([1.0, 0.5, 0.0])
START = np.log([0.2, 0.3, 0.5])
LAW = {
    1: ((0.3534, 0.3215, 0.3250), 0.514, 0.084),
    2: ((0.5291, 0.2919, 0.1790), 0.675, 0.323),
    3: (None, 0.800, 0.632),
    5: ((0.8772, 0.1080, 0.0148), 0.931, 1.135),
}


def test_dpo_against_the_behaviour_policy_moves_on_every_phase():
    """BPO: F phases of `dpo`, each held to the policy that began it, end at ref * exp(F r / beta)."""
    wins = 1 / (1 + np.exp(REWARDS[None] - REWARDS[:, None]))
    first, second = _pairs(3)

    @jax.jit
    def slope(free, behaviour):
        def mean(free):
            logps = jax.nn.log_softmax(jnp.append(free, 0.0))
            sides = (logps[first], logps[second], behaviour[first], behaviour[second])
            return (jnp.asarray(wins)[first, second] * losses.dpo(*sides, beta=1.0)).sum()

        return jax.grad(mean)(free)

    policy = START
    for phase in range(1, 6):
        found = root(slope, policy[:2] - policy[2], args=(policy,), tol=1e-13)
        policy = np.log(_softmax(np.append(found.x, 0.0)))
        np.testing.assert_allclose(np.exp(policy), _softmax(START + phase * REWARDS), atol=1e-11)
        if phase in LAW:
            expected, reward, kl = LAW[phase]
            if expected:
                np.testing.assert_allclose(np.exp(policy), expected, atol=6e-5)
            of = np.exp(policy)
            np.testing.assert_allclose([of @ REWARDS, of @ (policy - START)], [reward, kl], atol=6e-4)


def test_online_ipo_against_the_behaviour_policy_is_a_step_of_multiplicative_weights():
    logits = REFERENCE + GAME @ np.exp(REFERENCE) / TAU
    slope = _slope(losses.online_ipo, logits, REFERENCE, np.exp(REFERENCE), GAME, tau=TAU)
    np.testing.assert_allclose(slope, 0, atol=1e-13)
