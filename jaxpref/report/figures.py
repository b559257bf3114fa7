"""Drawings, with matplotlib (imported on use). The same input gives the same bytes."""

import contextlib
import hashlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from jaxpref.paths import AnyPath
from jaxpref.report.markup import clean
from jaxpref.report.runs import Evaluation, Run
from jaxpref.report.series import Curve, Panel, curve, smooth, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "color",
    "curves_figure",
    "final_figure",
    "logarithmic",
    "new_axes",
    "progress_figure",
    "save",
    "slug",
    "style",
    "vanishes",
    "wrapped",
]

# Okabe & Ito's palette without yellow, which is too pale for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (4, 2)))  # first and second metric of a panel
_SIZE = (4.0, 2.6)  # inches
_VANISHING = ("gap", "exploitability", "policy kl", "pi*", "lost value")
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "axes.grid": True,
    "axes.xmargin": 0.02,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.solid_capstyle": "round",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "svg.fonttype": "none",  # text stays text: selectable, and small
    "text.parse_math": False,  # a metric's or a run's name may hold dollar signs
}


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def slug(name: str) -> str:
    """A file name (without suffix) and id for a figure; different names give different slugs."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    if all(a == b or b in " /:_" for a, b in zip(plain, name, strict=True)):
        return plain
    return f"{plain}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # Names in scripts that the font lacks are drawn as boxes; the page's HTML shows them properly.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_axes(title: str, *, whole_steps: bool = True, width: int = 44) -> "tuple[Figure, Axes]":
    """A figure of the usual size with one drawing; `whole_steps`: x counts something;
    `width`: characters in a line of the title."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(wrapped(title, width))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole_steps, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def vanishes(metric: str) -> bool:
    """True for a metric that should fall to 0 and whose small values matter: drawn on a logarithmic axis."""
    return any(word in metric.lower() for word in _VANISHING)


def logarithmic(axes: "Axes", values: Iterable[float]) -> None:
    """A logarithmic y axis, unless nothing is positive or some value is below 0 by more than rounding."""
    known = [v for v in values if np.isfinite(v)]
    if known and max(known) > 0 and min(known) > -1e-6:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_yscale("log", nonpositive="clip")
        # matplotlib's own labels are formulas, and names that hold dollar signs are why these are not drawn.
        span = max(known) / min(v for v in known if v > 0)
        places = (1,) if span > 100 else (1, 2, 5) if span > 3 else range(1, 10)
        axes.yaxis.set_major_locator(LogLocator(subs=tuple(places), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def curves_figure(runs: Sequence[Run], panel: Panel) -> "Figure | None":
    """One panel: train thin and pale with its smoothed line, eval as points; of several seeds the mean in the
    band of their spread. None if nothing is finite."""
    figure, axes = new_axes(panel.title)
    drawn = False
    for run_index, run in enumerate(runs):
        for metric_index, metric in enumerate(panel.metrics):
            # With one run, colour is free to tell the two metrics apart.
            hue = color(run_index if len(runs) > 1 else metric_index)
            dash = _DASHES[metric_index if len(runs) > 1 else 0]
            train = _train_line(axes, run, panel.stage, metric, hue, dash)
            # Straight lines between sparse held-out points would only blur the training curve.
            link = "none" if train else dash
            # Tokens in a batch and tokens in the held-out set have nothing to do with one another.
            points = metric != "num_tokens" and _eval_points(
                axes, run, panel.stage, metric, hue, link, hollow=metric_index > 0
            )
            drawn = drawn or train or points
    if not drawn:
        return None
    axes.set_xlabel("step")
    if vanishes(panel.title):
        logarithmic(axes, (v for line in axes.get_lines() for v in np.asarray(line.get_ydata(), float)))
    if panel.title.endswith("accuracies"):
        axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
    if len(panel.metrics) > 1:
        _metric_legend(axes, panel, len(runs))
    return figure


def _train_line(axes: "Axes", run: Run, stage: str, metric: str, hue: str, dash: Any) -> bool:
    line = curve(run, stage, metric, "train")
    if line is None or not np.isfinite(line.values).any():
        return False
    values = np.where(np.isfinite(line.values), line.values, np.nan)
    if run.seeds:
        fitted = curve(run, stage, metric, "train", smoothed=True)
        assert fitted is not None
        _band(axes, thin(fitted), hue, dash)
        return True
    raw = thin(Curve(line.steps, values))
    smoothed = smooth(values)
    if smoothed is None:
        marker = "." if len(values) < 3 else None  # a line of one point is invisible
        axes.plot(raw.steps, raw.values, color=hue, linewidth=1.3, linestyle=dash, marker=marker)
        return True
    thick = thin(Curve(line.steps, smoothed))
    axes.plot(raw.steps, raw.values, color=hue, linewidth=0.5, alpha=0.3)
    axes.plot(thick.steps, thick.values, color=hue, linewidth=1.5, linestyle=dash)
    return True


def _band(axes: "Axes", line: Curve, hue: str, dash: Any) -> None:
    marker = "." if len(line.steps) < 3 else None
    axes.plot(line.steps, line.values, color=hue, linewidth=1.5, linestyle=dash, marker=marker)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.steps, line.low, line.high, color=hue, alpha=0.18, linewidth=0)


def _eval_points(
    axes: "Axes", run: Run, stage: str, metric: str, hue: str, dash: Any, *, hollow: bool
) -> bool:
    line = curve(run, stage, metric, "eval")
    if line is None or not np.isfinite(line.values).any():
        return False
    if line.low is not None and line.high is not None:
        axes.vlines(line.steps, line.low, line.high, color=hue, linewidth=0.8, zorder=3)
    face = "white" if hollow else hue
    axes.plot(
        line.steps,
        np.where(np.isfinite(line.values), line.values, np.nan),
        color=hue,
        linewidth=0.7,
        linestyle=dash,
        marker="o",
        markersize=4,
        markerfacecolor=face,
        markeredgecolor="white" if not hollow else hue,
        markeredgewidth=0.6,
        zorder=4,
    )
    return True


def _metric_legend(axes: "Axes", panel: Panel, num_runs: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=color(i) if num_runs == 1 else "#444444",
            linestyle=_DASHES[i if num_runs > 1 else 0],
            linewidth=1.5,
            label=wrapped(metric.rpartition("/")[2]),
        )
        for i, metric in enumerate(panel.metrics)
    ]
    axes.legend(handles=handles, loc="best")


