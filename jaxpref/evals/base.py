"""What an evaluator is, and estimates with their intervals.

An evaluator is a function `(context, *, name, num_prompts, ...) -> Evaluation`. It runs when its stage
starts and ends. `num_prompts` bounds its cost (`--smoke` lowers it).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params

__all__ = ["Context", "Estimate", "Evaluation", "TextSample", "clustered", "proportion"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `count` items with its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int
    better: str = "higher"  # or "lower", or "" where neither direction is a goal


@dataclasses.dataclass(frozen=True)
class TextSample:
    id: str
    prompt: str
    response: str
    score: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    name: str
    metrics: dict[str, Estimate]
    samples: tuple[TextSample, ...] = ()


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator may use. `put` shards a host batch, `fetch` brings an array to every host."""

    policy: Policy
    params: Params
    tokenizer: Any
    seed: int
    rewards: Callable[[Completions], Float[Array, "b k"]]  # the algorithm's (implicit) rewards
    put: Callable[[Any], Any]
    fetch: Callable[[Any], Any]
    rows_multiple: int = 1  # batches must have a multiple of this many rows
    baseline: Callable[[str], list[TextSample]] = lambda name: []  # samples of this name one stage ago


def proportion(successes: float, count: int, better: str = "higher") -> Estimate:
    """A share with Wilson's score interval (Wilson 1927); half successes (ties) are allowed."""
    if count == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0, better)
    z, p = 1.959964, successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return Estimate(float(p), float(max(0.0, centre - half)), float(min(1.0, centre + half)), count, better)


def clustered(values: np.ndarray, groups: np.ndarray, better: str = "higher") -> Estimate:
    """A mean whose items come in groups (pairs of one prompt): normal interval with the cluster-robust
    variance (Liang & Zeger 1986), sum over groups of squared residual sums."""
    count = len(values)
    if count == 0:
        return Estimate(float("nan"), float("-inf"), float("inf"), 0, better)
    mean = float(np.mean(values))
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=values - mean)
    clusters = len(sums)
    correction = clusters / (clusters - 1) if clusters > 1 else 1.0
    error = float(np.sqrt(correction * (sums**2).sum()) / count)
    return Estimate(mean, mean - 1.959964 * error, mean + 1.959964 * error, count, better)
