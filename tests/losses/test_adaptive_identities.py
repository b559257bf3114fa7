"""Losses that carry state: neutral settings, recursions of the state, gradients with what is held fixed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for, is_float
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.adaptive import BetaDPOState, SPAState, spa_threshold


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss, batch=6, seed=0):
    x = inputs_for(loss, batch, seed=seed) | {"valid": np.ones(batch, bool)}
    return {n: jnp.asarray(v, jnp.float64) if is_float(v) else jnp.asarray(v) for n, v in x.items()}


def _pair(x):
    return {n: x[n] for n in inputs_for(losses.dpo)}


def _ratios(x):
    return tuple(np.asarray(x[f"{s}_logps"] - x[f"reference_{s}_logps"]) for s in ("chosen", "rejected"))


def _sigmoid(h):
    return 1 / (1 + np.exp(-np.asarray(h)))


# beta-DPO


def test_beta_dpo_neutral_is_dpo():
    x = _inputs(losses.beta_dpo)
    values, _ = losses.beta_dpo(**x, state=losses.beta_dpo_state(), beta=0.3, alpha=0.0, filtered=0.0)
    np.testing.assert_allclose(values, losses.dpo(**_pair(x), beta=0.3), rtol=1e-13)


def test_beta_dpo_state_is_a_moving_average_without_correction():
    state, mean, deviation = losses.beta_dpo_state(), 0.0, 0.0
    for seed in range(4):
        x = _inputs(losses.beta_dpo, seed=seed)
        x["valid"] = jnp.array([True, True, False, True, True, True])
        u_w, u_l = _ratios(x)
        d = (u_w - u_l)[np.asarray(x["valid"])]
        _, state = losses.beta_dpo(**x, state=state)
        mean, deviation = 0.9 * mean + 0.1 * d.mean(), 0.9 * deviation + 0.1 * d.std(ddof=1)
        np.testing.assert_allclose(state, (mean, deviation), rtol=1e-12)
    x["valid"] = jnp.zeros(6, bool)
    values, after = losses.beta_dpo(**x, state=state)
    np.testing.assert_array_equal(values, 0)
    assert after == state


def test_beta_dpo_strength_and_scale():
    """beta follows the mean margin of the rows drawn, and the mean over valid rows is the mean over those."""
    x = _inputs(losses.beta_dpo, batch=12)
    x["valid"] = jnp.arange(12) != 5
    state = BetaDPOState(jnp.float64(1.0), jnp.float64(8.0))
    values, new = losses.beta_dpo(**x, state=state, beta=0.1, alpha=0.6)
    u_w, u_l = _ratios(x)
    d, kept = u_w - u_l, np.asarray(values) != 0
    assert kept.sum() == 8, "floor(0.8 * 11)"
    assert not kept[5]
    beta = 0.1 * (1 + 0.6 * (d[kept].mean() - float(new.mean)))
    assert beta > 1e-3
    np.testing.assert_allclose(values[kept], 11 / 8 * np.log1p(np.exp(-beta * d[kept])), rtol=1e-11)
    np.testing.assert_allclose(values.sum() / 11, np.log1p(np.exp(-beta * d[kept])).mean(), rtol=1e-11)
    gradient = jax.grad(lambda c: losses.beta_dpo(**x | {"chosen_logps": c}, state=state)[0].sum())
    expected = np.where(kept, -11 / 8 * beta * _sigmoid(-beta * d), 0)
    np.testing.assert_allclose(gradient(x["chosen_logps"]), expected, rtol=1e-10)


def test_beta_dpo_strength_has_a_floor():
    x = _inputs(losses.beta_dpo)
    state = BetaDPOState(jnp.float64(1e6), jnp.float64(1.0))
    values, _ = losses.beta_dpo(**x, state=state, filtered=0.0)
    np.testing.assert_allclose(values, losses.dpo(**_pair(x), beta=1e-3), rtol=1e-12)


@pytest.mark.parametrize(
    ("filtered", "batch", "count"), [(0.0, 7, 7), (0.2, 7, 5), (0.9, 10, 1), (0.99, 7, 1), (0.5, 1, 1)]
)
def test_beta_dpo_number_of_rows_drawn(filtered, batch, count):
    x = _inputs(losses.beta_dpo, batch)
    values, _ = losses.beta_dpo(**x, state=losses.beta_dpo_state(), filtered=filtered)
    assert (values != 0).sum() == count


def test_beta_dpo_draws_by_gaussian_weights():
    """One row of three is drawn: frequencies are the weights. Two of three: without replacement."""
    d = jnp.array([-1.0, 0.5, 2.0])
    x = {"chosen_logps": d, "valid": jnp.ones(3, bool)}
    x |= {n: jnp.zeros(3) for n in ("rejected_logps", "reference_chosen_logps", "reference_rejected_logps")}
    # momentum near 1: the state stays what it is.
    loss = partial(
        losses.beta_dpo, momentum=1 - 1e-12, state=BetaDPOState(jnp.float64(0.0), jnp.float64(1.5))
    )
    keys = jax.random.split(jax.random.key(1), 8000)

    def frequencies(filtered):
        drawn = jax.jit(jax.vmap(lambda key: loss(**x, key=key, filtered=filtered)[0] != 0))(keys)
        assert len(set(np.asarray(drawn.sum(1)).tolist())) == 1
        return np.asarray(drawn.mean(0))

    w = np.exp(-0.5 * (np.asarray(d) / 1.5) ** 2)
    w /= w.sum()
    np.testing.assert_allclose(frequencies(0.6), w, atol=0.02)
    left = [
        sum(w[i] * w[j] / (1 - w[i]) for i in range(3) for j in range(3) if len({i, j, k}) == 3)
        for k in range(3)
    ]
    np.testing.assert_allclose(frequencies(0.3), 1 - np.array(left), atol=0.02)


def test_beta_dpo_draws_by_the_averages_that_hold_this_batch():
    """From a fresh state, with no momentum: the first draw is by this batch's mean and deviation."""
    d = jnp.array([0.0, 0.0, 0.0, 9.0])
    x = {"chosen_logps": d, "valid": jnp.ones(4, bool)}
    x |= {n: jnp.zeros(4) for n in ("rejected_logps", "reference_chosen_logps", "reference_rejected_logps")}
    step = partial(losses.beta_dpo, **x, state=losses.beta_dpo_state(), momentum=0.0, filtered=0.75)
    drawn = jax.jit(jax.vmap(lambda key: step(key=key)[0] != 0))(jax.random.split(jax.random.key(2), 8000))
    w = np.exp(-0.5 * ((np.asarray(d) - 2.25) / 4.5) ** 2)
    np.testing.assert_allclose(drawn.mean(0), w / w.sum(), atol=0.02)