def progress_figure(runs: Sequence[Run], stage: str, evaluator: str, metric: str) -> "Figure":
    """An evaluator's metric over the steps of a stage, with its confidence intervals."""
    figure, axes = new_axes(f"{evaluator}: {metric}")
    means: list[float] = []
    for index, run in enumerate(runs):
        points = sorted(
            (e for e in run.evaluations if (e.stage, e.evaluator, e.metric) == (stage, evaluator, metric)),
            key=lambda e: e.step,
        )
        # Side by side, or the last run's bars would hide the others'.
        shift = (index - (len(runs) - 1) / 2) * 0.012 * max((e.step for e in points), default=0)
        _with_errors(axes, points, [e.step + shift for e in points], color(index))
        means += [e.mean for e in points]
    if vanishes(metric):
        logarithmic(axes, means)
    axes.set_xlabel("step")
    return figure


def _with_errors(axes: "Axes", points: Sequence[Evaluation], steps: Sequence[float], hue: str) -> None:
    below = [max(e.mean - e.low, 0) if e.has_interval else np.nan for e in points]
    above = [max(e.high - e.mean, 0) if e.has_interval else np.nan for e in points]
    axes.errorbar(
        steps,
        [e.mean for e in points],
        yerr=[below, above],
        color=hue,
        linewidth=1.3,
        elinewidth=1,
        capsize=2.5,
        marker="o",
        markersize=4,
    )


def final_figure(finals: Sequence[tuple[str, Evaluation]], title: str, hues: Sequence[str]) -> "Figure":
    """Last value of one metric for each run, with its interval: one row per run, first run on top."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes(title, width=28)  # the labels leave less room than in other drawings
    names = [wrapped(label) for label, _ in finals]
    figure.set_figheight(
        0.9 + 0.26 * len(finals) + 0.13 * (axes.get_title(loc="left") + "".join(names)).count("\n")
    )
    for row, (_, final) in enumerate(finals):
        errors = (
            [[max(final.mean - final.low, 0)], [max(final.high - final.mean, 0)]]
            if final.has_interval
            else None
        )
        axes.errorbar([final.mean], [row], xerr=errors, color=hues[row], marker="o", markersize=5, capsize=3)
    axes.set_yticks(range(len(finals)), names)
    axes.set_ylim(len(finals) - 0.5, -0.5)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure


def wrapped(label: str, length: int = 28) -> str:
    """A name in lines of `length` characters; what does not fit into three is left out."""
    return "\n".join(textwrap.wrap(clean(label), length, max_lines=3, placeholder=" …")) or " "


def save(figure: "Figure", name: str, folder: AnyPath, legend: Sequence[tuple[str, str]] = ()) -> Markup:
    """Writes `folder/name.png` (with a legend of its own) and returns the figure as inline SVG.

    Args:
      legend: colour and label of each run, for the PNG; the page shows it once for all figures.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    if len(legend) > 1:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=hue, linewidth=2, label=wrapped(label)) for hue, label in legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.set_figheight(figure.get_figheight() + 0.18 * ((len(legend) + 1) // 2))
    else:
        figure.set_layout_engine("none")  # all stays where it was for the SVG, and is not laid out again
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    (folder / f"{name}.png").write_bytes(png.getvalue())
    return Markup(_inline(buffer.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """The svg element alone, its size left to CSS and its ids made unique in the page."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
