"""A plan as a picture: what lies on a device in each program, under the line of what it has."""

import pathlib

from jaxpref.aot.plans import Plan
from jaxpref.report import figures

__all__ = ["save_picture"]

_GIB = 2**30


def save_picture(plan: Plan, path: str) -> str:
    """Writes a PNG or SVG: one bar for each program, by kind of memory. Returns the path.

    Raises:
      ValueError: the name has another ending, or its folder is not there.
    """
    if pathlib.Path(path).suffix not in (".png", ".svg"):
        raise ValueError(f"--picture {path}: expected a name that ends in .png or .svg")
    if not pathlib.Path(path).resolve().parent.is_dir():
        raise ValueError(f"--picture {path}: its folder is not there; make it first")
    from matplotlib.figure import Figure

    programs = [(f"{s.laid.stage.name}: {p.compiled.name}", p) for s in plan.stages for p in s.programs]
    kinds = list(dict.fromkeys(kind for _, p in programs for kind in p.memory.kinds))
    with figures.style(plan.experiment.name):
        figure = Figure(figsize=(7.5, 1.5 + 0.42 * len(programs)), layout="constrained")
        axes = figure.add_subplot()
        for row, (_, program) in enumerate(programs):
            left = 0.0
            for i, kind in enumerate(kinds):
                size = program.memory.kinds.get(kind, 0) / _GIB
                shade = figures.COLORS[i % len(figures.COLORS)]
                axes.barh(row, size, left=left, height=0.62, color=shade, label=kind if row == 0 else None)
                left += size
            note = "does not compile" if program.compiled.error else f"{left:.2f} GiB"
            axes.text(left, row, f" {note}", va="center", fontsize=7.5)
        limit = plan.topology.chip.memory / _GIB
        axes.axvline(limit, color="#444444", linestyle="--", linewidth=1)
        axes.text(limit, -0.75, f" {limit:.1f} GiB there", fontsize=7.5, va="bottom", ha="right")
        axes.set_yticks(range(len(programs)), [name for name, _ in programs])
        axes.invert_yaxis()
        widest = max([p.memory.total for _, p in programs], default=0) / _GIB
        axes.set_xlim(0, 1.12 * max(limit, widest))
        axes.set_xlabel("GiB on one device")
        axes.set_title(f"{plan.experiment.name} on {plan.topology.name}")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=4)
        figure.savefig(path, dpi=160)
    return path