def test_beta_dpo_without_spread_draws_evenly():
    """Equal margins at the first step: sigma is 0, which must not divide."""
    x = {n: jnp.zeros(4) for n in inputs_for(losses.dpo)} | {"valid": jnp.ones(4, bool)}
    keys = jax.random.split(jax.random.key(0), 2000)
    step = partial(losses.beta_dpo, **x, state=losses.beta_dpo_state(), filtered=0.5)
    values, new = jax.jit(jax.vmap(lambda key: step(key=key)))(keys)
    assert jnp.isfinite(values).all()
    np.testing.assert_array_equal(new.deviation, 0)
    np.testing.assert_allclose((values != 0).mean(0), 0.5, atol=0.05)


def test_beta_dpo_weights_that_all_underflow_still_draw():
    """The first step has a deviation ten times too small: a sampler of probabilities would see zeros."""
    x = _inputs(losses.beta_dpo)
    state = BetaDPOState(jnp.float64(1e5), jnp.float64(1e-6))
    values, _ = losses.beta_dpo(**x, state=state, filtered=0.5)
    assert (values != 0).sum() == 3


# Mixed PO


def test_mixed_po_is_the_sum_of_its_parts():
    x = _inputs(losses.mixed_po)
    u_w, u_l = _ratios(x)
    shift = 0.1 * np.concatenate([u_w, u_l]).mean()
    loss = partial(losses.mixed_po, **x, state=losses.mixed_po_state())
    weights = {"preference_weight": 0.0, "quality_weight": 0.0, "generation_weight": 0.0}
    parts = {
        "preference_weight": losses.dpo(**_pair(x)),
        "quality_weight": losses.bco_pair(**_pair(x), shift=shift),
        "generation_weight": -x["chosen_logps"] / x["chosen_lengths"],
    }
    for name, expected in parts.items():
        np.testing.assert_allclose(loss(**weights | {name: 1.0})[0], expected, rtol=1e-11)
    total = sum(f * v for f, v in zip((0.8, 0.2, 1.0), parts.values(), strict=True))
    np.testing.assert_allclose(loss()[0], total, rtol=1e-12)


def test_mixed_po_shift_is_the_mean_of_all_rewards_so_far():
    state, seen = losses.mixed_po_state(), []
    for seed in range(3):
        x = _inputs(losses.mixed_po, seed=seed)
        x["valid"] = jnp.arange(6) != seed
        u_w, u_l = (0.2 * u[np.asarray(x["valid"])] for u in _ratios(x))
        seen += [*u_w, *u_l]
        _, state = losses.mixed_po(**x, state=state, beta=0.2)
        np.testing.assert_allclose(state, (np.mean(seen), len(seen)), rtol=1e-12)
    x["valid"] = jnp.zeros(6, bool)
    assert losses.mixed_po(**x, state=state)[1] == state


