"""Scores of runs against their KL: one drawing for each score, and the differences at equal KL."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from jaxpref.evals.frontier import FrontierPoint, at_matched_kl
from jaxpref.evals.intervals import Estimate
from jaxpref.paths import AnyPath
from jaxpref.report import figures
from jaxpref.report.markup import Cell, interval, signed, value
from jaxpref.report.results import Key, keys
from jaxpref.report.runs import Evaluation, Run
from jaxpref.report.template import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["frontier_section", "points"]

_KL = "KL to "  # metrics of `evals.sampled_kl`
_MOST_RUNS = 6  # compared two by two


def points(run: Run, kl: Key, score: Key) -> list[FrontierPoint]:
    """Evaluations of both metrics at one step of one stage, in the order of the run."""
    pairs: dict[tuple[str, int], dict[Key, Evaluation]] = {}
    for e in run.evaluations:
        if (e.evaluator, e.metric) in (kl, score) and math.isfinite(e.mean):
            pairs.setdefault((e.stage, e.step), {})[e.evaluator, e.metric] = e
    return [
        FrontierPoint(_estimate(pair[kl]), _estimate(pair[score]), step)
        for (_, step), pair in sorted(
            pairs.items(), key=lambda item: (run.stages.index(item[0][0]), item[0][1])
        )
        if len(pair) == 2
    ]


def _estimate(e: Evaluation) -> Estimate:
    """Without limits where those are of two seeds: what is made of them would look like an interval."""
    low, high = (math.nan, math.nan) if e.is_range else (e.low, e.high)
    return Estimate(e.mean, low, high, e.count or 0, e.better)


def frontier_section(runs: Sequence[Run], folder: AnyPath) -> Markup:
    """Every metric that is better when higher, against every KL that was measured with it; empty if no run
    has two such points."""
    names = keys(runs)
    goals = {(e.evaluator, e.metric) for run in runs for e in run.evaluations if e.better == "higher"}
    drawn, rows = [], []
    for kl in [key for key in names if key[1].startswith(_KL)]:
        for score in [key for key in names if key in goals]:
            lines = [points(run, kl, score) for run in runs]
            if max(map(len, lines)) < 2:
                continue
            name = figures.slug(f"frontier_{kl[1]}_{score[0]}_{score[1]}")
            title = f"{score[0]}: {score[1]}"
            with figures.style(name):
                colors = [(figures.color(i), run.label) for i, run in enumerate(runs)]
                svg = figures.save(_figure(lines, title, kl[1]), name, folder, colors)
            drawn.append((svg, f"{title} against {kl[1]}"))
            rows += _matched(runs, lines, title)
    if not drawn:
        return Markup("")
    return render("frontier", drawn=drawn, rows=rows)


def _matched(runs: Sequence[Run], lines: Sequence[list[FrontierPoint]], title: str) -> list[list[str | Cell]]:
    rows = []
    for i, j in combinations(range(min(len(runs), _MOST_RUNS)), 2):
        try:
            kl, difference = at_matched_kl(lines[i], lines[j])
        except ValueError:  # no KL in common
            continue
        limits = interval(difference.low, difference.high, sign=True)
        gap = Cell(signed(difference.mean), limits)
        rows.append([title, runs[i].label, runs[j].label, value(kl), gap])
    return rows


def _sides(estimates: Sequence[Estimate]) -> np.ndarray:
    """Distances to both limits `[2, n]`; NaN, and so not drawn, where there are none."""
    return np.maximum([[e.mean - e.low for e in estimates], [e.high - e.mean for e in estimates]], 0)


def _figure(lines: Sequence[list[FrontierPoint]], title: str, kl: str) -> "Figure":
    figure, axes = figures.new_axes(title, whole_steps=False)
    for index, line in enumerate(lines):
        if not line:
            continue
        axes.errorbar(
            [p.kl.mean for p in line],
            [p.score.mean for p in line],
            xerr=_sides([p.kl for p in line]),
            yerr=_sides([p.score for p in line]),
            color=figures.color(index),
            linewidth=1.1,
            elinewidth=0.6,
            marker="o",
            markersize=3.5,
        )
    axes.set_xlabel(f"{kl} (nats)")
    return figure
