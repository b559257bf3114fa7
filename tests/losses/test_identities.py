"""Identities and limits that the formulas must obey, by method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for

from jaxpref import losses


def _pair(seed: int = 0, batch: int = 6) -> dict[str, jax.Array]:
    return {n: jnp.asarray(v, jnp.float32) for n, v in inputs_for(losses.dpo, batch, seed=seed).items()}


def _swap(x):
    flip = {"chosen": "rejected", "rejected": "chosen"}
    return {n.replace(w, flip[w]): v for n, v in x.items() for w in flip if w in n}


def _margins(x):
    return (x["chosen_logps"] - x["reference_chosen_logps"]) - (
        x["rejected_logps"] - x["reference_rejected_logps"]
    )


def test_dpo_antisymmetry():
    x = _pair()
    difference = losses.dpo(**x, beta=0.3) - losses.dpo(**_swap(x), beta=0.3)
    np.testing.assert_allclose(difference, -0.3 * _margins(x), rtol=1e-5, atol=1e-5)


def test_dpo_gradient_at_the_reference_is_half_beta():
    x = _pair()
    x |= {"chosen_logps": x["reference_chosen_logps"], "rejected_logps": x["reference_rejected_logps"]}
    gradient = jax.grad(lambda x: losses.dpo(**x, beta=0.3).sum())(x)
    np.testing.assert_allclose(gradient["chosen_logps"], -0.15, rtol=1e-6)
    np.testing.assert_allclose(gradient["rejected_logps"], 0.15, rtol=1e-6)
    np.testing.assert_array_equal(losses.dpo(**x), np.float32(np.log(2)))


@pytest.mark.parametrize("loss", [losses.dpo, losses.cdpo, losses.ipo])
def test_invariant_to_prompt_constants(loss):
    x = _pair()
    shift = jnp.linspace(-4, 4, 6)
    moved = x | {n: x[n] + shift for n in ("chosen_logps", "rejected_logps")}
    np.testing.assert_allclose(loss(**moved), loss(**x), rtol=1e-4, atol=1e-4)


def test_cdpo_limits():
    x = _pair()
    np.testing.assert_array_equal(losses.cdpo(**x, label_smoothing=0.0), losses.dpo(**x))
    mixed = 0.8 * losses.dpo(**x, beta=0.5) + 0.2 * losses.dpo(**_swap(x), beta=0.5)
    np.testing.assert_allclose(losses.cdpo(**x, beta=0.5, label_smoothing=0.2), mixed, rtol=1e-5)


def test_cdpo_is_stationary_at_the_logit_of_its_label():
    zero = jnp.zeros(1)

    def slope(h):
        return jax.grad(lambda c: losses.cdpo(c, zero, zero, zero, beta=1.0, label_smoothing=0.1)[0])(h)[0]

    np.testing.assert_allclose(slope(jnp.full(1, np.log(9.0))), 0, atol=1e-7)
    assert slope(jnp.full(1, np.log(9.0) + 0.5)) > 0 > slope(jnp.full(1, np.log(9.0) - 0.5))


def test_ipo_minimum_and_slope():
    zero, target = jnp.zeros(1), jnp.full(1, 1 / (2 * 0.25))
    assert losses.ipo(target, zero, zero, zero, tau=0.25)[0] == 0
    np.testing.assert_allclose(losses.ipo(zero, zero, zero, zero, tau=0.25), 1 / (4 * 0.25**2))
    slope = jax.grad(lambda c: losses.ipo(c, zero, zero, zero, tau=0.25)[0])
    np.testing.assert_allclose(slope(zero), -1 / 0.25)
    assert slope(target + 1)[0] > 0, "past the target the gradient turns back, unlike DPO"


def test_ipo_mean_is_ipo_on_averages():
    x = _pair()
    lengths = {"chosen_lengths": jnp.arange(1, 7), "rejected_lengths": jnp.arange(7, 1, -1)}
    averaged = {
        n: v / lengths["chosen_lengths" if "chosen" in n else "rejected_lengths"] for n, v in x.items()
    }
    np.testing.assert_allclose(losses.ipo_mean(**x, **lengths), losses.ipo(**averaged), rtol=1e-5)
    ones = {n: jnp.ones(6, int) for n in lengths}
    np.testing.assert_allclose(losses.ipo_mean(**x, **ones), losses.ipo(**x), rtol=1e-6)


def test_simpo_margin():
    chosen, rejected = jnp.array([-6.0]), jnp.array([-12.0])
    lengths = {"chosen_lengths": jnp.array([4]), "rejected_lengths": jnp.array([6])}
    # Averages -1.5 and -2 differ by 0.5: with that ratio the margin is 0.
    at_zero = losses.simpo(chosen, rejected, **lengths, beta=3.0, gamma_beta_ratio=0.5)
    np.testing.assert_allclose(at_zero, np.log(2), rtol=1e-6)
    plain = losses.simpo(chosen, rejected, **lengths, beta=3.0, gamma_beta_ratio=0.0)
    np.testing.assert_allclose(plain, np.log1p(np.exp(-1.5)), rtol=1e-6)


def test_simpo_ignores_repeating_a_response():
    chosen, rejected = jnp.array([-6.0]), jnp.array([-12.0])
    once = losses.simpo(chosen, rejected, jnp.array([4]), jnp.array([6]))
    twice = losses.simpo(2 * chosen, 2 * rejected, jnp.array([8]), jnp.array([12]))
    np.testing.assert_allclose(once, twice, rtol=1e-6)


def test_bradley_terry():
    chosen, rejected = jnp.array([0.3, -1.0]), jnp.array([0.1, 2.0])
    np.testing.assert_allclose(
        losses.bradley_terry(chosen + 5, rejected + 5), losses.bradley_terry(chosen, rejected), rtol=1e-5
    )
    gradients = jax.grad(lambda c, r: losses.bradley_terry(c, r).sum(), (0, 1))(chosen, rejected)
    np.testing.assert_allclose(gradients[0], -jax.nn.sigmoid(rejected - chosen), rtol=1e-6)
    np.testing.assert_allclose(gradients[0] + gradients[1], 0, atol=1e-7)
    np.testing.assert_allclose(losses.bradley_terry(jnp.ones(1), jnp.zeros(1), margin=1.0), np.log(2))


def test_bradley_terry_is_dpo_on_implicit_rewards():
    x = _pair()
    rewards = [0.4 * (x[f"{w}_logps"] - x[f"reference_{w}_logps"]) for w in ("chosen", "rejected")]
    np.testing.assert_allclose(losses.bradley_terry(*rewards), losses.dpo(**x, beta=0.4), rtol=1e-4)


def test_bradley_terry_fits_stigler_journal_citations():
    """Maximum likelihood on the citation counts of four journals (Stigler 1994, Statistical Science 9(1))."""
    wins = np.array([[0, 730, 498, 221], [33, 0, 68, 17], [320, 813, 0, 142], [284, 276, 325, 0]])
    i, j = np.nonzero(wins)

    def negative_log_likelihood(free):
        scores = jnp.concatenate([jnp.zeros(1), free])
        return (losses.bradley_terry(scores[i], scores[j]) * wins[i, j]).sum()

    slopes = jax.jit(
        lambda x: (jax.hessian(negative_log_likelihood)(x), jax.grad(negative_log_likelihood)(x))
    )
    free = np.zeros(3, np.float32)
    for _ in range(20):
        free = free - np.linalg.solve(*slopes(free))
    np.testing.assert_allclose(free, [-2.9491, -0.4796, 0.2690], atol=2e-4)


def test_sft_is_the_negative_log_likelihood():
    np.testing.assert_array_equal(losses.sft(jnp.array([-3.0, 0.0])), [3.0, 0.0])