def test_mixed_po_shift_carries_no_gradient():
    x = _inputs(losses.mixed_po)
    only = {"preference_weight": 0.0, "quality_weight": 1.0, "generation_weight": 0.0}
    _, after = losses.mixed_po(**x, state=losses.mixed_po_state())
    for side in ("chosen_logps", "rejected_logps"):
        ours = jax.grad(
            lambda v, s=side: losses.mixed_po(**x | {s: v}, state=losses.mixed_po_state(), **only)[0].sum()
        )
        fixed = jax.grad(
            lambda v, s=side: losses.bco_pair(**_pair(x) | {s: v}, shift=float(after.mean)).sum()
        )
        np.testing.assert_allclose(ours(x[side]), fixed(x[side]), rtol=1e-11)


# SPA


def test_spa_is_dpo_until_it_has_warmed_up():
    x = _inputs(losses.spa)
    full = SPAState(jnp.full(50, 1e9), jnp.int32(60))
    values, _ = losses.spa(**x, state=full, warmup_steps=61)
    np.testing.assert_array_equal(values, losses.dpo(**_pair(x)))
    first, _ = losses.spa(**x, state=losses.spa_state(), warmup_steps=0)
    np.testing.assert_array_equal(first, losses.dpo(**_pair(x)), "an empty ring has no threshold")


def test_spa_smooths_below_the_threshold_only():
    x = _inputs(losses.spa)
    u_w, u_l = _ratios(x)
    margins = 0.3 * (u_w - u_l)
    threshold = float(np.median(margins))
    state = SPAState(jnp.full(50, threshold), jnp.int32(400))
    values, _ = losses.spa(**x, state=state, beta=0.3, label_smoothing=0.2)
    plain = losses.dpo(**_pair(x), beta=0.3)
    smooth = losses.cdpo(**_pair(x), beta=0.3, label_smoothing=0.2)
    np.testing.assert_allclose(values, jnp.where(margins <= threshold, smooth, plain), rtol=1e-12)
    assert 0 < (margins <= threshold).sum() < 6
    all_below = SPAState(jnp.full(50, 1e9), jnp.int32(400))
    np.testing.assert_allclose(
        losses.spa(**x, state=all_below, beta=0.3, label_smoothing=0.2)[0], smooth, rtol=1e-12
    )


def test_spa_threshold():
    margins = np.random.default_rng(0).normal(size=50)
    ordered = np.sort(margins)
    full = SPAState(jnp.asarray(margins), jnp.int32(50))
    np.testing.assert_allclose(spa_threshold(full, 0.1), (ordered[5] + ordered[6]) / 2, rtol=1e-12)
    np.testing.assert_allclose(spa_threshold(full, 0.99), ordered[49], rtol=1e-12)
    part = SPAState(jnp.asarray(margins), jnp.int32(20))
    ordered = np.sort(margins[:20])
    np.testing.assert_allclose(spa_threshold(part, 0.1), (ordered[2] + ordered[3]) / 2, rtol=1e-12)
    one = SPAState(jnp.asarray(margins), jnp.int32(1))
    np.testing.assert_allclose(spa_threshold(one, 0.1), margins[0], rtol=1e-12)
    assert spa_threshold(losses.spa_state()) == -jnp.inf


def test_spa_ring_holds_the_last_means():
    state, means = losses.spa_state(window=3), []
    for seed in range(5):
        x = _inputs(losses.spa, seed=seed)
        x["valid"] = jnp.arange(6) != seed
        u_w, u_l = _ratios(x)
        means.append(0.1 * (u_w - u_l)[np.asarray(x["valid"])].mean())
        _, state = losses.spa(**x, state=state)
        if seed < 3:  # the threshold reads the first slots of a ring that is not full
            np.testing.assert_allclose(state.margins[: seed + 1], means, rtol=1e-12)
    np.testing.assert_allclose(np.sort(state.margins), np.sort(means[-3:]), rtol=1e-12)
    assert state.steps == 5
    x["valid"] = jnp.zeros(6, bool)
    _, after = losses.spa(**x, state=state)
    assert after.steps == 5
    np.testing.assert_array_equal(after.margins, state.margins)


# RE-PO


def test_re_po_gradient_is_that_of_the_mixture_likelihood():
    x = _inputs(losses.re_po)
    eta = jnp.array([0.9, 0.55])
    assert set(np.asarray(x["annotators"]).tolist()) == {0, 1}

    def mixture(chosen):
        h = 0.3 * (
            (chosen - x["reference_chosen_logps"]) - (x["rejected_logps"] - x["reference_rejected_logps"])
        )
        p, e = jax.nn.sigmoid(h), eta[x["annotators"]]
        return -jnp.log(e * p + (1 - e) * (1 - p)).sum()

    ours = jax.grad(lambda c: losses.re_po(**x | {"chosen_logps": c}, state=eta, beta=0.3)[0].sum())
    np.testing.assert_allclose(ours(x["chosen_logps"]), jax.grad(mixture)(x["chosen_logps"]), rtol=1e-10)


