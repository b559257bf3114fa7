"""From segments with a score (one a row, column `scores` [n, 1]) to demonstrations or pairs."""

import numpy as np

from jaxpref.data.segments import SegmentRecords

__all__ = ["better_half", "one_off_pairs"]


def better_half(records: SegmentRecords) -> SegmentRecords:
    """The segments whose score is above the median, to imitate."""
    scores = _scores(records)
    return records.take(scores > np.median(scores))


def one_off_pairs(records: SegmentRecords, *, per_segment: int = 4, seed: int = 0) -> SegmentRecords:
    """Random pairs, each compared once by its scores, the better segment first; equal scores are a tie.

    Every segment is in about `per_segment` pairs.
    """
    scores = _scores(records)
    if len(scores) < 2 or per_segment < 1:
        raise ValueError(
            f"one_off_pairs: expected 2 segments or more and pairs, got {len(scores)}, {per_segment}"
        )
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(scores)) for _ in range(per_segment)])
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    ahead = scores[pairs[:, 0]] >= scores[pairs[:, 1]]
    pairs = np.where(ahead[:, None], pairs, pairs[:, ::-1])
    tied = scores[pairs[:, 0]] == scores[pairs[:, 1]]
    return SegmentRecords.pairs(
        records.observations[pairs, 0],
        records.actions[pairs, 0],
        np.where(tied, 0.5, 0.0),
        records.step_lengths[pairs, 0],
    )


def _scores(records: SegmentRecords) -> np.ndarray:
    if records.k != 1 or "scores" not in records.columns:
        raise ValueError("scored segments: expected one segment a row and the column scores [n, 1]")
    scores = np.asarray(records.columns["scores"])
    if scores.shape != (len(records), 1) or scores.dtype.kind not in "iuf":
        raise ValueError(
            f"scored segments: expected numbers [{len(records)}, 1] in the column scores, got {scores.dtype} "
            f"{scores.shape}"
        )
    odd = np.flatnonzero(~np.isfinite(scores[:, 0]))
    if odd.size:
        raise ValueError(
            f"scored segments: row {odd[0]}: score {scores[odd[0], 0]} is not finite; leave it out"
        )
    return scores[:, 0]
