"""Which implementation of attention over rows runs: decided while tracing and logged once, or forced."""

import dataclasses
import functools
import logging

from jaxpref.kernels.attention.rows import Row
from jaxpref.kernels.machines import Machine

__all__ = ["IMPLEMENTATIONS", "Choice", "Shape", "choice"]

logger = logging.getLogger("jaxpref.kernels")

IMPLEMENTATIONS = ("dense", "blockwise", "splash")
_BLOCK = 512  # tokens; the scores of a block are then a quarter of a million numbers a head
_SPLASH = 1024  # tokens of a row from which on a kernel is worth its start


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one device has to do. `plain`: no layer has a window that is shorter than the row, and the mesh
    splits rows and key heads evenly, so that a kernel can be placed."""

    rows: int
    heads: int  # of queries
    row: Row
    plain: bool

    @property
    def scores_bytes(self) -> int:
        return 4 * self.rows * self.heads * self.row.pairs

    def __str__(self) -> str:
        row = self.row
        responses = f", {row.responses} responses of {row.each:,}" if row.responses else ""
        return f"{self.rows:,} rows, prompt of {row.prompt:,}{responses}, {self.heads} heads"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One implementation, and why."""

    shape: Shape
    name: str
    block: int
    reason: str

    def announce(self) -> None:
        _announce(f"attention: {self.name} for {self.shape}: {self.reason}")


@functools.lru_cache(maxsize=256)
def _announce(line: str) -> None:
    logger.info(line)


def choice(shape: Shape, machine: Machine, implementation: str | None = None) -> Choice:
    """What runs for this shape on this machine.

    Args:
      implementation: a name from `IMPLEMENTATIONS`; None decides.

    Raises:
      ValueError: splash attention was asked for where it cannot run.

    Returns:
      The implementation and the size of its blocks.

    Example:
      >>> from jaxpref.kernels.attention.dispatch import Shape, choice
      >>> from jaxpref.kernels.attention.rows import Row
      >>> from jaxpref.kernels.machines import CPU
      >>> shape = lambda tokens: Shape(rows=8, heads=4, row=Row(tokens, 2, tokens), plain=True)
      >>> print(choice(shape(128), CPU).name, choice(shape(2048), CPU).name)
      dense blockwise
    """
    if implementation is not None:
        if implementation == "splash":
            _check_splash(shape, machine)
        return Choice(shape, implementation, _BLOCK, "asked for")
    size = f"float32 scores take {shape.scores_bytes / 2**20:,.0f} MiB"
    if machine.platform == "tpu" and shape.plain and shape.row.length >= _SPLASH:
        return Choice(shape, "splash", _BLOCK, f"{size}, none are kept")
    if shape.row.length <= 2 * _BLOCK or shape.scores_bytes <= machine.scores_budget:
        return Choice(shape, "dense", _BLOCK, size)
    return Choice(shape, "blockwise", _BLOCK, f"{size}, {machine.scores_budget / 2**20:,.0f} MiB may be made")


def _check_splash(shape: Shape, machine: Machine) -> None:
    if machine.platform != "tpu":
        raise ValueError(
            f"attention='splash' is a kernel for TPUs, and this is a {machine.platform}; use 'blockwise', or "
            "None to choose"
        )
    if not shape.plain:
        raise ValueError(
            "attention='splash' has no sliding windows over prompts, and wants rows and key heads that the "
            f"mesh divides ({shape}); use 'blockwise', or None to choose"
        )
