"""The section with the curves: one figure per panel, a legend once for all."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from markupsafe import Markup

from jaxpref.paths import AnyPath
from jaxpref.report import figures
from jaxpref.report.runs import Run
from jaxpref.report.seeds import members
from jaxpref.report.series import curve, is_minor, panels
from jaxpref.report.template import render

__all__ = ["curves_section", "progress_section"]


def curves_section(runs: Sequence[Run], folder: AnyPath) -> Markup:
    """All logged metrics by stage and group, with PNGs in `folder`; empty if no metric was logged."""
    colors = [(figures.color(i), run.label) for i, run in enumerate(runs)]
    stages = []
    for stage, of_stage in groupby(panels(runs), key=lambda panel: panel.stage):
        drawn: dict[bool, list[tuple[Markup, str]]] = {False: [], True: []}
        for panel in of_stage:
            name = figures.slug(f"{panel.stage}_{panel.title}")
            with figures.style(name):
                figure = figures.curves_figure(runs, panel)
                if figure is not None:
                    svg = figures.save(figure, name, folder, colors)
                    drawn[is_minor(panel)].append((svg, f"{panel.title} in stage {stage}"))
        if any(drawn.values()):
            stages.append((stage, drawn[False], drawn[True]))
    if not stages:
        return Markup("")
    return render(
        "curves",
        labels=[run.label for run in runs],
        holes=_non_finite(runs),
        stages=stages,
        seeds=any(run.seeds for run in runs),
    )


def _non_finite(runs: Sequence[Run]) -> list[str]:
    """Says where curves have holes, because a hole in a thick line is easy to miss."""
    items = []
    each = members(runs)
    for run in each:
        for panel in panels([run]):
            for metric in panel.metrics:
                for split in ("train", "eval"):
                    line = curve(run, panel.stage, metric, split)
                    bad = np.flatnonzero(~np.isfinite(line.values)) if line is not None else np.array([])
                    if line is not None and bad.size:
                        where = f"{run.label}: " if len(each) > 1 else ""
                        items.append(
                            f"{where}stage {panel.stage}, {metric} ({split}): "
                            f"{bad.size} of {len(line.steps)} values are not finite, "
                            f"the first at step {line.steps[bad[0]]}."
                        )
    return items


def progress_section(runs: Sequence[Run], folder: AnyPath) -> Markup:
    """Evaluators that ran three times or more in a stage, as curves; with fewer the cards are enough."""
    steps: dict[tuple[str, str, str], set[int]] = {}
    for run in runs:
        for e in run.evaluations:
            steps.setdefault((e.stage, e.evaluator, e.metric), set()).add(e.step)
    colors = [(figures.color(i), run.label) for i, run in enumerate(runs)]
    drawn = []
    for (stage, evaluator, metric), at in steps.items():
        if len(at) < 3:
            continue
        name = "".join(
            c if c.isascii() and c.isalnum() else "_" for c in f"eval_{stage}_{evaluator}_{metric}"
        )
        with figures.style(name):
            svg = figures.save(figures.progress_figure(runs, stage, evaluator, metric), name, folder, colors)
        drawn.append((svg, f"{evaluator} {metric} in stage {stage}"))
    return render("drawings", labels=[r.label for r in runs], drawn=drawn) if drawn else Markup("")
