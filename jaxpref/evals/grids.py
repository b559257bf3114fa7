"""Pictures of grids (`report.pictures`): the value of each cell, and the policy's moves from it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxpref.evals.base import Picture

__all__ = ["pictured_grid"]


def pictured_grid(
    title: str,
    *,
    shape: Sequence[int],
    values: ArrayLike,
    policy: ArrayLike,
    terminal: ArrayLike,
    label: str,
    marks: ArrayLike | None = None,
) -> Picture:
    """A colour for each cell, and arrows for moves up, down, left and right (and a dot for staying).

    Args:
      shape: (rows, columns) of a world whose states are cells, row by row.
      values: `[s]`; cells whose value is not finite, and terminal cells, have no colour.
      policy: probabilities `[s, 4]` or `[s, 5]`.
      label: what the values are.
      marks: short texts `[s]`; None: `x` in terminal cells.
    """
    rows, columns = shape
    ends = np.asarray(terminal)
    v = np.where(ends, np.nan, np.asarray(values, np.float64)).reshape(rows, columns)
    moves = np.where(ends[:, None], 0, np.asarray(policy, np.float64)).reshape(rows, columns, -1)
    texts = np.where(ends, "x" if marks is None else np.asarray(marks), "").reshape(rows, columns)
    data = {
        "values": [[round(float(x), 4) if np.isfinite(x) else None for x in row] for row in v],
        "policy": moves.round(4).tolist(),
        "marks": texts.tolist(),
        "label": label,
    }
    return Picture(title, "grid policy", data)
