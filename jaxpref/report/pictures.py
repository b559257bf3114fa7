"""Drawings that evaluators ask for: policies and values on grids, maps."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpref.report import figures
from jaxpref.report.maps import road_map
from jaxpref.report.markup import text
from jaxpref.report.runs import Picture, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "grid_policy", "pictures_section"]

_MOVES = ((0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0))  # up, down, left, right; the y axis points down
_MOST = 12  # drawings in a page


def pictures_section(runs: Sequence[Run], folder: pathlib.Path) -> str:
    """The last drawing of each title of every run, runs side by side; empty if there is none."""
    asked = [(index, run, p) for index, run in enumerate(runs) for p in run.pictures]
    asked.sort(key=lambda entry: (entry[2].evaluator, entry[2].title, entry[0]))
    html, left_out = [], []
    for index, run, picture in asked[:_MOST]:
        title = picture.title if len(runs) == 1 else f"{run.label}: {picture.title}"
        drawn = _drawn(picture, title, f"picture_{index}_{picture.stage}_{picture.evaluator}", folder)
        (html if drawn else left_out).append(drawn or f"{title} ({picture.kind})")
    note = f'<p class="note">{text(", ".join(left_out))}: could not be drawn.</p>' if left_out else ""
    more = f'<p class="note">{len(asked) - _MOST} more are not shown.</p>' if len(asked) > _MOST else ""
    return f'<h3>Pictures</h3><div class="figures">{"".join(html)}</div>{more}{note}' if asked else ""


def _drawn(picture: Picture, title: str, name: str, folder: pathlib.Path) -> str:
    """Empty where the kind is not known or the data are not what it draws."""
    draw = KINDS.get(picture.kind)
    if draw is None:
        return ""
    name = figures.slug(f"{name}_{picture.title}")
    with figures.style(name):
        try:
            figure = draw(title, picture.data)
        except (KeyError, TypeError, ValueError):
            return ""
        svg = figures.save(figure, name, folder)
    return f'<figure role="img" aria-label="{text(title)}">{svg}</figure>'


def grid_policy(title: str, data: Mapping[str, Any]) -> "Figure":
    """A grid with a colour for each cell's value and arrows for what is done there.

    data: `values` [rows, columns] (null: no colour); `policy` [rows, columns, 4], probabilities of up, down,
    left and right (an arrow each, as long as it is likely); `marks` [rows, columns], short texts; `label`:
    what the values are.
    """
    values = np.array(
        [[np.nan if v is None else v for v in row] for row in data["values"]], float
    )  # JSON has no NaN
    policy, marks = np.asarray(data["policy"], float), data["marks"]
    rows, columns = values.shape
    if policy.shape != (rows, columns, 4) or [len(row) for row in marks] != [columns] * rows:
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
        way = np.array(_MOVES)[a] * 0.42 * policy[r, c, a][:, None]
        axes.quiver(
            c, r, way[:, 0], way[:, 1], angles="xy", scale_units="xy", scale=1, width=0.004, color="#222222"
        )
    for r in range(rows):
        for c in range(columns):
            if marks[r][c]:
                axes.text(c, r, marks[r][c], ha="center", va="center", color="#D55E00", fontweight="bold")
    return figure


KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], "Figure"]] = {
    "grid policy": grid_policy,
    "road map": road_map,
}
