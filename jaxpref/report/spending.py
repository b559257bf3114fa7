"""Where the time of each stage went, and the most memory that it held (metrics of the split "resources")."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from jaxpref.paths import AnyPath
from jaxpref.report import figures
from jaxpref.report.markup import Cell, seconds
from jaxpref.report.runs import Run, number
from jaxpref.report.template import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["spending_section"]

_COLORS = {
    "start": "#999999",
    "data": "#56B4E9",
    "collect": "#CC79A7",
    "step": "#0072B2",
    "evaluation": "#009E73",
    "checkpoint": "#D55E00",
    "compile": "#E69F00",
    "other": "#dddddd",
}
_NOTE = (
    "Seconds of the host, which add up to the time of the stage. Start: reading records, drawing or "
    "restoring the state. Data: waiting for a batch. Collect: drawing and judging responses, as far as the "
    "host waits. Step: handing over steps and waiting for them, so the device's own time. Evaluation: "
    "held-out passes and evaluators. Checkpoint: what saving held up; the writing goes on beside the steps. "
    "Compile: tracing and compiling, wherever it fell. What a killed run did after its last checkpoint is "
    "not in them. Memory: the peak of the device that held most, or of the process where devices do not "
    "count (CPU)."
)


def spending_section(runs: Sequence[Run], folder: AnyPath) -> Markup:
    """A drawing and a table with one row for each run and stage; empty if no run recorded it."""
    spent = [
        (run.label, stage, *found) for run in runs for stage in run.stages if (found := _spent(run, stage))
    ]
    if not spent:
        return Markup("")
    several = len({label for label, *_ in spent}) > 1
    kinds = list(dict.fromkeys(kind for *_, of_kind, _ in spent for kind in of_kind))
    names = [f"{label}, {stage}" if several else stage for label, stage, *_ in spent]
    with figures.style("time"):
        figure = _bars(names, [of_kind for *_, of_kind, _ in spent], kinds)
        drawing = figures.save(figure, "time", folder)
    rows: list[list[str | Cell]] = [
        [
            *([label] if several else []),
            stage,
            seconds(sum(of_kind.values())),
            *(_cell(of_kind.get(kind, 0.0), sum(of_kind.values())) for kind in kinds),
            f"{peak / 1e9:.1f} GB" if np.isfinite(peak) else "–",
        ]
        for label, stage, of_kind, peak in spent
    ]
    header = [*(["Run"] if several else []), "Stage", "Time", *map(str.capitalize, kinds), "Memory"]
    return render(
        "spending",
        drawn=[(drawing, "shares of the time of each stage, by what it was spent on")],
        header=header,
        rows=rows,
        text=1 + several,
        note=_NOTE,
    )


def _spent(run: Run, stage: str) -> tuple[dict[str, float], float] | None:
    """Seconds by kind of a stage, and its peak of bytes (NaN: not recorded)."""
    rows = [row for row in run.metrics if row["stage"] == stage and row.get("split") == "resources"]
    of_kind: dict[str, float] = {}
    peak = np.nan
    for row in rows:
        for name, value in row.items():
            prefix, _, kind = name.partition("/")
            if prefix == "seconds" and np.isfinite(number(value)):
                of_kind[kind] = of_kind.get(kind, 0.0) + number(value)
            elif prefix == "memory":
                peak = float(np.fmax(peak, number(value)))
    return (of_kind, peak) if sum(of_kind.values()) > 0 else None


def _cell(of_kind: float, total: float) -> str:
    return f"{seconds(of_kind)} ({of_kind / total:.0%})" if of_kind >= 0.005 * total else "–"


def _bars(names: Sequence[str], spent: Sequence[dict[str, float]], kinds: Sequence[str]) -> "Figure":
    """A bar for each stage, of length 1, in parts by kind."""
    figure, axes = figures.new_axes("Where the time went", whole_steps=False)
    labels = [figures.wrapped(name) for name in names]
    figure.set_figwidth(6.0)
    figure.set_figheight(1.1 + 0.3 * len(names) + 0.12 * "".join(labels).count("\n"))
    left = np.zeros(len(names))
    totals = np.array([sum(of_kind.values()) for of_kind in spent])
    for kind in kinds:
        shares = np.array([of_kind.get(kind, 0.0) for of_kind in spent]) / totals
        if shares.max() >= 0.005:
            axes.barh(range(len(names)), shares, left=left, color=_COLORS.get(kind, "#000000"), label=kind)
        left += shares
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=4)
    return figure
