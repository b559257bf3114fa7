"""Pairs out of ranked demonstrations: who is first, what is cut, what is drawn."""

import dataclasses

import numpy as np
import pytest

from jaxpref.data import SegmentRecords
from jaxpref.data.behaviour.rankings import ranked_pairs


def rank(which, lengths=(6, 4), room=6):
    """State 100 rank + 10 row + step: a step says where it is from."""
    n = len(lengths)
    states = 100 * which + 10 * np.arange(n)[:, None, None] + np.arange(room)
    return SegmentRecords(states, states % 3, np.array(lengths)[:, None])


def test_the_better_rank_is_first_and_pieces_are_stretches():
    """Out of three ranks: every two meet, every row and every place is drawn, nothing of the padding."""
    ranks = [rank(0), rank(1), rank(2, (6,))]
    pairs = ranked_pairs(ranks, num_pairs=2000, piece=3)
    assert pairs.observations.shape == (2000, 2, 3)
    assert (pairs.step_lengths == 3).all()
    came = pairs.observations // 100
    assert (came == came[..., :1]).all()
    assert (came[:, 0] > came[:, 1]).all()
    meetings, counts = np.unique(came[..., 0], axis=0, return_counts=True)
    assert meetings.tolist() == [[1, 0], [2, 0], [2, 1]]
    np.testing.assert_allclose(counts / 2000, 1 / 3, atol=0.05)
    np.testing.assert_array_equal(np.diff(pairs.observations, axis=-1), 1)
    np.testing.assert_array_equal(pairs.actions, pairs.observations % 3)
    row, step = pairs.observations // 10 % 10, pairs.observations % 10
    assert set(step[..., 0][row[..., 0] == 0]) == {0, 1, 2, 3}
    assert set(step[..., 0][row[..., 0] == 1]) == {0, 1}
    again = ranked_pairs(ranks, num_pairs=2000, piece=3)
    np.testing.assert_array_equal(again.observations, pairs.observations)


def test_whole_demonstrations_keep_their_lengths():
    pairs = ranked_pairs([rank(0), rank(1)], num_pairs=50)
    row = pairs.observations[..., 0] // 10 % 10
    np.testing.assert_array_equal(pairs.step_lengths, np.where(row == 0, 6, 4))
    assert (pairs.observations[..., 0] % 10 == 0).all()
    short = ranked_pairs([rank(0, (2,)), rank(1)], num_pairs=20, piece=5)
    np.testing.assert_array_equal(short.step_lengths[:, 1], 2)


def as_vectors(records):
    """The same with actions as numbers with a fraction, which whole ones would become beside them."""
    return dataclasses.replace(records, actions=records.actions.astype(np.float32))


@pytest.mark.parametrize(
    ("ranks", "arguments", "message"),
    [
        ([rank(0)], {}, "two ranks or more"),
        ([rank(0), rank(1, room=7)], {}, r"one padded length .* rank 1 with \(.*7"),
        ([rank(0), as_vectors(rank(1))], {}, "one kind of observations and actions, got 2, rank 1 with"),
        ([rank(0), rank(1)], {"piece": 0}, "piece of 1 or more"),
        ([rank(0), rank(1)], {"num_pairs": 0}, "num_pairs and piece"),
    ],
)
def test_bad_rankings_are_named(ranks, arguments, message):
    with pytest.raises(ValueError, match=message):
        ranked_pairs(ranks, **{"num_pairs": 3} | arguments)
