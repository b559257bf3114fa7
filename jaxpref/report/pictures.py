"""Drawings that evaluators ask for: policies and values on grids, maps, curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from jaxpref.paths import AnyPath
from jaxpref.report import figures
from jaxpref.report.maps import road_map
from jaxpref.report.runs import Picture, Run
from jaxpref.report.template import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "curves", "grid_policy", "pictures_section"]

_MOVES = ((0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0))  # up, down, left, right; the y axis points down
_MOST = 12  # drawings in a page


def pictures_section(runs: Sequence[Run], folder: AnyPath) -> Markup:
    """The last drawing of each title of every run, runs side by side; empty if there is none.

    What is the same in several runs (hidden rewards, say) is drawn once.
    """
    asked: list[tuple[int, Run, Picture]] = []
    shared: set[int] = set()  # places in `asked` of drawings that several runs have
    for index, run in enumerate(runs):
        for picture in run.pictures:
            same = [i for i, (_, _, other) in enumerate(asked) if _alike(picture, other)]
            shared.update(same)
            if not same:
                asked.append((index, run, picture))
    titles = [
        picture.title if len(runs) == 1 or i in shared else f"{run.label}: {picture.title}"
        for i, (_, run, picture) in enumerate(asked)
    ]
    order = sorted(range(len(asked)), key=lambda i: (asked[i][2].evaluator, asked[i][2].title, asked[i][0]))
    drawn, left_out = [], []
    for i in order[:_MOST]:
        (index, _, picture), title = asked[i], titles[i]
        svg = _drawn(picture, title, f"picture_{index}_{picture.stage}_{picture.evaluator}", folder)
        if svg is None:
            left_out.append(f"{title} ({picture.kind})")
        else:
            drawn.append((svg, title))
    if not asked:
        return Markup("")
    return render("pictures", drawn=drawn, more=len(asked) - _MOST, left_out=left_out)


def _alike(one: Picture, other: Picture) -> bool:
    fields = ("evaluator", "title", "kind", "data")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def _drawn(picture: Picture, title: str, name: str, folder: AnyPath) -> Markup | None:
    """None where the kind is not known or the data are not what it draws."""
    draw = KINDS.get(picture.kind)
    if draw is None:
        return None
    name = figures.slug(f"{name}_{picture.title}")
    with figures.style(name):
        try:
            figure = draw(title, picture.data)
        except (KeyError, TypeError, ValueError):
            return None
        return figures.save(figure, name, folder)


def grid_policy(title: str, data: Mapping[str, Any]) -> "Figure":
    """A grid with a colour for each cell's value and arrows for what is done there.

    data: `values` [rows, columns] (null: no colour); `policy` [rows, columns, 4], probabilities of up, down,
    left and right (an arrow each, of the square root's length, so that policies with entropy are seen), or
    [rows, columns, 5] with that of staying (a dot, as large as it is likely); `marks` [rows, columns], short
    texts; `label`: what the values are.
    """
    values = np.array(
        [[np.nan if v is None else v for v in row] for row in data["values"]], float
    )  # JSON has no NaN
    policy, marks = np.asarray(data["policy"], float), data["marks"]
    rows, columns = values.shape
    if (
        policy.shape not in ((rows, columns, 4), (rows, columns, 5))
        or [len(row) for row in marks] != [columns] * rows
    ):
        raise ValueError("grid_policy: values, policy and marks are of different grids")
    figure, axes = figures.new_axes(title)
    size = 0.34 * max(rows, columns, 6)
    figure.set_size_inches(size * max(columns / rows, 0.75) + 0.8, size + 0.3)
    image = axes.imshow(values, cmap="Blues", alpha=0.75, interpolation="nearest")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label(str(data["label"]))
    at = [(r, c, a) for r in range(rows) for c in range(columns) for a in range(4) if policy[r, c, a] > 0.1]
    if at:
        r, c, a = (np.array(x) for x in zip(*at, strict=True))
        way = np.array(_MOVES)[a] * 0.42 * np.sqrt(policy[r, c, a])[:, None]
        axes.quiver(
            c, r, way[:, 0], way[:, 1], angles="xy", scale_units="xy", scale=1, width=0.004, color="#222222"
        )
    if policy.shape[-1] == 5:
        r, c = np.nonzero(policy[..., 4] > 0.1)
        axes.scatter(c, r, s=40 * policy[r, c, 4], color="#222222", linewidths=0, zorder=3)
    for r in range(rows):
        for c in range(columns):
            if marks[r][c]:
                axes.text(c, r, marks[r][c], ha="center", va="center", color="#D55E00", fontweight="bold")
    return figure


def curves(title: str, data: Mapping[str, Any]) -> "Figure":
    """Named lines over steps or sweeps, on a logarithmic axis if all are above 0 somewhere and never below.

    data: `lines`, {name: {"x": [n], "y": [n]}} (null: a gap); `x` and `y`: what is counted and what is shown.
    """
    figure, axes = figures.new_axes(title)
    shown = []
    for i, (name, line) in enumerate(data["lines"].items()):
        y = np.array([np.nan if v is None else v for v in line["y"]], float)
        if len(line["x"]) != len(y):
            raise ValueError(f"curves: {name} has {len(line['x'])} places and {len(y)} values")
        marker = "." if len(y) < 3 else None  # a line of one point is invisible
        label = figures.wrapped(str(name))
        axes.plot(line["x"], y, color=figures.color(i), linewidth=1.3, marker=marker, label=label)
        shown += y.tolist()
    figures.logarithmic(axes, shown)
    axes.set_xlabel(str(data["x"]))
    axes.set_ylabel(str(data["y"]))
    if len(data["lines"]) > 1:
        axes.legend(loc="best")
    return figure


KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], "Figure"]] = {
    "curves": curves,
    "grid policy": grid_policy,
    "road map": road_map,
}
