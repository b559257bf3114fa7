"""The win-rate matrix of a tournament: a heat map with the numbers in its cells, and a table."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from jaxpref.paths import AnyPath, read_text
from jaxpref.report import figures
from jaxpref.report.markup import Cell, interval, items, signed, value
from jaxpref.report.runs import number
from jaxpref.report.template import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Table", "read_tournament", "tournament_section"]

_MOST = 14  # policies whose numbers can be read in the cells


@dataclasses.dataclass(frozen=True)
class Table:
    """Labels, and estimates as dicts with mean, low, high."""

    labels: list[str]
    matrix: list[list[dict[str, float]]]
    overall: list[dict[str, float]]
    differences: list[list[dict[str, float]]]


def read_tournament(file: AnyPath, labels: Mapping[str, str]) -> Table | None:
    """The tournament next to a page; None if there is none, it is not readable or it is of other runs.

    `labels`: what each run directory of the page is called on it.
    """
    try:
        content = json.loads(read_text(file))
        runs = content["runs"]
        if any(run is not None and run not in labels for run in runs):
            return None
        shown = [n if r is None else labels[r] for n, r in zip(content["names"], runs, strict=True)]
        return Table(shown, content["matrix"], content["overall"], content["differences"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tournament_section(table: Table, folder: AnyPath) -> Markup:
    """The heat map, with a PNG in `folder`, and win rates with what separates each policy from the first."""
    first = table.labels[0]
    rows = []
    for i, label in enumerate(table.labels):
        against, between = table.matrix[i][0], table.differences[i]
        cells = [label, _estimate(table.overall[i]), _estimate(against) if i else value(None)]
        # Against the best of the others: what a reader wants to know of each row.
        best = max(
            (j for j in range(len(between)) if j != i), key=lambda j: table.matrix[j][0]["mean"], default=i
        )
        gap = between[best]
        limits = interval(number(gap["low"]), number(gap["high"]), sign=True)
        cells.append(Cell(signed(number(gap["mean"])), limits, after=f" {table.labels[best]}"))
        rows.append(cells)
    drawn = []
    if len(table.labels) <= _MOST:
        with figures.style("tournament"):
            drawn = [(figures.save(_figure(table), "tournament", folder), "win rates")]
    count, grouped = _whole(table.matrix[0][-1], "count"), _whole(table.matrix[0][-1], "clusters") is not None
    header = ["Policy", "Win rate, all others", f"Against {first}", "Minus the best other"]
    return render(
        "tournament", drawn=drawn, header=header, rows=rows, count=items(count, None), grouped=grouped
    )


def _estimate(e: Mapping[str, Any]) -> Cell:
    limits = interval(number(e.get("low")), number(e.get("high")))
    return Cell(value(number(e.get("mean"))), limits, size=items(_whole(e, "count"), _whole(e, "clusters")))


def _whole(e: Mapping[str, Any], field: str) -> int | None:
    found = number(e.get(field))
    return int(found) if math.isfinite(found) else None


def _figure(table: Table) -> "Figure":
    from matplotlib.figure import Figure

    k = len(table.labels)
    means = np.array([[number(e.get("mean")) for e in row] for row in table.matrix])
    figure = Figure(figsize=(1.6 + 0.72 * k, 0.9 + 0.42 * k), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(False)
    # Cells as polygons, not as an image: sharp at any size and small in SVG.
    axes.pcolormesh(means, cmap="RdBu", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for i, j in np.ndindex(k, k):
        strong = abs(means[i, j] - 0.5) > 0.33
        ink = "white" if strong else "#222222"
        if i == j:
            axes.text(j + 0.5, i + 0.5, "–", ha="center", va="center", color="#888888")
            continue
        e = table.matrix[i][j]
        axes.text(j + 0.5, i + 0.4, f"{means[i, j]:.2f}", ha="center", va="center", color=ink, fontsize=8)
        low, high = number(e.get("low")), number(e.get("high"))
        if math.isfinite(low + high):
            limits = f"{low:.2f}–{high:.2f}"
            axes.text(j + 0.5, i + 0.74, limits, ha="center", va="center", color=ink, fontsize=5.5)
    axes.set_title("P(row beats column)")
    names = [figures.wrapped(label, 18) for label in table.labels]
    axes.set_xticks(
        np.arange(k) + 0.5, names, rotation=0 if _fit(names) else 35, ha="center" if _fit(names) else "right"
    )
    axes.set_yticks(np.arange(k) + 0.5, names)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _fit(names: Sequence[str]) -> bool:
    return max(map(len, names)) <= 8
