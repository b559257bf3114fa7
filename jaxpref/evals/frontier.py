"""Score against KL: points along a run, and two runs compared at equal KL.

A reward or win rate alone does not say which method is better: a run that moves further from its starting
policy usually scores higher, and changes more in other respects. So methods are compared at matched KL, or
by J = R - beta KL.
"""

import dataclasses
import math
from collections.abc import Sequence

from jaxpref.evals.intervals import Estimate

__all__ = ["FrontierPoint", "at_kl", "at_matched_kl", "objective"]


@dataclasses.dataclass(frozen=True)
class FrontierPoint:
    """One evaluation of one run."""

    kl: Estimate  # nats, to a policy that all runs share
    score: Estimate  # higher is better
    step: int = 0


def at_kl(points: Sequence[FrontierPoint], kl: float) -> Estimate:
    """Score of a run where its KL is `kl`, by a straight line between the two points beside it.

    Points are taken in order of their KL. The interval adds in squares the intervals of the two scores, with
    the weights of the interpolation, and the effect of the uncertainty of the two KLs along the line. It
    takes the evaluations as independent and ignores the curvature between them; where a point that it is made
    of has no interval, it has none (NaN).

    Raises:
      ValueError: no points, or `kl` outside of theirs (nothing is extrapolated).
    """
    known = sorted(points, key=lambda p: p.kl.mean)
    if not known or not known[0].kl.mean <= kl <= known[-1].kl.mean:
        span = f"[{known[0].kl.mean:.4g}, {known[-1].kl.mean:.4g}]" if known else "nothing"
        raise ValueError(f"at_kl: a KL of {kl:.4g} nats is outside of the points, which span {span}")
    above = next(i for i, p in enumerate(known) if p.kl.mean >= kl)
    # The segment that ends at or after `kl`; the first one where `kl` is its beginning.
    right = known[min(max(above, 1), len(known) - 1)]
    left = known[max(above - 1, 0)]
    run = right.kl.mean - left.kl.mean
    weight = (kl - left.kl.mean) / run if run > 0 else 0.5 * (left is not right)
    slope = (right.score.mean - left.score.mean) / run if run > 0 else 0.0
    shares = ((left, 1 - weight), (right, weight))
    mean = sum(share * p.score.mean for p, share in shares)
    shares = [(p, share) for p, share in shares if share > 0]  # 0 times no interval is none
    below = _joined([share * (p.score.mean - p.score.low) for p, share in shares])
    beyond = _joined([share * (p.score.high - p.score.mean) for p, share in shares])
    along = _joined([slope * share * (p.kl.high - p.kl.low) / 2 for p, share in shares]) if slope else 0.0
    count = min(left.score.count, right.score.count)
    return Estimate(mean, mean - math.hypot(below, along), mean + math.hypot(beyond, along), count)


def at_matched_kl(
    first: Sequence[FrontierPoint], second: Sequence[FrontierPoint], kl: float | None = None
) -> tuple[float, Estimate]:
    """The KL and, at it, the score of `first` minus that of `second`: who wins at equal KL.

    By default at the largest KL that both runs reach. The interval is made of the two as independent ones
    (Newcombe 1998, method 10).

    Raises:
      ValueError: the runs have no KL in common, or not the one given.
    """
    if kl is None:
        if not first or not second:
            raise ValueError("at_matched_kl: expected points of two runs, got none of one")
        kl = min(max(p.kl.mean for p in points) for points in (first, second))
    a, b = at_kl(first, kl), at_kl(second, kl)
    mean = a.mean - b.mean
    low = mean - math.hypot(a.mean - a.low, b.high - b.mean)
    high = mean + math.hypot(a.high - a.mean, b.mean - b.low)
    return kl, Estimate(mean, low, high, min(a.count, b.count))


def objective(point: FrontierPoint, *, beta: float) -> Estimate:
    """J = R - beta KL, what reinforcement learning from feedback maximises, with the intervals joined as
    independent ones. The score must be the reward R, in the unit that `beta` weighs nats in."""
    mean = point.score.mean - beta * point.kl.mean
    low = math.hypot(point.score.mean - point.score.low, beta * (point.kl.high - point.kl.mean))
    high = math.hypot(point.score.high - point.score.mean, beta * (point.kl.mean - point.kl.low))
    return Estimate(mean, mean - low, mean + high, min(point.score.count, point.kl.count))


def _joined(parts: Sequence[float]) -> float:
    return math.sqrt(sum(part * part for part in parts))
