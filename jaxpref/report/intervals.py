"""Confidence intervals of changes, and the verdict in words."""

import dataclasses
import math

from jaxpref.report.runs import Evaluation

__all__ = ["Change", "change"]


@dataclasses.dataclass(frozen=True)
class Change:
    """`after - before`; `low` and `high` are NaN where either side has no interval."""

    difference: float
    low: float
    high: float
    better: str

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "changed" if the interval excludes 0; "unclear" if not; "" without one."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
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
    """
    difference = after.mean - before.mean
    low = high = math.nan
    if before.has_interval and after.has_interval:
        low = difference - math.hypot(after.mean - after.low, before.high - before.mean)
        high = difference + math.hypot(after.high - after.mean, before.mean - before.low)
    return Change(difference, low, high, after.better)
