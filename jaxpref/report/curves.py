"""The section with the curves: one figure per panel, a legend once for all."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from jaxpref.paths import AnyPath
from jaxpref.report import figures
from jaxpref.report.markup import text
from jaxpref.report.runs import Run
from jaxpref.report.series import curve, is_minor, panels

__all__ = ["curves_section", "legend", "progress_section"]


def legend(runs: Sequence[Run]) -> str:
    """Colours of the runs; empty for one run."""
    if len(runs) < 2:
        return ""
    entries = "".join(
        f'<li><span class="swatch" style="background:{figures.color(i)}"></span>{text(run.label)}</li>'
        for i, run in enumerate(runs)
    )
    return f'<ul class="legend">{entries}</ul>'


def _figure(svg: str, label: str) -> str:
    return f'<figure role="img" aria-label="{text(label)}">{svg}</figure>'


def curves_section(runs: Sequence[Run], folder: AnyPath) -> str:
    """All logged metrics by stage and group, with PNGs in `folder`; empty if no metric was logged."""
    colors = [(figures.color(i), run.label) for i, run in enumerate(runs)]
    html = []
    for stage, of_stage in groupby(panels(runs), key=lambda panel: panel.stage):
        drawn: dict[bool, list[str]] = {False: [], True: []}
        for panel in of_stage:
            name = figures.slug(f"{panel.stage}_{panel.title}")
            with figures.style(name):
                figure = figures.curves_figure(runs, panel)
                if figure is not None:
                    svg = figures.save(figure, name, folder, colors)
                    drawn[is_minor(panel)].append(_figure(svg, f"{panel.title} in stage {stage}"))
        if any(drawn.values()):
            html.append(f"<h3>Stage {text(stage)}</h3>{legend(runs)}")
            if len(drawn[False]) < 3:  # too few for a row of their own
                html.append(f'<div class="figures">{"".join(drawn[False] + drawn[True])}</div>')
            else:
                html.append(f'<div class="figures">{"".join(drawn[False])}</div>')
                html.append(f'<div class="figures small">{"".join(drawn[True])}</div>')
    if not html:
        return ""
    note = (
        '<p class="note">Pale line: every training step; thick line: its local trend over a twentieth '
        "of the curve; points: held-out data. Steps count from the start of each stage.</p>"
    )
    return note + _non_finite(runs) + "".join(html)


def _non_finite(runs: Sequence[Run]) -> str:
    """Says where curves have holes, because a hole in a thick line is easy to miss."""
    items = []
    for run in runs:
        for panel in panels([run]):
            for metric in panel.metrics:
                for split in ("train", "eval"):
                    line = curve(run, panel.stage, metric, split)
                    bad = np.flatnonzero(~np.isfinite(line.values)) if line is not None else np.array([])
                    if line is not None and bad.size:
                        where = f"{run.label}: " if len(runs) > 1 else ""
                        items.append(
                            f"<li>{text(where)}stage {text(panel.stage)}, {text(metric)} ({split}): "
                            f"{bad.size} of {len(line.steps)} values are not finite, "
                            f"the first at step {line.steps[bad[0]]}.</li>"
                        )
    return f'<ul class="problems">{"".join(items)}</ul>' if items else ""


def progress_section(runs: Sequence[Run], folder: AnyPath) -> str:
    """Evaluators that ran three times or more in a stage, as curves; with fewer the cards say it all."""
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
        drawn.append(_figure(svg, f"{evaluator} {metric} in stage {stage}"))
    return f'{legend(runs)}<div class="figures">{"".join(drawn)}</div>' if drawn else ""
