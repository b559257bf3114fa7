"""Maps: lines coloured by a number, and routes on them."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpref.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["road_map"]

_WIDTH, _TALLEST = 4.6, 7.0  # inches
_MARGIN = 0.15  # of the routes' extent, around them
_NARROWEST = 0.8  # width of what is drawn, by its height


def road_map(title: str, data: Mapping[str, Any]) -> "Figure":
    """Roads coloured by a number, and routes on them.

    data: `lines`, each a list of (longitude, latitude); `values`, one for each; `value_label`; `routes`,
    named lines; `credit`: whose data these are.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LogNorm

    figure, axes = figures.new_axes(title)
    lines, values = [np.array(line) for line in data["lines"]], np.array(data["values"])
    low, high = np.quantile(values, [0.02, 0.98])
    # A colour of few outliers would leave the rest alike.
    scale = LogNorm(low, high) if 0 < low < high else None
    streets = LineCollection(lines, array=values, cmap="viridis_r", norm=scale, linewidths=0.8)
    streets.set_rasterized(True)  # thousands of lines: a picture inside the drawing
    axes.add_collection(streets)
    bar = figure.colorbar(streets, ax=axes, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(data["value_label"])
    ticks = np.geomspace(low, high, 5) if scale else np.linspace(low, high, 5)
    bar.set_ticks(ticks.tolist(), labels=[f"{x:.2g}" for x in ticks])
    bar.ax.minorticks_off()
    for (label, line), (hue, width, dash) in zip(data["routes"].items(), _styles(), strict=False):
        x, y = np.array(line).T
        axes.plot(x, y, color=hue, linewidth=width, linestyle=dash, label=label, alpha=0.9)
    around = np.concatenate([np.array(line) for line in data["routes"].values()] or lines)
    (west, south), (east, north) = around.min(0), around.max(0)
    wide, tall = max(east - west, 1e-6), max(north - south, 1e-6)
    stretch = 1 / math.cos(math.radians((south + north) / 2))
    pad_x, pad_y = _MARGIN * wide, _MARGIN * tall
    # Not narrower than this, so that there is context on both sides.
    pad_x += max(_NARROWEST * (tall + 2 * pad_y) * stretch - (wide + 2 * pad_x), 0) / 2
    axes.set_xlim(west - pad_x, east + pad_x)
    axes.set_ylim(south - pad_y, north + pad_y)
    axes.set_aspect(stretch)
    axes.grid(False)
    axes.set_ylabel("latitude")
    if data["routes"]:
        axes.legend(loc="upper left", frameon=True, framealpha=0.9)
    axes.text(0.99, 0.01, data.get("credit", ""), transform=axes.transAxes, ha="right", fontsize=6)
    height = (_WIDTH - 0.6) * (tall + 2 * pad_y) * stretch / (wide + 2 * pad_x) + 1.0
    figure.set_size_inches(_WIDTH, min(max(height, 2.5), _TALLEST))
    return figure


def _styles() -> list[tuple[str, float, Any]]:
    return [(figures.color(1), 3.2, "-"), (figures.color(6), 1.4, (0, (4, 2))), (figures.color(3), 1.4, "-")]
