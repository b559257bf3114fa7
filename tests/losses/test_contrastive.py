"""Contrastive preference learning: loops in numpy, DPO, and what constants, swaps and masks leave alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for, is_float
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.contrastive import discounted_sum


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss, batch=5, seed=0, **more):
    x = inputs_for(loss, batch, seed=seed)
    return {n: jnp.asarray(v, jnp.float64) if is_float(v) else jnp.asarray(v) for n, v in x.items()} | more


def _swapped(x):
    sides = {"chosen": "rejected", "rejected": "chosen"}
    side = {n: next((s for s in sides if s in n), None) for n in x}
    moved = {n.replace(side[n], sides[side[n]]): v for n, v in x.items() if side[n]}
    return moved | {"pair_preferences": 1 - x["pair_preferences"]}


def _looped(x, alpha, bias, discount):
    """The formula step by step, with the exponentials of the paper in place of a softplus."""
    values = []
    for b in range(len(x["pair_preferences"])):
        a = []
        for side in ("chosen", "rejected"):
            steps = int(np.asarray(x[f"{side}_mask"])[b].sum())
            logps = np.asarray(x[f"{side}_token_logps"])[b]
            a.append(sum(alpha * discount**t * logps[t] for t in range(steps)))
        won = [-np.log(np.exp(i) / (np.exp(i) + np.exp(bias * j))) for i, j in (a, a[::-1])]
        p = float(x["pair_preferences"][b])
        values.append(p * won[0] + (1 - p) * won[1])
    return values


@pytest.mark.parametrize(("alpha", "bias", "discount"), [(0.1, 0.5, 1.0), (0.3, 1.0, 0.8), (0.2, 0.75, 0.9)])
def test_the_formula_step_by_step(alpha, bias, discount):
    x = _inputs(losses.cpl)
    settings = {"alpha": alpha, "bias": bias, "discount": discount}
    np.testing.assert_allclose(losses.cpl(**x, **settings), _looped(x, **settings), rtol=1e-12)
    np.testing.assert_allclose(
        losses.cpl_bc(**x, **settings, bc_weight=0), _looped(x, **settings), rtol=1e-12
    )
    zero = {f"reference_{n}": jnp.zeros_like(x[n]) for n in ("chosen_token_logps", "rejected_token_logps")}
    np.testing.assert_allclose(losses.cpl_kl(**x, **zero, **settings), _looped(x, **settings), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_one_step_with_a_reference_is_dpo_exactly(dtype):
    """The same bits, in float32 too, and the same gradients."""
    x = {n: v.astype(dtype) for n, v in _inputs(losses.dpo, batch=64).items()}

    def segments(x):
        ones = jnp.ones((64, 1), bool)
        steps = {n.replace("logps", "token_logps"): v[:, None] for n, v in x.items()}
        labels = {"chosen_mask": ones, "rejected_mask": ones, "pair_preferences": jnp.ones(64, dtype)}
        return losses.cpl_kl(**steps, **labels, alpha=0.3, bias=1.0)

    dpo = partial(losses.dpo, beta=0.3)
    np.testing.assert_array_equal(segments(x), dpo(**x))
    ours, theirs = (jax.grad(lambda x, f=f: f(x).sum())(x) for f in (segments, lambda x: dpo(**x)))
    for name in x:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6 if dtype == jnp.float32 else 1e-14)


def test_many_steps_are_dpo_of_their_sums():
    x = _inputs(losses.cpl_kl, pair_preferences=jnp.ones(5))
    sums = {
        n.replace("token_logps", "logps"): jnp.where(
            x["chosen_mask" if "chosen" in n else "rejected_mask"], v, 0
        ).sum(-1)
        for n, v in x.items()
        if n.endswith("token_logps")
    }
    np.testing.assert_allclose(
        losses.cpl_kl(**x, alpha=0.3, bias=1.0), losses.dpo(**sums, beta=0.3), rtol=1e-13
    )


@pytest.mark.parametrize("loss", [losses.cpl, losses.cpl_bc, losses.cpl_kl])
def test_segments_and_labels_may_be_swapped(loss):
    x = _inputs(loss)
    np.testing.assert_allclose(loss(**_swapped(x)), loss(**x), rtol=1e-13)


def test_a_tie_at_equal_advantages_has_no_slope_only_without_bias():
    x = _inputs(losses.cpl, pair_preferences=jnp.full(5, 0.5))
    x |= {"rejected_token_logps": x["chosen_token_logps"], "rejected_mask": x["chosen_mask"]}

    def slope(bias):
        return jax.grad(lambda v: losses.cpl(**x | {"chosen_token_logps": v}, bias=bias).sum())(
            x["chosen_token_logps"]
        )

    np.testing.assert_allclose(slope(1.0), 0, atol=1e-16)
    assert np.abs(slope(0.5)).max() > 1e-3


def test_a_constant_in_every_step_cancels_only_without_bias():
    """In segments of one length: the released loss of a density has no absolute scale at lambda = 1."""
    x = _inputs(losses.cpl)
    x |= {f"{side}_mask": jnp.ones((5, 6), bool) for side in ("chosen", "rejected")}
    moved = x | {f"{side}_token_logps": x[f"{side}_token_logps"] + 2.0 for side in ("chosen", "rejected")}
    np.testing.assert_allclose(losses.cpl(**moved, bias=1.0), losses.cpl(**x, bias=1.0), rtol=1e-12)
    assert (losses.cpl(**moved, bias=0.5) < losses.cpl(**x, bias=0.5) - 0.01).all()


def test_logits_are_free_of_constants_in_each_state():
    """Through a softmax over actions: log-probs do not see a constant added to a state's logits."""
    rng = np.random.default_rng(0)
    logits, shift = rng.normal(size=(4, 3)), rng.normal(size=(4, 1))
    states, actions = rng.integers(0, 4, (5, 2, 6)), rng.integers(0, 3, (5, 2, 6))
    x = _inputs(losses.cpl)

    def loss(logits):
        steps = jax.nn.log_softmax(jnp.asarray(logits), -1)[states, actions]
        return losses.cpl(**x | {"chosen_token_logps": steps[:, 0], "rejected_token_logps": steps[:, 1]})

    np.testing.assert_allclose(loss(logits + shift), loss(logits), rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.cpl, losses.cpl_bc, losses.cpl_kl])
