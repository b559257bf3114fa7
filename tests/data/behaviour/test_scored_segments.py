"""Scored segments: the better half, and pairs that are asked once."""

import dataclasses
import functools

import numpy as np
import pytest

from jaxpref.data import SegmentRecords
from jaxpref.data.behaviour.scored_segments import better_half, one_off_pairs
from jaxpref.data.cache import cached_segments

N = 40


def _records(scores):
    return SegmentRecords(
        np.arange(len(scores), dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 3, 1), np.float32),
        np.zeros((len(scores), 1, 3, 1), np.float32),
        1 + np.arange(len(scores))[:, None] % 3,
        columns={"scores": np.asarray(scores, np.float32)[:, None]},
    )


def test_the_better_half_is_above_the_median():
    scores = np.random.default_rng(0).normal(size=N)
    kept = better_half(_records(scores)).observations[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(kept, np.flatnonzero(scores > np.median(scores)))
    assert len(kept) == N // 2


def test_pairs_put_the_better_segment_first():
    scores = np.repeat(np.arange(N // 2), 2)[np.random.default_rng(0).permutation(N)]
    pairs = one_off_pairs(_records(scores), per_segment=4, seed=1)
    assert 2 * N - 4 <= len(pairs) <= 2 * N
    rows = pairs.observations[:, :, 0, 0].astype(int)
    assert (rows[:, 0] != rows[:, 1]).all()
    first, second = scores[rows[:, 0]], scores[rows[:, 1]]
    assert (first >= second).all()
    np.testing.assert_array_equal(pairs.preferences[:, 0, 1], np.where(first == second, 0.5, 1.0))
    np.testing.assert_array_equal(pairs.step_lengths, 1 + rows % 3)
    assert (np.bincount(rows.reshape(-1), minlength=N) >= 2).all()
    other = one_off_pairs(_records(scores), per_segment=4, seed=2)
    assert not np.array_equal(other.observations[:5], pairs.observations[:5])


def test_what_has_no_scores_is_named():
    with pytest.raises(ValueError, match="the column scores"):
        better_half(SegmentRecords(np.zeros((2, 1, 3)), np.zeros((2, 1, 3)), np.ones((2, 1), int)))
    with pytest.raises(ValueError, match="2 segments or more"):
        one_off_pairs(_records([1.0]))
    for scores, said in (
        ([1.0, np.nan], "row 1: score nan is not finite"),
        ([np.inf, 0.0], "row 0: score inf"),
    ):
        for make in (better_half, one_off_pairs):
            with pytest.raises(ValueError, match=said):
                make(_records(scores))
    with pytest.raises(ValueError, match=r"expected numbers \[2, 1\] in the column scores, got .*\(2,\)"):
        better_half(dataclasses.replace(_records([1.0, 2.0]), columns={"scores": np.ones(2)}))


STEP = 1


def _rising(*, count):
    return _records(STEP * np.arange(count))


def _falling(*, count):
    return _records(np.arange(count, 0, -1))


def test_segments_are_collected_once(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path))
    one = {"simulator": "1.0"}

    def collected(make, versions):
        """Scores, and how many files came."""
        before = len(list(tmp_path.rglob("*.npz")))
        records = cached_segments("world", make, versions=versions)
        return records.columns["scores"].ravel().tolist(), len(list(tmp_path.rglob("*.npz"))) - before

    for times in (1, 0):
        assert collected(functools.partial(_rising, count=3), one) == ([0, 1, 2], times)
    for times in (1, 0):
        assert collected(functools.partial(_rising, count=4), one) == ([0, 1, 2, 3], times), "other arguments"
        assert collected(functools.partial(_falling, count=3), one) == ([3, 2, 1], times), "another function"
        assert collected(functools.partial(_rising, count=3), {"simulator": "1.1"})[1] == times
    monkeypatch.setattr(f"{__name__}.STEP", 2)
    for times in (1, 0):
        assert collected(functools.partial(_rising, count=3), one) == ([0, 2, 4], times), "what it reads"
