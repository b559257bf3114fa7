"""Curves: which metrics a run logged, how they are grouped, and how they are smoothed and thinned."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxpref.report.runs import Run, number

__all__ = ["Curve", "Panel", "curve", "panels", "smooth", "thin"]

_NOT_METRICS = ("stage", "step", "split", "time")
_THROUGHPUT = ("second", "utilization", "throughput", "memory", "mfu")
# Pairs that are read against each other share a panel; chosen is solid, rejected dashed.
_PAIRED = (("chosen", "rejected"),)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of one split of one run in one stage. Values may be NaN; steps increase."""

    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing: one metric, or two that are read against each other."""

    stage: str
    group: str
    title: str
    metrics: tuple[str, ...]


def curve(run: Run, stage: str, metric: str, split: str) -> Curve | None:
    """None if the run logged no such metric."""
    rows = [
        (row["step"], number(row[metric]))
        for row in run.metrics
        if row["stage"] == stage and row.get("split", "train") == split and metric in row
    ]
    if not rows:
        return None
    steps, values = zip(*sorted(rows), strict=True)
    return Curve(np.asarray(steps), np.asarray(values))


def group_of(metric: str) -> str:
    prefix, slash, _ = metric.partition("/")
    if slash:
        return prefix
    if any(word in metric for word in _THROUGHPUT):
        return "throughput"
    return "loss" if "loss" in metric else "optimisation"


def panels(runs: Sequence[Run]) -> list[Panel]:
    """All panels of all runs: stages in order, then groups, then metrics."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.stages))
    result = []
    for stage in stages:
        names = {
            key
            for run in runs
            for row in run.metrics
            if row["stage"] == stage
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


def _order(panel: Panel) -> tuple[int, str, int, str]:
    # Group names outside the list (diag, ...) come after the known ones, in alphabetical order.
    group = _GROUPS.index(panel.group) if panel.group in _GROUPS else len(_GROUPS)
    first = _FIRST.index(panel.title) if panel.title in _FIRST else len(_FIRST)
    return group, panel.group, first, panel.title


def smooth(values: Float[np.ndarray, " n"], span: float) -> Float[np.ndarray, " n"]:
    """Exponential moving mean over about `span` points, without the pull of a start value; skips NaN."""
    decay = 1 - 1 / max(span, 1.0)
    total = weight = 0.0
    out = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        total, weight = decay * total, decay * weight
        if np.isfinite(value):
            total, weight = total + value, weight + 1
            out[index] = total / weight
    return out


def smoothing_span(points: int) -> float:
    """A twentieth of the curve; 1 (no smoothing) for curves too short to need it."""
    return 1.0 if points < 40 else points / 20


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
    return Curve(line.steps[order], line.values[order])
