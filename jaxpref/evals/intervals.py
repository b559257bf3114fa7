"""Estimates with their 95 % intervals: one function for each kind of data."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv

__all__ = ["Estimate", "clopper_pearson", "clustered", "paired_bootstrap", "proportion"]

_Z = 1.959964
_TAIL = 0.025


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `count` items with its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int
    better: str = "higher"  # or "lower", or "" where neither direction is a goal


def proportion(successes: float, count: int, better: str = "higher") -> Estimate:
    """A share with Wilson's score interval (Wilson 1927); half successes (ties) are allowed."""
    if count == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0, better)
    z, p = _Z, successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return Estimate(float(p), float(max(0.0, centre - half)), float(min(1.0, centre + half)), count, better)


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
        return Estimate(float("nan"), 0.0, 1.0, 0, better)
    failures = count - successes
    low = betaincinv(successes, failures + 1, _TAIL) if successes > 0 else 0.0
    high = 1 - betaincinv(failures, successes + 1, _TAIL) if failures > 0 else 1.0
    return Estimate(float(successes / count), float(low), float(high), count, better)


def clustered(
    values: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    better: str = "higher",
    *,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Estimate:
    """A (weighted) mean whose items come in groups (pairs of one prompt): normal interval with the
    cluster-robust variance (Liang & Zeger 1986), sum over groups of squared sums of weighted residuals. Items
    of weight 0 are not counted, and their values may be anything."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    there = weights > 0
    values, groups, weights = values[there], groups[there], weights[there]
    count = len(values)
    if count == 0:
        return Estimate(float("nan"), float("-inf"), float("inf"), 0, better)
    mean = float((weights * values).sum() / weights.sum())
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=weights * (values - mean))
    clusters = len(sums)
    correction = clusters / (clusters - 1) if clusters > 1 else 1.0
    error = float(np.sqrt(correction * (sums**2).sum()) / weights.sum())
    return Estimate(mean, mean - _Z * error, mean + _Z * error, count, better)


def paired_bootstrap(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    better: str = "higher",
) -> Estimate:
    """Mean of `first - second` with the percentile bootstrap (Efron 1979) over prompts.

    Both hold one value for each of the same prompts, and a resampled prompt keeps its two values together,
    so what makes a prompt hard for both cancels. The same arguments give the same interval.

    Raises:
      ValueError: the two are not of the same prompts.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"paired_bootstrap: expected two values for each prompt, got {first.shape} and {second.shape}"
        )
    difference = first - second
    count = len(difference)
    if count == 0:
        return Estimate(float("nan"), float("-inf"), float("inf"), 0, better)
    generator = np.random.default_rng(seed)
    # Multinomial counts are the resampled indices, counted: one matrix product instead of a gather.
    weights = generator.multinomial(count, np.full(count, 1 / count), size=num_resamples)
    low, high = np.quantile(weights @ difference / count, [_TAIL, 1 - _TAIL])
    return Estimate(float(difference.mean()), float(low), float(high), count, better)
