"""Estimates with their 95 % intervals: one function for each kind of data.

No interval has no width but that of a number that is known exactly (`exact`). Where the data give none (one
cluster, or values that do not vary and have no bounds), `low` and `high` are NaN, and nothing is shown.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv, stdtrit

__all__ = [
    "Estimate",
    "clopper_pearson",
    "clustered",
    "difference",
    "exact",
    "known",
    "proportion",
    "recorded",
    "share",
    "standard_error",
    "student_quantile",
]

Array = np.ndarray
_Z = 1.959964
_TAIL = 0.025


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `count` items in `clusters` independent groups, with its 95 % interval.

    `low` and `high` are NaN where there is no interval, and both the mean where it is known exactly.
    """

    mean: float
    low: float
    high: float
    count: int
    better: str = "higher"  # or "lower", or "" where neither direction is a goal
    clusters: int | None = None  # None: every item is independent of the others
    share: bool = False  # of a whole: cannot leave [0, 1]

    def __str__(self) -> str:
        """`0.612 [0.543, 0.677] (n=240 in 120 groups)`."""
        if self.low == self.high:
            return (
                f"{self.mean:.3f} (exact)" if self.count <= 1 else f"{self.mean:.3f} (exact, n={self.count})"
            )
        limits = f" [{self.low:.3f}, {self.high:.3f}]" if math.isfinite(self.low + self.high) else ""
        groups = "" if self.clusters is None else f" in {self.clusters} group{'s' * (self.clusters != 1)}"
        return f"{self.mean:.3f}{limits} (n={self.count}{groups})"


def recorded(estimate: Estimate) -> dict[str, Any]:
    """The fields as JSON has them: null for what is no finite number."""
    fields = dataclasses.asdict(estimate)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def exact(value: float, count: int = 1, better: str = "higher") -> Estimate:
    """A number that nothing was drawn for, such as a return that was solved for."""
    return Estimate(value, value, value, count, better)


def proportion(successes: float, count: int, better: str = "higher") -> Estimate:
    """A share of independent trials with Wilson's score interval (Wilson 1927), which has a width at 0 and 1
    too; half successes (ties) are allowed. Trials that come in groups: `share`."""
    if count == 0:
        return _unknown(0, better, share=True)
    low, high = _wilson(successes / count, count, _Z)
    return Estimate(float(successes / count), low, high, count, better, share=True)


def clopper_pearson(successes: float, count: int, better: str = "higher") -> Estimate:
    """A share with the exact interval of Clopper & Pearson (1934): the shares that a test of each tail at
    2.5 % does not reject.

    Exact for whole successes. For ties and probabilities the same beta quantiles are taken at a fractional
    number; values in [0, 1] vary no more than zeros and ones of the same mean, so it is wide rather than
    narrow. `successes` and `count - successes` swapped give the interval mirrored about one half.

    Raises:
      ValueError: `successes` is not in [0, count].
    """
    if not 0 <= successes <= count:
        raise ValueError(f"clopper_pearson: expected 0 <= successes <= {count}, got {successes}")
    if count == 0:
        return _unknown(0, better, share=True)
    failures = count - successes
    low = betaincinv(successes, failures + 1, _TAIL) if successes > 0 else 0.0
    high = 1 - betaincinv(failures, successes + 1, _TAIL) if failures > 0 else 1.0
    return Estimate(float(successes / count), float(low), float(high), count, better, share=True)