def test_discounts_are_weights_and_masks_are_shorter_segments(loss):
    x = _inputs(loss)
    sums = partial(discounted_sum, mask=jnp.ones((5, 6), bool), discount=1.0)
    powers = 0.7 ** jnp.arange(6.0)[None]
    steps = x["chosen_token_logps"]
    np.testing.assert_allclose(
        discounted_sum(steps, jnp.ones((5, 6), bool), 0.7), sums(steps * powers), rtol=1e-13
    )
    short = {f"{side}_mask": jnp.broadcast_to(jnp.arange(6) < 4, (5, 6)) for side in ("chosen", "rejected")}
    cut = {n: v[:, :4] if v.ndim == 2 else v for n, v in (x | short).items()}
    garbage = {n: v.at[:, 4:].set(jnp.nan) for n, v in x.items() if n.endswith("token_logps")}
    np.testing.assert_allclose(loss(**x | short | garbage), loss(**cut), rtol=1e-13)


def test_imitation_is_of_all_steps_or_of_the_preferred_segment():
    x = _inputs(losses.cpl_bc, pair_preferences=jnp.array([1.0, 0.0, 0.5, 1.0, 0.0]))
    base = losses.cpl(**x, bias=1.0)
    means = [
        np.array(
            [np.asarray(x[f"{s}_token_logps"])[b][np.asarray(x[f"{s}_mask"])[b]].mean() for b in range(5)]
        )
        for s in ("chosen", "rejected")
    ]
    preferred = np.array(
        [means[0][0], means[1][1], (means[0][2] + means[1][2]) / 2, means[0][3], means[1][4]]
    )
    np.testing.assert_allclose(
        losses.cpl_bc(**x, bc_weight=0.3, preferred_only=True), base - 0.3 * preferred, rtol=1e-12
    )
    counts = [np.asarray(x[f"{s}_mask"]).sum(-1) for s in ("chosen", "rejected")]
    every = (means[0] * counts[0] + means[1] * counts[1]) / (counts[0] + counts[1])
    np.testing.assert_allclose(losses.cpl_bc(**x, bc_weight=0.3), base - 0.3 * every, rtol=1e-12)


