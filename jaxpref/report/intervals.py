"""Confidence intervals of changes, and the verdict in words."""

import dataclasses
import math

import numpy as np

from jaxpref.report.runs import Evaluation
from jaxpref.report.seeds import spread

__all__ = ["Change", "change"]


@dataclasses.dataclass(frozen=True)
class Change:
    """`after - before`; `low` and `high` are NaN where either side has no interval."""

    difference: float
    low: float
    high: float
    better: str
    confident: bool = True  # False: the two are the lowest and the highest of two seeds, which prove nothing

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "changed" if the interval excludes 0; "unclear" if not; "" without one."""
        if not (self.confident and math.isfinite(self.low) and math.isfinite(self.high)):
            return ""
        if self.low <= 0 <= self.high:
            return "unclear"
        if self.better not in ("higher", "lower"):
            return "changed"
        return "better" if (self.difference > 0) == (self.better == "higher") else "worse"


def change(before: Evaluation, after: Evaluation) -> Change:
    """The difference of two estimates, with an interval made from theirs.

    Square-and-add (MOVER; Newcombe 1998, Statistics in Medicine 17:873, method 10): each side's distance
    from its mean to its limit, added in squares. It takes the estimates as independent; where both are of
    the same prompts they are usually positively correlated, and the interval is wide rather than narrow.
    Where both are means over the same seeds, the interval is that of the seeds' own differences.
    """
    if before.values and len(before.values) == len(after.values):
        moves = np.subtract(after.values, before.values)
        difference, low, high = map(float, spread(moves))
        return Change(difference, low, high, after.better, confident=bool(np.isfinite(moves).sum() > 2))
    difference = after.mean - before.mean
    low = high = math.nan
    if before.has_interval and after.has_interval:
        low = difference - math.hypot(after.mean - after.low, before.high - before.mean)
        high = difference + math.hypot(after.high - after.mean, before.mean - before.low)
    return Change(difference, low, high, after.better)
