"""Token-level and step-level guidance: aggregates by hand, rankings by enumeration, segments by hand."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses import guidance


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _close(ours, expected, rtol=1e-11):
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=1e-13)


def _lists(seed=0, k=4):
    x = inputs_for(losses.token_reward_list_mle, batch=6, seed=seed)
    x = {n: v if n == "key" else jnp.asarray(v) for n, v in x.items()}
    return {n: v if n == "key" else v[:, :k] for n, v in x.items()}


def test_aggregates_by_hand():
    x = _lists()
    rewards, mask, where = (np.asarray(x[n]) for n in ("token_rewards", "mask", "where"))
    for mode, f in {
        "sum": None,
        "mean": np.mean,
        "max": lambda r: 2.0 * np.log(np.exp(r / 2.0).sum()),
        "min": lambda r: -2.0 * np.log(np.exp(-r / 2.0).sum()),
    }.items():
        ours = guidance.aggregate(x["token_rewards"], x["mask"], x["where"], mode=mode)
        for i in range(6):
            length = np.mean([mask[i, j].sum() for j in range(4) if where[i, j]])
            for j in range(4):
                r = rewards[i, j][mask[i, j]]
                _close(ours[i, j], r.sum() if f is None else length * f(r))


def test_soft_extremes_are_extremes_when_cold_and_finite_for_no_token():
    r = jnp.array([[0.3, 2.0, -1.0, 9.0]])
    mask = jnp.array([[True, True, True, False]])
    _close(guidance.soft_max(r, mask, 1e-3), [2.0])
    _close(guidance.soft_min(r, mask, 1e-3), [-1.0])
    none = jnp.zeros((1, 4), bool)
    for f in (guidance.soft_max, guidance.soft_min):
        assert f(r, none, 2.0) == 0
        np.testing.assert_array_equal(jax.grad(lambda x, f=f: f(x, none, 2.0).sum())(r), 0)


def test_equal_lengths_make_mean_and_sum_one():
    x = _lists()
    mask, where = jnp.ones_like(x["mask"]), jnp.ones_like(x["where"])
    mean, total = (guidance.aggregate(x["token_rewards"], mask, where, mode=m) for m in ("mean", "sum"))
    _close(mean, total)


@pytest.mark.parametrize("mode", ["mean", "max", "min", "sum"])
def test_two_responses_are_bradley_terry(mode):
    x = _lists(k=2) | {"where": jnp.ones((6, 2), bool)}
    totals = guidance.aggregate(x["token_rewards"], x["mask"], x["where"], mode=mode)
    best = (x["scores"][:, 1] > x["scores"][:, 0]).astype(int)
    rows = jnp.arange(6)
    expected = losses.bradley_terry(totals[rows, best], totals[rows, 1 - best])
    _close(losses.token_reward_list_mle(**x, mode=mode), expected)


def test_probabilities_of_all_rankings_add_up_to_one():
    x = _lists() | {"where": jnp.ones((6, 4), bool)}
    total = 0
    for ranking in itertools.permutations(range(4)):
        scores = jnp.broadcast_to(jnp.array(ranking, float), (6, 4))
        total = total + jnp.exp(-losses.token_reward_list_mle(**(x | {"scores": scores}), mode="sum"))
    _close(total, np.ones(6))


def test_what_does_not_exist_has_no_influence():
    x = _lists() | {"where": jnp.arange(4)[None] < jnp.array([[0], [1], [2], [3], [3], [4]])}
    ours = losses.token_reward_list_mle(**x)
    np.testing.assert_array_equal(ours[:2], 0)
    short = {n: x[n][3:5, :3] for n in ("token_rewards", "mask", "scores", "where")}
    _close(ours[3:5], losses.token_reward_list_mle(**short, key=x["key"]))
    gone = ~x["where"]
    broken = x | {
        "token_rewards": jnp.where(gone[..., None] | ~x["mask"], jnp.nan, x["token_rewards"]),
        "scores": jnp.where(gone, jnp.nan, x["scores"]),
    }
    _close(losses.token_reward_list_mle(**broken), ours)
    g = jax.grad(lambda r: losses.token_reward_list_mle(**(broken | {"token_rewards": r})).sum())(
        broken["token_rewards"]
    )
    assert jnp.isfinite(g).all()
    np.testing.assert_array_equal(g[gone], 0)


def test_ties_are_ordered_by_a_draw():
    """Every row by its own draw, and both orders come up."""
    x = _lists(k=2) | {"where": jnp.ones((6, 2), bool), "scores": jnp.zeros((6, 2))}
    draws = jnp.stack([losses.token_reward_list_mle(**(x | {"key": jax.random.key(i)})) for i in range(40)])
    orders = jnp.stack(
        [
            losses.token_reward_list_mle(**(x | {"scores": jnp.broadcast_to(jnp.array(s), (6, 2))}))
            for s in ([[0.0, 1.0]], [[1.0, 0.0]])
        ]
    )
    draws, orders = np.asarray(draws), np.asarray(orders)
    first = np.abs(draws - orders[0]) < 1e-9
    assert (first | (np.abs(draws - orders[1]) < 1e-9)).all()
    share = first.mean(0)
    assert ((share > 0.2) & (share < 0.8)).all()
    assert (first != first[:, :1]).any(), "rows must not share one permutation"


def test_token_guided_sft():
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.token_guided_sft, batch=6).items()}
    r, mask = x["token_rewards"], x["mask"]
    expected = [
        -(np.asarray(r[i] * x["token_logps"][i])[np.asarray(mask[i])]).sum() / np.asarray(r[i][mask[i]]).sum()
        for i in range(6)
    ]
    _close(losses.token_guided_sft(**x), expected)
    _close(losses.token_guided_sft(**(x | {"token_rewards": 7 * r})), expected)
    equal = losses.token_guided_sft(**(x | {"token_rewards": jnp.full_like(r, 0.3)}))
    total = jnp.where(mask, x["token_logps"], 0).sum(-1)
    _close(equal, losses.sft(total) / mask.sum(-1))
    broken = x | {n: jnp.where(mask, x[n], jnp.nan) for n in ("token_logps", "token_rewards")}
    _close(losses.token_guided_sft(**broken), expected)
    g = jax.grad(lambda p: losses.token_guided_sft(**(broken | {"token_logps": p})).sum())
    assert jnp.isfinite(g(broken["token_logps"])).all()
    for nothing in ({"token_rewards": 0 * r}, {"mask": jnp.zeros_like(mask)}):
        np.testing.assert_array_equal(losses.token_guided_sft(**(x | nothing)), 0)


def _segments(seed=0):
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.step_dpo, batch=6, seed=seed).items()}
    sums = {n.replace("token_logps", "logps"): v.sum(-1) for n, v in x.items() if n.endswith("token_logps")}
    return x, sums


def test_step_dpo_of_the_whole_response_is_dpo():
    x, sums = _segments()
    whole = {n: jnp.ones((6, 6), bool) for n in x if n.endswith("mask")}
    _close(losses.step_dpo(**(x | whole)), losses.dpo(**sums))


def test_a_prefix_carries_nothing():
    x, _ = _segments()
    last = {n: jnp.broadcast_to(jnp.arange(6) >= 4, (6, 6)) for n in x if n.endswith("mask")}
    x |= last
    tail = {n.replace("token_logps", "logps"): v[:, 4:].sum(-1) for n, v in x.items() if "logps" in n}
    _close(losses.step_dpo(**x), losses.dpo(**tail))
    changed = x | {"chosen_token_logps": x["chosen_token_logps"].at[:, :4].set(jnp.nan)}
    _close(losses.step_dpo(**changed), losses.step_dpo(**x))
    g = jax.grad(lambda p: losses.step_dpo(**(x | {"rejected_token_logps": p})).sum())
    np.testing.assert_array_equal(g(x["rejected_token_logps"])[:, :4], 0)
    assert (g(x["rejected_token_logps"])[:, 4:] > 0).all()


def test_steps_by_hand():
    x, _ = _segments()
    values, mask = x["chosen_token_logps"], x["chosen_segment_mask"]
    steps = jnp.asarray(np.random.default_rng(0).integers(0, 4, (6, 6)))
    for mean in (False, True):
        ours = guidance.step_pool(values, steps, mask, num_steps=3, mean=mean)
        assert ours.shape == (6, 3)
        for i, s in itertools.product(range(6), range(3)):
            of_step = np.asarray(values[i])[np.asarray((steps[i] == s) & mask[i])]
            _close(ours[i, s], (of_step.mean() if mean and of_step.size else of_step.sum()))
    kept = jnp.where(mask & (steps < 3), values, 0).sum(-1)
    _close(guidance.step_pool(values, steps, mask, num_steps=3).sum(-1), kept)


def test_bad_mode():
    x = _lists()
    with pytest.raises(ValueError, match="mode"):
        partial(losses.token_reward_list_mle, mode="median")(**x)
