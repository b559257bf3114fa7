"""Which values of an evaluator to compare, and the tables of them."""

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup

from jaxpref.paths import AnyPath
from jaxpref.report import figures
from jaxpref.report.intervals import change
from jaxpref.report.markup import Cell, interval, signed, value
from jaxpref.report.runs import Evaluation, Run
from jaxpref.report.series import curve, panels
from jaxpref.report.template import render

__all__ = ["Key", "ends", "evaluation_table", "final_figures", "held_out_table", "history", "keys"]

Key = tuple[str, str]  # evaluator, metric


def keys(runs: Sequence[Run]) -> list[Key]:
    return list(dict.fromkeys((e.evaluator, e.metric) for run in runs for e in run.evaluations))


def history(run: Run, key: Key) -> list[Evaluation]:
    """In the order of stages and steps."""
    stages = run.stages
    chosen = [e for e in run.evaluations if (e.evaluator, e.metric) == key]
    return sorted(chosen, key=lambda e: (stages.index(e.stage), e.step))


def ends(run: Run, key: Key) -> tuple[Evaluation | None, Evaluation | None]:
    """First and last value in the last stage; the value the stage before left if it has only one."""
    rows = history(run, key)
    if not rows:
        return None, None
    in_last = [e for e in rows if e.stage == rows[-1].stage]
    earlier = rows[: -len(in_last)]
    before = in_last[0] if len(in_last) > 1 else (earlier[-1] if earlier else None)
    return before, rows[-1]


def final_figures(runs: Sequence[Run], folder: AnyPath) -> Markup:
    """With several runs: the last value of each metric, one row per run."""
    if len(runs) < 2:
        return Markup("")
    drawn = []
    for evaluator, metric in keys(runs):
        finals = [(run.label, ends(run, (evaluator, metric))[1]) for run in runs]
        known = [(label, e) for label, e in finals if e is not None and math.isfinite(e.mean)]
        if len(known) < 2:
            continue
        name = figures.slug(f"final_{evaluator}_{metric}")
        hues = [
            figures.color(i) for i, (_, e) in enumerate(finals) if e is not None and math.isfinite(e.mean)
        ]
        with figures.style(name):
            figure = figures.final_figure(known, f"{evaluator}: {metric}", hues)
            drawn.append((figures.save(figure, name, folder), f"{evaluator}: {metric}"))
    return render("drawings", labels=[], drawn=drawn) if drawn else Markup("")


def _estimate(e: Evaluation | None) -> Cell:
    if e is None:
        return Cell(value(None))
    return Cell(value(e.mean), interval(e.low, e.high) or None, size=e.size)


def evaluation_table(runs: Sequence[Run]) -> Markup:
    """One run: all its evaluations, start and end of each stage. Several: last values, runs as columns."""
    if not keys(runs):
        return Markup("")
    return _table_of_one(runs[0]) if len(runs) == 1 else _table_of_several(runs)


def _table_of_one(run: Run) -> Markup:
    stages = [stage for stage in run.stages if any(e.stage == stage for e in run.evaluations)]
    header = ["Metric", "Evaluator"]
    for stage in stages:
        header += [f"{stage}, start", f"{stage}, end"]
    rows = []
    for key in keys([run]):
        cells: list[str | Cell] = [key[1], key[0]]
        for stage in stages:
            of_stage = [e for e in history(run, key) if e.stage == stage]
            first = next((e for e in of_stage if e.step == 0), None)
            final = of_stage[-1] if of_stage and of_stage[-1].step > 0 else None
            cells += [_estimate(first), _estimate(final)]
        before, after = ends(run, key)
        moved = change(before, after) if before and after else None
        limits = interval(moved.low, moved.high, sign=True) if moved else None
        cells.append(Cell(signed(moved.difference) if moved else value(None), limits))
        rows.append(cells)
    return render("tables", header=[*header, "Change"], rows=rows, text=2, note="")


def _table_of_several(runs: Sequence[Run]) -> Markup:
    rows = []
    for key in keys(runs):
        finals = [ends(run, key)[1] for run in runs]
        known = [e for e in finals if e is not None and math.isfinite(e.mean)]
        better = known[0].better if known else ""
        best = None
        if better in ("higher", "lower") and len({e.mean for e in known}) > 1:
            best = (max if better == "higher" else min)(known, key=lambda e: e.mean)
        cells: list[str | Cell] = [key[1], key[0], {"higher": "↑", "lower": "↓"}.get(better, "")]
        for e in finals:
            cell = _estimate(e)
            if best is not None and e is not None and e.mean == best.mean:
                cell = dataclasses.replace(cell, after=" ★", best=True)
            elif best is not None and e is not None and _overlap(e, best):
                cell = dataclasses.replace(cell, after=" ≈")
            cells.append(cell)
        rows.append(cells)
    note = (
        "Last value of each run. ★ best; ≈ its interval overlaps the best one's (two seeds have none). "
        "↑ higher is better, ↓ lower is better."
    )
    header = ["Metric", "Evaluator", "Better", *(run.label for run in runs)]
    return render("tables", header=header, rows=rows, text=3, note=note)


def _overlap(first: Evaluation, second: Evaluation) -> bool:
    if not all(e.has_interval and not e.is_range for e in (first, second)):
        return False
    return first.low <= second.high and second.low <= first.high


def _last(run: Run, stage: str, metric: str) -> Cell | None:
    line = curve(run, stage, metric, "eval")
    if line is None:
        return None
    limits = (
        "" if line.low is None or line.high is None else interval(float(line.low[-1]), float(line.high[-1]))
    )
    rows = curve(run, stage, "num_rows", "eval")
    size = "" if rows is None else f"{rows.values[-1]:,.0f}"
    if line.counts is not None:
        seeds = int(line.counts[-1])
        size = f"{seeds} seed{'s' * (seeds != 1)}" + f" of {size}" * bool(size)
    return Cell(value(float(line.values[-1])), limits or None, size=size)


def held_out_table(runs: Sequence[Run]) -> Markup:
    """Last logged value on held-out data of every metric, for each run and stage."""
    rows = []
    for panel in panels(runs):
        if panel.group == "throughput" or panel.metrics == ("num_tokens",):
            continue
        for metric in panel.metrics:
            cells = [_last(run, panel.stage, metric) for run in runs]
            if any(cell is not None for cell in cells):
                rows.append([metric, panel.stage, *(cell or Cell(value(None)) for cell in cells)])
    if not rows:
        return Markup("")
    header = ["Metric", "Stage", *([run.label for run in runs] if len(runs) > 1 else ["Last value"])]
    return render("tables", header=header, rows=rows, text=2, note="")
