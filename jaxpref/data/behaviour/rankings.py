"""Pairs made of ranked demonstrations: the data of T-REX and B-REX."""

from collections.abc import Sequence

import numpy as np

from jaxpref.data.segments import SegmentRecords

__all__ = ["ranked_pairs"]


def ranked_pairs(
    ranks: Sequence[SegmentRecords], *, num_pairs: int, piece: int | None = None, seed: int = 0
) -> SegmentRecords:
    """Pairs of segments of two ranks; segment 0 is of the better one. A function of the seed alone.

    Two ranks, a demonstration of each and a stretch of each are drawn uniformly, so few ranked demonstrations
    make many pairs (Brown et al. 2019, arXiv:1904.06387). Only ranks are compared, so the worse segment of a
    single pair may be labelled as the better one.

    Args:
      ranks: demonstrations (`k = 1`) from the worst rank to the best, all with the same padded length.
      piece: steps of a stretch; shorter demonstrations are taken whole, and all of them with None.

    Raises:
      ValueError: fewer than two ranks, rows that are no single segments, lengths that differ, or a number
        below 1.
    """
    forms = [[(a.shape[1:], a.dtype.kind) for a in (r.observations, r.actions)] for r in ranks]
    odd = next((i for i, r in enumerate(ranks) if r.k != 1 or not len(r) or forms[i] != forms[0]), None)
    if len(ranks) < 2 or odd is not None:
        said = "" if odd is None else f", rank {odd} with {ranks[odd].observations.shape}, {forms[odd]}"
        raise ValueError(
            "ranked_pairs: expected two ranks or more of single segments of one padded length and one kind "
            f"of observations and actions, got {len(ranks)}{said}"
        )
    if num_pairs < 1 or (piece is not None and piece < 1):
        raise ValueError(f"ranked_pairs: expected num_pairs and piece of 1 or more, got {num_pairs}, {piece}")
    generator = np.random.default_rng(seed)
    worse = generator.integers(0, len(ranks), num_pairs)
    other = (worse + generator.integers(1, len(ranks), num_pairs)) % len(ranks)
    pairs = np.stack([np.maximum(worse, other), np.minimum(worse, other)], 1)
    sizes = np.array([len(r) for r in ranks])
    rows = (generator.random((num_pairs, 2)) * sizes[pairs]).astype(np.int64)
    rows += (np.cumsum(sizes) - sizes)[pairs]
    lengths = np.concatenate([r.step_lengths[:, 0] for r in ranks])[rows]
    kept = lengths if piece is None else np.minimum(lengths, piece)
    first = (generator.random((num_pairs, 2)) * (lengths - kept + 1)).astype(np.int64)
    room = int(kept.max())
    at = np.minimum(first[..., None] + np.arange(room), ranks[0].observations.shape[2] - 1)

    def cut(name: str) -> np.ndarray:
        whole = np.concatenate([getattr(r, name)[:, 0] for r in ranks])
        return whole[rows[..., None], at]

    return SegmentRecords(cut("observations"), cut("actions"), kept).checked()
