"""What each pairwise method must obey: its limits, slopes and fixed points, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(seed=0, batch=6):
    """All that a pair offers: log-probs of both sides under both models, and lengths."""
    x = inputs_for(losses.ln_dpo, batch, seed=seed)
    return {n: jnp.asarray(v, None if n.endswith("lengths") else jnp.float64) for n, v in x.items()}


def _ratios(x):
    return tuple(x[f"{side}_logps"] - x[f"reference_{side}_logps"] for side in ("chosen", "rejected"))


def _at(loss, u_w, u_l=0.0):
    """Loss and its slopes at given log-ratios (reference 0, lengths 1)."""
    one = jnp.ones(1)
    fixed = {"reference_chosen_logps": 0 * one, "reference_rejected_logps": 0 * one}
    fixed |= {"chosen_lengths": one, "rejected_lengths": one}

    def value(first, second):
        return bind(loss, fixed | {"chosen_logps": first * one, "rejected_logps": second * one})[0]

    return value(u_w, u_l), *jax.grad(value, (0, 1))(float(u_w), float(u_l))


NEUTRAL = {
    "robust_dpo": (partial(losses.robust_dpo, label_smoothing=0.0), losses.dpo),
    "length_dpo": (partial(losses.length_dpo, alpha=0.0), losses.dpo),
    "dpop": (partial(losses.dpop, beta=0.1, penalty=0.0), losses.dpo),
    "flex_dpo": (losses.flex_dpo, losses.dpo),
    "dpo_sft": (partial(losses.dpo_sft, beta=0.1, sft_weight=0.0), losses.dpo),
    "iterative_rpo": (partial(losses.iterative_rpo, sft_weight=0.0), losses.dpo),
    "chi_po": (partial(losses.chi_po, clip=1e9), losses.chi_po),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_hyper_parameters(name):
    ours, plain = NEUTRAL[name]
    x = _inputs()
    np.testing.assert_allclose(bind(ours, x), bind(plain, x), rtol=1e-12)


def test_unit_lengths_are_sums():
    x = _inputs() | {"chosen_lengths": jnp.ones(6, int), "rejected_lengths": jnp.ones(6, int)}
    np.testing.assert_allclose(bind(partial(losses.ln_dpo, beta=0.1), x), bind(losses.dpo, x), rtol=1e-12)
    same = x | {n: jnp.full(6, 7) for n in ("chosen_lengths", "rejected_lengths")}
    np.testing.assert_allclose(bind(partial(losses.ln_dpo, beta=0.7), same), bind(losses.dpo, x), rtol=1e-12)
    np.testing.assert_allclose(bind(losses.length_dpo, same), bind(losses.dpo, x), rtol=1e-12)


def test_robust_dpo_is_unbiased_under_flips():
    x = _inputs()
    swap = {"chosen": "rejected", "rejected": "chosen"}
    flipped = {n: x[n.replace(side, swap[side])] for n in x for side in swap if side in n}
    loss = partial(losses.robust_dpo, beta=0.4, label_smoothing=0.2)
    mean = 0.8 * bind(loss, x) + 0.2 * bind(loss, flipped)
    np.testing.assert_allclose(mean, bind(partial(losses.dpo, beta=0.4), x), rtol=1e-10)


def test_robust_dpo_keeps_falling():
    value, slope, _ = _at(partial(losses.robust_dpo, beta=1.0, label_smoothing=0.1), 200.0)
    np.testing.assert_allclose([value, slope], [-200 * 0.125, -0.125], rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (losses.forward_kl_dpo, 1.0),
        (losses.js_dpo, 0.5),
        (losses.alpha_dpo, 1.0),
        (losses.chi_po, 2.0),
    ],
)
def test_divergences_near_the_reference(loss, slope):
    _, chosen, rejected = _at(partial(loss, beta=0.3), 0.0)
    np.testing.assert_allclose([chosen, rejected], [-0.15 * slope, 0.15 * slope], rtol=1e-12)


def test_alpha_dpo_lies_between_dpo_and_the_forward_kl():
    x = _inputs()
    small, large = (bind(partial(losses.alpha_dpo, alpha=a), x) for a in (1e-7, 1 - 1e-7))
    np.testing.assert_allclose(small, bind(losses.dpo, x), rtol=1e-5)
    np.testing.assert_allclose(large, bind(losses.forward_kl_dpo, x), rtol=1e-4, atol=1e-9)


def test_chi_po_clips_the_margin():
    loss = partial(losses.chi_po, beta=1.0, clip=2.0)
    value, chosen, rejected = _at(loss, 5.0)
    np.testing.assert_allclose([value, chosen, rejected], [np.log1p(np.exp(-2.0)), 0, 0], atol=1e-12)


def test_hinges():
    value, chosen, _ = _at(partial(losses.rso_hinge, beta=0.5), 2.0)
    assert (value, chosen) == (0, 0), "at the kink, too"
    value, chosen, rejected = _at(partial(losses.rso_hinge, beta=0.5), 1.0)
    np.testing.assert_allclose([value, chosen, rejected], [0.5, -0.5, 0.5])
    value, chosen, rejected = _at(losses.slic_hf, -3.0, -9.0)
    np.testing.assert_allclose([value, chosen, rejected], [0.3, -0.1, 0.0], atol=1e-15)


def test_exo_slope_and_zero():
    e = 0.05
    loss, target = partial(losses.exo, beta=1.0, label_smoothing=e), np.log((1 - e) / e)
    value, slope, _ = _at(loss, target)
    np.testing.assert_allclose([value, slope], [0, 0], atol=1e-14)
    for h in (-30.0, -2.0, 0.0, 1.7):
        sg = 1 / (1 + np.exp(-h))
        np.testing.assert_allclose(_at(loss, h)[1], sg * (1 - sg) * (h - target), rtol=1e-9, atol=1e-14)


def test_discopop_moves_the_wrong_way_at_first():
    loss = partial(losses.discopop, beta=1.0)
    value, slope, _ = _at(loss, 0.0)
    np.testing.assert_allclose(value, np.log(2) / 2 + 0.5)
    np.testing.assert_allclose(slope, (1 - np.log(2)) / 0.2 - 0.75)
    for stationary, curves_up in ((-0.11857, True), (0.0720, False)):
        before, after = (_at(loss, stationary + step)[1] for step in (-1e-3, 1e-3))
        assert (before < 0 < after) == curves_up
        assert (before > 0 > after) != curves_up


def test_orpo_is_the_log_odds_ratio():
    x = {"chosen_logps": jnp.array([-0.7, -6.0]), "rejected_logps": jnp.array([-1.9, -0.02])}
    x |= {"chosen_lengths": jnp.array([1, 4]), "rejected_lengths": jnp.array([2, 1])}
    p, q = np.exp([-0.7, -1.5]), np.exp([-0.95, -0.02])
    ratio = (p / (1 - p)) / (q / (1 - q))
    expected = -np.log(p) + 0.1 * np.log1p(1 / ratio)
    np.testing.assert_allclose(bind(losses.orpo, x), expected, rtol=1e-10)
    certain = jax.grad(lambda c: losses.orpo(c, -jnp.ones(1), jnp.ones(1), jnp.ones(1)).sum())
    assert np.isfinite(certain(jnp.full(1, -1e-7)))


def test_mipo_limits():
    x = _inputs()
    high = x | {"reference_chosen_logps": x["chosen_lengths"] * 500.0}
    high |= {"reference_rejected_logps": jnp.zeros(6)}
    expected = bind(partial(losses.ln_dpo, beta=0.7), high)
    np.testing.assert_allclose(bind(partial(losses.mipo, beta=0.7), high), expected, rtol=1e-12)
    low = high | {"reference_chosen_logps": -high["reference_chosen_logps"]}
    free = bind(partial(losses.simpo, beta=0.7, gamma_beta_ratio=0.0), low)
    np.testing.assert_allclose(bind(partial(losses.mipo, beta=0.7), low), free, rtol=1e-12)


def test_dpop_below_and_above_the_reference():
    x = _inputs()
    x["chosen_logps"] -= 2.0
    u_w, u_l = _ratios(x)
    margin = jnp.where(u_w < 0, 5 * u_w, u_w) - u_l
    expected = jax.nn.softplus(-0.3 * margin)
    np.testing.assert_allclose(bind(partial(losses.dpop, penalty=4.0), x), expected, rtol=1e-12)
    assert (u_w < 0).any()
    assert (u_w > 0).any()


def test_cal_dpo_fixed_point_of_the_calibration():
    value, chosen, rejected = _at(partial(losses.cal_dpo, beta=0.05), 10.0, -10.0)
    np.testing.assert_allclose([value, chosen, rejected], [np.log1p(np.exp(-20.0)), 0, 0], atol=1e-8)


def test_nca_bounds_the_chosen_reward():
    loss = partial(losses.nca, beta=1.0)
    _, chosen, rejected = _at(loss, 0.0)
    np.testing.assert_allclose([chosen, rejected], [-0.25, 0.25])
    assert abs(_at(loss, np.log(2))[1]) < 1e-12


def test_bco_exponential_identity():
    x = _inputs()
    u_w, u_l = _ratios(x)
    shift = 0.37
    ours = jnp.exp(bind(partial(losses.bco_pair, beta=0.2, shift=shift), x))
    parts = jnp.exp(bind(partial(losses.dpo, beta=0.2), x))
    expected = parts + jnp.exp(shift - 0.2 * u_w) + jnp.exp(0.2 * u_l - shift)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_apo_at_the_reference():
    for loss, slopes in ((losses.apo_zero, [-0.1, 0.1]), (losses.apo_down, [0.0, 0.1])):
        value, *given = _at(partial(loss, beta=0.4), 0.0)
        np.testing.assert_allclose([value, *given], [1.0, *slopes], atol=1e-15)
    x = _inputs()
    for loss in (losses.apo_zero, losses.apo_down):
        values = bind(loss, x)
        assert ((values >= 0) & (values <= 2)).all()


def test_sppo_is_ipo_where_ratios_are_opposite():
    for d in (-3.0, 0.5, 40.0):
        ours, _, _ = _at(partial(losses.sppo_hard, beta=0.02), d / 2, -d / 2)
        ipo, _, _ = _at(partial(losses.ipo, tau=0.01), d / 2, -d / 2)
        np.testing.assert_allclose(ours, ipo / 4, rtol=1e-12)


def test_added_likelihood_terms():
    x = _inputs()
    base = bind(partial(losses.dpo, beta=0.1), x)
    added = bind(partial(losses.dpo_sft, beta=0.1, sft_weight=0.3), x) - base
    np.testing.assert_allclose(added, -0.03 * x["chosen_logps"], rtol=1e-8)
    added = bind(partial(losses.iterative_rpo, sft_weight=0.3), x) - base
    np.testing.assert_allclose(added, -0.3 * x["chosen_logps"] / x["chosen_lengths"], rtol=1e-8)
    cpo = bind(partial(losses.cpo, sft_weight=0.0), x)
    free = x | {n: jnp.zeros(6) for n in ("reference_chosen_logps", "reference_rejected_logps")}
    np.testing.assert_allclose(cpo, bind(losses.dpo, free), rtol=1e-12)


def test_flex_dpo_with_a_likelihood_is_dpo_sft():
    x = _inputs()
    expected = bind(partial(losses.dpo_sft, beta=0.1, sft_weight=0.3), x)
    np.testing.assert_allclose(bind(partial(losses.flex_dpo, sft_weight=0.03), x), expected, rtol=1e-12)


def test_flex_dpo_strengths():
    _, chosen, rejected = _at(partial(losses.flex_dpo, beta_chosen=0.3, beta_rejected=0.1), 0.0)
    np.testing.assert_allclose([chosen, rejected], [-0.15, 0.05])


def test_alpha_po():
    x = _inputs()
    limit = bind(partial(losses.alpha_po, alpha=1e-7), x)
    np.testing.assert_allclose(limit, bind(losses.simpo, x), rtol=1e-5)
    # dL/da_w = -beta sigmoid(-h) exp(-alpha a_w), for either sign of alpha.
    for alpha in (0.5, -0.5):
        loss = partial(losses.alpha_po, alpha=alpha, gamma_beta_ratio=0.0)
        value, slope, _ = _at(loss, -1.5, -2.0)
        np.testing.assert_allclose(slope, -2.0 * -np.expm1(-value) * np.exp(1.5 * alpha), rtol=1e-12)
