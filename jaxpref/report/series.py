"""Curves: which metrics a run logged, how they are grouped, and how they are smoothed and thinned."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxpref.report.runs import Run, number
from jaxpref.report.seeds import spread

__all__ = ["Curve", "Panel", "curve", "panels", "is_minor", "smooth", "thin"]

_NOT_METRICS = ("stage", "step", "split", "time", "num_rows")
_THROUGHPUT = ("second", "utilization", "throughput", "memory", "mfu")
_SHORT = 40  # points
_SMOOTH_AS_LOGGED = 1e-3  # typical bend of a curve as a share of its range
_WIDTHS = 50.0  # standard deviations of the kernel in a curve: its visible width is a twentieth
# Pairs that are read against each other share a panel; chosen is solid, rejected dashed.
_PAIRED = (("chosen", "rejected"),)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of one split of one line in one stage. Values may be NaN; steps increase.

    Of several seeds `values` are the mean over those that have logged the step, `counts` of them, and `low`
    and `high` the ends of their spread (`seeds.spread`).
    """

    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None = None
    high: Float[np.ndarray, " n"] | None = None
    counts: Int[np.ndarray, " n"] | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing: one metric, or two that are read against each other."""

    stage: str
    group: str
    title: str
    metrics: tuple[str, ...]


def curve(run: Run, stage: str, metric: str, split: str, *, smoothed: bool = False) -> Curve | None:
    """None if the run logged no such metric. Of several seeds: at each step the mean over those that have
    logged it (one may have stopped early), with `smoothed` each smoothed first, where it needs that
    (`smooth`), or the band would be that of steps."""
    if run.seeds:
        each = [curve(seed, stage, metric, split) for seed in run.seeds]
        return _mean([line for line in each if line is not None], smoothed)
    rows = [
        (row["step"], number(row[metric]))
        for row in run.metrics
        if row["stage"] == stage and row.get("split", "train") == split and metric in row
    ]
    if not rows:
        return None
    steps, values = zip(*sorted(rows), strict=True)
    return Curve(np.asarray(steps), np.asarray(values))


def _mean(each: Sequence[Curve], smoothed: bool) -> Curve | None:
    if not each:
        return None
    steps = functools.reduce(np.union1d, [line.steps for line in each])
    rows = np.full((len(each), len(steps)), np.nan)
    for row, line in zip(rows, each, strict=True):
        fit = smooth(line.values) if smoothed else None
        row[np.searchsorted(steps, line.steps)] = line.values if fit is None else fit
    return Curve(steps, *spread(rows), np.isfinite(rows).sum(0))


def group_of(metric: str) -> str:
    prefix, slash, _ = metric.partition("/")
    if slash:
        return prefix
    if any(word in metric for word in _THROUGHPUT):
        return "throughput"
    return "loss" if "loss" in metric else "optimisation"


def is_minor(panel: Panel) -> bool:
    """True for what shows that training is healthy, not what it achieved: drawn smaller, at the end."""
    return panel.group in ("optimisation", "throughput", "diag")


def panels(runs: Sequence[Run]) -> list[Panel]:
    """All panels of all runs: stages in order, then groups, then metrics."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.stages))
    result = []
    for stage in stages:
        names = {
            key
            for run in runs
            for row in run.metrics
            if row["stage"] == stage and row.get("split") != "resources"
            for key, value in row.items()
            if key not in _NOT_METRICS and not isinstance(value, bool) and isinstance(value, int | float)
        }
        stage_panels = []
        for name in sorted(names):
            prefix, _, last = name.rpartition("/")
            pair = next((p for p in _PAIRED if last in p and all(f"{prefix}/{x}" in names for x in p)), None)
            if pair is None:
                stage_panels.append(Panel(stage, group_of(name), name, (name,)))
            elif last == pair[0]:
                metrics = tuple(f"{prefix}/{x}" for x in pair)
                stage_panels.append(Panel(stage, group_of(name), f"{prefix}/{' and '.join(pair)}", metrics))
        result += sorted(stage_panels, key=_order)
    return result


_GROUPS = ("loss", "rewards", "logps", "objective", "optimisation", "throughput")
_FIRST = ("loss", "rewards/accuracies", "rewards/margins")


def _order(panel: Panel) -> tuple[bool, int, str, int, str]:
    # Group names outside the list (diag, ...) come after the known ones, in alphabetical order.
    group = _GROUPS.index(panel.group) if panel.group in _GROUPS else len(_GROUPS)
    first = _FIRST.index(panel.title) if panel.title in _FIRST else len(_FIRST)
    return is_minor(panel), group, panel.group, first, panel.title


def smooth(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """Local linear fit with a Gaussian kernel about a twentieth of the curve wide; NaN stays NaN.

    Centred, because a trailing mean of a falling loss lies above all of its points; linear, because a
    centred mean does so at the steep start. None for curves that need no smoothing: short ones, and those
    that are smooth as logged (a learning rate, say).
    """
    finite = np.isfinite(values)
    known = values[finite]
    if known.size < _SHORT or np.ptp(known) == 0:
        return None
    roughness = np.median(np.abs(np.diff(known, n=2))) / np.ptp(known)
    if roughness < _SMOOTH_AS_LOGGED:
        return None
    width = known.size / _WIDTHS
    reach = int(4 * width)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / width) ** 2)
    numbers = np.where(finite, values, 0.0)

    def moment(of: np.ndarray, power: int) -> np.ndarray:
        # np.convolve runs the kernel backwards, which changes the sign of odd powers.
        return np.convolve(of, kernel * (-offsets) ** power)[reach : reach + of.size]

    weight, first, second = (moment(finite.astype(float), power) for power in range(3))
    determinant = weight * second - first**2
    fit = (moment(numbers, 0) * second - moment(numbers, 1) * first) / np.maximum(determinant, 1e-30)
    return np.where(finite, fit, np.nan)


def thin(line: Curve, points: int = 800) -> Curve:
    """At most about `points` points, keeping the lowest and the highest of every bin, so no spike is lost."""
    count = len(line.steps)
    if count <= points:
        return line
    keep: set[int] = {0, count - 1}
    for part in np.array_split(np.arange(count), points // 2):
        finite = part[np.isfinite(line.values[part])]
        if finite.size:
            keep |= {int(finite[line.values[finite].argmin()]), int(finite[line.values[finite].argmax()])}
        if finite.size < part.size:  # a gap stays a gap
            keep.add(int(part[~np.isfinite(line.values[part])][0]))
    order = sorted(keep)
    low, high, counts = (None if side is None else side[order] for side in (line.low, line.high, line.counts))
    return Curve(line.steps[order], line.values[order], low, high, counts)
