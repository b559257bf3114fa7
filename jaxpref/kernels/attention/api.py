"""What models call: which implementation runs for a shape, and the two that need no array of all scores."""

from jaxtyping import Array, Float

from jaxpref.kernels.attention.blockwise import Blocks, blockwise
from jaxpref.kernels.attention.dispatch import Choice, Shape, choice
from jaxpref.kernels.attention.rows import Marks, Row
from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.partition import partition_of, places_kernels

__all__ = ["planned", "row_attention"]


def planned(
    row: Row, *, rows: int, heads: int, kv_heads: int, window: int | None, implementation: str | None = None
) -> Choice:
    """What runs for `rows` such rows on the mesh and the machine in context; says so once for a shape.

    Args:
      window: the shortest one of any layer; None where no layer has one.
      implementation: a name from `IMPLEMENTATIONS`, or None to decide.

    Returns:
      The choice, for `row_attention`; "dense" is up to the caller.

    Raises:
      ValueError: what is asked for cannot run here.

    Example:
      >>> from jaxpref.kernels.attention import Row, planned
      >>> print(planned(Row(100, 2, 50), rows=4, heads=8, kv_heads=2, window=None).name)
      dense
    """
    partition = partition_of(rows, kv_heads, 1)
    plain = (window is None or window >= row.length) and places_kernels(partition)
    shape = Shape(rows // partition.row_shards, heads // partition.vocab_shards, row, plain)
    found = choice(shape, current_machine(), implementation)
    found.announce()
    return found


def row_attention(
    queries: Float[Array, "b t n g h"],
    keys: Float[Array, "b t n h"],
    values: Float[Array, "b t n h"],
    marks: Marks,
    found: Choice,
    *,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
) -> Float[Array, "b t n g h"]:
    """Softmax attention over rows: each token reads what `rows.reads` says, softmax in float32 or wider.

    Args:
      marks: what is known of each token.
      found: what `planned` gave for these rows, anything but "dense".
      soft_cap: `cap(x) = soft_cap * tanh(x / soft_cap)` of the scores; None is identity.
      window: that of `marks` where it is known while tracing, so that blocks beyond it are skipped.

    Returns:
      `[b, t, n, g, h]` in the dtype of the queries.

    Example:
      >>> from jaxpref.kernels.attention import Marks, Row, planned, row_attention
      >>> found = planned(Row(2), rows=1, heads=1, kv_heads=1, window=None, implementation="blockwise")
      >>> marks = Marks(jnp.zeros((1, 2), int), jnp.arange(2)[None], jnp.ones((1, 2), bool), None)
      >>> values = jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
      >>> read = row_attention(jnp.zeros((1, 2, 1, 1, 1)), values, values, marks, found, scale=1.0)
      >>> print(read.ravel())  # 2, and the mean of 2 and 4
      [2.0000 3.0000]
    """
    row = found.shape.row
    if found.name == "splash":
        from jaxpref.kernels.attention.splash import splash  # Pallas takes a third of a second to import

        partition = partition_of(queries.shape[0], queries.shape[2], 1)
        return splash(queries, keys, values, marks.real, row, partition, scale=scale, soft_cap=soft_cap)
    blocks = Blocks(row, min(found.block, row.length), soft_cap, window)
    return blockwise(queries, keys, values, marks, blocks, scale=scale)