def test_re_po_limits_of_the_reliability():
    x = _inputs(losses.re_po)
    sure, after = losses.re_po(**x, state=losses.re_po_state(2, reliability=1.0))
    np.testing.assert_allclose(sure, losses.dpo(**_pair(x)), rtol=1e-13)
    np.testing.assert_array_equal(after, 1)
    half = losses.re_po_state(2, reliability=0.5)
    gradient = jax.grad(lambda c: losses.re_po(**x | {"chosen_logps": c}, state=half)[0].sum())
    np.testing.assert_allclose(gradient(x["chosen_logps"]), 0, atol=1e-16)


def test_re_po_updates_each_annotator_by_the_mean_of_its_own_rows():
    x = _inputs(losses.re_po)
    x["annotators"] = jnp.array([0, 2, 2, 0, 2, 3])
    x["valid"] = jnp.array([True, True, True, False, True, False])
    eta = np.array([0.9, 0.8, 0.6, 0.7])
    values, after = losses.re_po(**x, state=jnp.asarray(eta), beta=0.3, rate=0.2)
    u_w, u_l = _ratios(x)
    p = _sigmoid(0.3 * (u_w - u_l))
    e = eta[np.asarray(x["annotators"])]
    w = p * e / (p * e + (1 - p) * (1 - e))
    expected = [0.8 * 0.9 + 0.2 * w[0], 0.8, 0.8 * 0.6 + 0.2 * w[[1, 2, 4]].mean(), 0.7]
    np.testing.assert_allclose(after, expected, rtol=1e-12)
    by_hand = np.where(x["valid"], -w * np.log(p) - (1 - w) * np.log(1 - p), 0)
    np.testing.assert_allclose(values, by_hand, rtol=1e-11)


@pytest.mark.parametrize("annotator", [-1, 2, 99])
def test_an_unknown_annotator_is_loud(annotator):
    x = _inputs(losses.re_po)
    x["annotators"] = x["annotators"].at[1].set(annotator)
    values, after = losses.re_po(**x, state=losses.re_po_state(2))
    assert jnp.isnan(values[1])
    assert jnp.isfinite(jnp.delete(values, 1)).all()
    assert jnp.isfinite(after).all()
    x["valid"] = x["valid"].at[1].set(False)
    assert jnp.isfinite(losses.re_po(**x, state=losses.re_po_state(2))[0]).all()


def test_re_po_logits_are_differences_of_swapped_losses():
    x = _inputs(losses.re_simpo) | _inputs(losses.re_po) | {"valid": jnp.ones(6, bool)}
    swap = {"chosen": "rejected", "rejected": "chosen"}
    flipped = x | {n.replace(s, swap[s]): x[n] for n in x for s in swap if s in n}
    ones = {"chosen_lengths": jnp.ones(6, int)}
    state = losses.re_po_state(2, reliability=1.0)  # the loss is then softplus(-h)

    def given(loss, x):
        return {n: x[n] for n in inputs_for(loss)}

    cases = (
        (losses.re_po, partial(losses.dpo, beta=0.1), {}),
        (losses.re_ipo, losses.ipo, {}),
        (losses.re_simpo, losses.simpo, {}),
        # One token a response: CPO's likelihood is then the sum.
        (losses.re_cpo, losses.cpo, ones),
    )
    for ours, base, more in cases:
        plain = base.func if isinstance(base, partial) else base
        h = base(**given(plain, flipped | more)) - base(**given(plain, x | more))
        values, _ = ours(**given(ours, x), state=state)
        np.testing.assert_allclose(values, jax.nn.softplus(-h), rtol=1e-9, err_msg=ours.__name__)


def test_re_simpo_without_margin_is_logistic():
    x = _inputs(losses.re_simpo)
    values, _ = losses.re_simpo(**x, state=losses.re_po_state(2, reliability=1.0), gamma_beta_ratio=0.0)
    given = {n: x[n] for n in inputs_for(losses.simpo)}
    np.testing.assert_allclose(values, losses.simpo(**given, gamma_beta_ratio=0.0), rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (losses.re_po_state, {"num_annotators": 0}),
        (losses.re_po_state, {"reliability": 0.0}),
        (losses.re_po_state, {"reliability": 1.1}),
        (losses.spa_state, {"window": 0}),
        (losses.dft_state, {"num_examples": 0}),
    ],
)
def test_bad_states_are_errors(build, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        build(**arguments)