def clustered(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    better: str = "higher",
    *,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Estimate:
    """A (weighted) mean whose items come in groups (pairs of one prompt), with a t interval.

    The variance is the cluster-robust one (Liang & Zeger 1986), the sum over G groups of squared sums of
    weighted residuals times G / (G - 1), and Student's t has G - 1 degrees of freedom: with few groups the
    normal quantile is too small (of 4 groups, 1.96 for 3.18). One group, or items that are all equal, have no
    interval. For two policies on the same prompts give the differences: what is hard for both cancels. Items
    of weight 0 are not counted, and their values may be anything.
    """
    mean, error, count, clusters = _mean_and_error(*_counted(values, groups, weights))
    said = None if clusters == count else clusters
    if not error > 0:
        return _unknown(mean, better, count=count, clusters=said)
    half = float(student_quantile(clusters)) * error
    return Estimate(mean, mean - half, mean + half, count, better, said)


def difference(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    better: str = "higher",
    *,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Estimate:
    """`clustered` for what a policy has in excess of another: 0 in every item where it is that policy still,
    which is then known exactly, so that a later value can be told from it."""
    estimate = clustered(values, groups, better, weights=weights)
    kept, _, _ = _counted(values, groups, weights)
    same = not kept.any() and estimate.count > 0 and estimate.clusters != 1
    return dataclasses.replace(estimate, low=0.0, high=0.0) if same else estimate


def known(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    better: str = "higher",
    *,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Estimate:
    """`clustered` for what is known of each item, such as a probability at chance: the only thing drawn is
    which items there are, so that a value that all of them have is exact."""
    estimate = clustered(values, groups, better, weights=weights)
    kept, _, _ = _counted(values, groups, weights)
    same = len(kept) > 0 and float(np.ptp(kept)) == 0
    return exact(float(kept[0]), len(kept), better) if same else estimate


def share(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    better: str = "higher",
    *,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Estimate:
    """`clustered` for values in [0, 1], such as 1 for right, 0 for wrong and one half for a tie.

    Zeros and ones in groups of one are independent trials: `proportion`. Else Wilson's interval at the
    number of independent trials that has the cluster-robust variance (p (1 - p) / variance, as Korn &
    Graubard 1998 do for Clopper & Pearson's), with the t quantile of G - 1 degrees of freedom. It stays in
    [0, 1]. Where all values are equal, at 0 or 1 above all, each group counts as one trial. One group has no
    interval.
    """
    # A sum of probabilities may be a rounding outside of [0, 1], where a variance has no meaning.
    kept = _counted(np.clip(values, 0, 1), groups, weights)
    mean, error, count, clusters = _mean_and_error(*kept)
    mean = min(max(mean, 0.0), 1.0) if count else mean  # the mean itself is rounded
    said = None if clusters == count else clusters
    if clusters < 2:
        return _unknown(mean, better, count=count, clusters=said, share=True)
    if said is None and np.isin(kept[0], (0, 1)).all() and (kept[2] == kept[2][:1]).all():
        return proportion(float(kept[0].sum()), count, better)
    trials = mean * (1 - mean) / error**2 if error > 0 else clusters
    low, high = _wilson(mean, trials, float(student_quantile(clusters)))
    return Estimate(mean, low, high, count, better, said, share=True)


def _unknown(mean: float, better: str, **fields: Any) -> Estimate:
    """Without an interval; without items also without a mean."""
    count = fields.setdefault("count", 0)
    return Estimate(mean if count else math.nan, math.nan, math.nan, better=better, **fields)


def student_quantile(groups: Any) -> Any:
    """Half of Student's 95 % interval of a mean of so many independent groups (2 or more), in standard
    errors. Takes arrays too."""
    return stdtrit(groups - 1, 1 - _TAIL)


def standard_error(squares: Any, groups: Any, total: Any) -> Any:
    """Of a mean over `groups` independent groups (2 or more): `squares` is the sum over groups of their
    squared sums of weighted residuals, `total` the sum of weights. Takes arrays too."""
    return np.sqrt(groups / (groups - 1) * squares) / total


def _wilson(p: float, trials: float, z: float) -> tuple[float, float]:
    """The shares that are `z` standard errors, at that share, from `p`."""
    shrunk = z * z / trials
    centre = (p + shrunk / 2) / (1 + shrunk)
    half = z / (1 + shrunk) * math.sqrt(p * (1 - p) / trials + shrunk / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def _counted(values: Array, groups: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Values, groups and weights of the items with a weight above 0."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    there = weights > 0
    return np.asarray(values)[there], np.asarray(groups)[there], weights[there]


def _mean_and_error(values: Array, groups: Array, weights: Array) -> tuple[float, float, int, int]:
    """Weighted mean, its cluster-robust standard error (NaN for one group; 0 where groups do not differ), and
    the numbers of items and of groups."""
    count = len(values)
    if count == 0:
        return math.nan, math.nan, 0, 0
    mean = float((weights * values).sum() / weights.sum())
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=weights * (values - mean))
    clusters = len(sums)
    if clusters == 1:
        return mean, math.nan, count, 1
    error = float(standard_error((sums**2).sum(), clusters, weights.sum()))
    # Groups without a difference leave what the mean was rounded by.
    return mean, error if error > 1e-12 * np.abs(values).max() else 0.0, count, clusters
