"""How long each stage took and how fast it was."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from jaxpref.report.markup import Cell, seconds, value
from jaxpref.report.runs import Run, number
from jaxpref.report.series import curve
from jaxpref.report.template import render

__all__ = ["timing_section"]

_PAUSE = 60.0  # seconds; a longer gap, if also 20 times the usual one, is time between two sittings


def _active_seconds(times: np.ndarray) -> tuple[float, float]:
    """Seconds at work and seconds between sittings, from the times of log entries."""
    gaps = np.diff(np.sort(times))
    if not gaps.size:
        return float("nan"), 0.0
    pauses = gaps > max(_PAUSE, 20 * float(np.median(gaps)))
    return float(gaps[~pauses].sum()), float(gaps[pauses].sum())


def timing_section(runs: Sequence[Run]) -> Markup:
    """A table with one row per run and stage; empty if no run logged a training step."""
    rows: list[list[str | Cell]] = []
    for run in runs:
        for stage in run.stages:
            train = [r for r in run.metrics if r["stage"] == stage and r.get("split", "train") == "train"]
            if not train:
                continue
            times = [number(r.get("time")) for r in run.metrics if r["stage"] == stage]
            active, paused = _active_seconds(np.asarray([t for t in times if np.isfinite(t)]))
            took = seconds(active) + (f" (and {seconds(paused)} between sittings)" if paused else "")
            label = [run.label] if len(runs) > 1 else []
            rows.append(
                [
                    *label,
                    stage,
                    f"{len(train):,}",
                    took,
                    _spread(run, stage, "tokens_per_second"),
                    _spread(run, stage, "mfu"),
                ]
            )
    if not rows:
        return Markup("")
    label = ["Run"] if len(runs) > 1 else []
    if all(row[-1] == _NONE for row in rows):
        rows = [row[:-1] for row in rows]
    header = [*label, "Stage", "Steps", "Time", "Tokens/s", "Model-FLOPs utilisation"]
    note = (
        "Time: first to last log row of the stage, evaluation included. "
        "Speed: median over the steps, with the 10th and 90th percentile."
    )
    return render("tables", header=header[: len(rows[0])], rows=rows, text=1 + len(label), note=note)


_NONE = Cell(value(None))


def _spread(run: Run, stage: str, metric: str) -> Cell:
    line = curve(run, stage, metric, "train")
    values = line.values[np.isfinite(line.values)] if line is not None else np.array([])
    if not values.size:
        return _NONE
    low, middle, high = np.percentile(values, [10, 50, 90])
    return Cell(value(float(middle)), f"[{value(float(low))}, {value(float(high))}]")
