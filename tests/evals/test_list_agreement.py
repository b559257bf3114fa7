"""Rewards of lists against their scores: every list of three with ties, against scipy and by counting."""

from itertools import combinations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpref.data.records import Example, Records
from jaxpref.evals import Context, list_agreement, reward_accuracy
from jaxpref.evals.intervals import clustered, share
from jaxpref.policies.tabular import tabular

VALUES = np.array(list(product((0.0, 1.0, 2.0), repeat=3)))
SCORES, REWARDS = np.repeat(VALUES, 27, 0), np.tile(VALUES, (27, 1))  # all pairs of two lists


def table(scores, present=None, group=None) -> Records:
    present = np.ones(scores.shape, bool) if present is None else present
    lengths = np.where(present, 1 + np.arange(scores.shape[1]), 0)
    groups = np.arange(len(scores)) if group is None else group
    rows = [Example([1], [[1] * n for n in row], int(g)) for row, g in zip(lengths, groups, strict=True)]
    return Records.from_examples(rows, {"vocab_size": 4}).with_column("scores", scores.astype(np.float32))


def measured(evaluator, records, rewards):
    given = jnp.asarray(rewards)
    context = Context(
        policy=tabular(prompts=2, vocab=4),
        params={},
        tokenizer=None,
        seed=0,
        rewards=lambda batch: given[batch.columns["example_ids"]],
        put=lambda batch: jax.tree.map(jnp.asarray, batch),
        fetch=jax.device_get,
    )
    return evaluator(context, records=lambda: records, batch_size=100).metrics


def counted(scores, rewards):
    """Concordant and discordant pairs by hand, and agreement about the best when ties are drawn."""
    signs = [
        (np.sign(scores[i] - scores[j]), np.sign(rewards[i] - rewards[j]))
        for i, j in combinations(range(len(scores)), 2)
    ]
    first = [i for i in range(len(scores)) if rewards[i] == max(rewards)]
    best = [i for i in range(len(scores)) if scores[i] == max(scores)]
    a, b = (sum(abs(s) for s in side) for side in zip(*signs, strict=True))
    tau = sum(s * r for s, r in signs) / np.sqrt(a * b) if a * b else 0.0
    right = [(r > 0) == (s > 0) if r else 0.5 for s, r in signs if s]
    return tau, len({*first} & {*best}) / len(first), len(best) / len(scores), sum(right), len(right)


def test_every_list_of_three_against_scipy_and_by_counting():
    ordered = np.ptp(SCORES, axis=1) > 0
    tau, top, chance, right, pairs = np.transpose(
        [counted(s, r) for s, r in zip(SCORES[ordered], REWARDS[ordered], strict=True)]
    )
    known = [stats.kendalltau(s, r)[0] for s, r in zip(SCORES[ordered], REWARDS[ordered], strict=True)]
    np.testing.assert_allclose(tau, np.nan_to_num(known), atol=1e-12)  # scipy's is NaN for equal rewards
    # One list at a time, so that no two mistakes cancel in the mean.
    for i in np.random.default_rng(0).choice(ordered.sum(), 40, replace=False):
        found = measured(list_agreement, table(SCORES[ordered][[i]]), REWARDS[ordered][[i]])
        means = [found[n].mean for n in ("Kendall tau-b", "top-1 agreement", "top-1 at chance")]
        assert means == pytest.approx([tau[i], top[i], chance[i]], abs=1e-6)
    found = measured(list_agreement, table(SCORES), REWARDS)
    assert found["Kendall tau-b"].mean == pytest.approx(tau.mean(), abs=1e-6)
    assert found["Kendall tau-b"].count == ordered.sum(), "scores that are all equal rank nothing"
    assert found["top-1 agreement"].mean == pytest.approx(top.mean())
    assert found["top-1 at chance"].mean == pytest.approx(chance.mean())
    accuracy = measured(reward_accuracy, table(SCORES), REWARDS)["reward accuracy"]
    assert accuracy.mean == pytest.approx(right.sum() / pairs.sum())
    assert accuracy.count == ordered.sum()


def test_absent_responses_are_left_out_whatever_their_rewards():
    """Lists of four of which two or more are there: the same numbers as of the shorter lists."""
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 4, (60, 4)).astype(float)
    rewards = rng.normal(size=(60, 4)).round()
    present = np.array([rng.permutation([True, True, i % 3 > 0, i % 3 > 1]) for i in range(60)])
    hidden = np.where(present, rewards, np.where(rng.random((60, 4)) < 0.5, 99.0, np.nan))
    kept = [i for i in range(60) if np.ptp(scores[i][present[i]]) > 0]
    rows = [counted(scores[i][present[i]], rewards[i][present[i]]) for i in kept]
    tau, top, chance, right, pairs = np.transpose(rows)
    group = np.arange(60) // 2
    records = table(np.where(present, scores, 7.0), present, group)  # a score where nothing is
    found = measured(list_agreement, records, hidden)
    wanted = clustered(tau, group[kept])
    assert found["Kendall tau-b"].low == pytest.approx(wanted.low, abs=1e-6)
    assert (found["Kendall tau-b"].count, found["Kendall tau-b"].clusters) == (len(kept), wanted.clusters)
    assert found["top-1 agreement"].high == pytest.approx(share(top, group[kept]).high, abs=1e-6)
    assert found["top-1 at chance"].mean == pytest.approx(chance.mean())
    accuracy = measured(reward_accuracy, records, hidden)
    assert accuracy["reward accuracy"].mean == pytest.approx(right.sum() / pairs.sum())
    assert np.isfinite(accuracy["reward margin"].mean)


def test_chance_in_lists_of_one_length_is_known():
    scores = np.tile([3.0, 2.0, 1.0, 0.0], (100, 1))
    found = measured(list_agreement, table(scores), np.zeros((100, 4)))
    assert str(found["top-1 at chance"]) == "0.250 (exact, n=100)"
    assert not found["top-1 at chance"].better


def test_a_pair_with_an_absent_response_is_no_pair():
    present = np.array([[True, True], [True, False], [False, True], [True, True]])
    rewards = np.array([[1.0, 0.0], [5.0, np.nan], [np.nan, 5.0], [0.0, 1.0]])
    accuracy = measured(reward_accuracy, table(np.zeros((4, 2)), present), rewards)["reward accuracy"]
    assert (accuracy.mean, accuracy.count) == (0.5, 2)


def test_lists_without_scores_are_refused():
    records = table(SCORES[:3])
    bare = Records(**{**vars(records), "columns": {}})
    with pytest.raises(ValueError, match="needs a column scores"):
        measured(list_agreement, bare, REWARDS[:3])


def test_the_longer_response_is_longer_before_it_was_cut():
    """Of 9 and 3, 5 and 8, 4 and 2 tokens the first is longer twice; cut to 4, 5 and 8 are a tie."""
    full = [[9, 3], [5, 8], [4, 2]]
    rows = [
        Example([1], [[1] * min(n, 4) for n in pair], i, full_lengths=pair) for i, pair in enumerate(full)
    ]
    records = Records.from_examples(rows, {"vocab_size": 4})
    found = measured(reward_accuracy, records, np.zeros((3, 2)))
    assert found["longer-response baseline"].mean == pytest.approx(2 / 3)
    whole = measured(reward_accuracy, Records(**{**vars(records), "columns": {}}), np.zeros((3, 2)))
    assert whole["longer-response baseline"].mean == pytest.approx((1 + 0.5 + 1) / 3)