def _rank_loop(x, bias):
    a = 0.1 * np.asarray(jnp.where(x["mask"], x["token_logps"], 0).sum(-1)).reshape(-1)
    s, real = np.asarray(x["scores"]).reshape(-1), np.asarray(x["mask"]).any(-1).reshape(-1)
    pairs = [
        np.log1p(np.exp(-(a[i] - bias * a[j])))
        for i in range(len(a))
        for j in range(len(a))
        if s[i] > s[j] and real[i] and real[j]
    ]
    return np.mean(pairs)


@pytest.mark.parametrize("bias", [0.5, 1.0])
def test_the_mean_of_rows_is_the_mean_over_all_pairs_with_different_scores(bias):
    x = _inputs(losses.cpl_rank)
    x["scores"] = jnp.round(x["scores"])  # with ties
    np.testing.assert_allclose(losses.cpl_rank(**x, bias=bias).mean(), _rank_loop(x, bias), rtol=1e-12)
    single = {n: v[:, :1] for n, v in x.items()}
    np.testing.assert_allclose(
        losses.cpl_rank(**single, bias=bias).mean(), _rank_loop(single, bias), rtol=1e-12
    )
    tied = x | {"scores": jnp.ones_like(x["scores"])}
    np.testing.assert_array_equal(losses.cpl_rank(**tied), 0)


def test_pairs_learnt_to_the_last_bit_still_count():
    """Where the released mean leaves a pair out because its loss is exactly 0."""
    logps = jnp.array([0.0, -1e5, -2e5], jnp.float32)[:, None, None]
    x = {"token_logps": logps, "mask": jnp.ones((3, 1, 1), bool), "scores": jnp.array([[2.0], [1.0], [0.0]])}
    lost = x | {"scores": jnp.array([[2.0], [0.0], [1.0]])}  # one of three pairs the wrong way round
    assert float(losses.cpl_rank(**x, bias=1.0).mean()) == 0
    np.testing.assert_allclose(losses.cpl_rank(**lost, bias=1.0).mean(), 1e4 / 3, rtol=1e-6)


def test_two_segments_of_one_row_are_cpl():
    x = _inputs(losses.cpl, batch=1, pair_preferences=jnp.ones(1))
    stacked = {n: jnp.stack([x[f"chosen_{n}"], x[f"rejected_{n}"]], 1) for n in ("token_logps", "mask")}
    ranked = losses.cpl_rank(**stacked, scores=jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(ranked, losses.cpl(**x), rtol=1e-13)


@pytest.mark.parametrize("size", [1e4, 1e5])
def test_large_advantages_are_finite(size):
    x = _inputs(losses.cpl, pair_preferences=jnp.array([0.0, 1.0, 0.5, 1.0, 0.0]))
    sign = jnp.array([1.0, -1.0, 1.0, 1.0, -1.0])[:, None]
    x |= {
        "chosen_token_logps": sign * size * jnp.ones((5, 6)),
        "rejected_token_logps": -sign * size * jnp.ones((5, 6)),
    }
    x = {n: v.astype(jnp.float32) if v.dtype.kind == "f" else v for n, v in x.items()}
    value, slope = jax.value_and_grad(lambda v: losses.cpl(**x | {"chosen_token_logps": v}, alpha=1.0).sum())(
        x["chosen_token_logps"]
    )
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
