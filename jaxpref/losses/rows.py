"""Helpers of losses that see a batch as a whole: rows that are real, means over them, and tables by id.

A batch is padded to its shape with rows that are not `valid`; a table has one entry per annotator or example.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_same_shape
from jaxpref.losses.scores import log_ratios

__all__ = ["entry_of", "mean_over", "only", "slots", "valid_log_ratios"]

Batch = Float[Array, " b"]
Rows = Bool[Array, " b"]


def only(valid: Rows, values: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """The values, with 0 in rows that are not valid, whatever they hold (NaN too).

    Returns:
      [b, ...] as `values`, with zero gradient in rows that are not valid.

    Example:
      >>> print(only(jnp.array([True, False]), jnp.array([1.5, jnp.nan])))
      [1.5000 0.0000]
    """
    return jnp.where(valid.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)


def mean_over(valid: Rows, values: Batch) -> Float[Array, ""]:
    """Mean over the valid rows.

    Returns:
      A number in the unit of `values`; 0 where no row is valid.

    Example:
      >>> print(mean_over(jnp.array([True, True, False]), jnp.array([1.0, 2.0, jnp.nan])))
      1.5000
    """
    return only(valid, values).sum() / jnp.maximum(valid.sum(), 1)


def valid_log_ratios(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    valid: Rows,
) -> tuple[Batch, Batch]:
    """`scores.log_ratios`, 0 in rows that are not valid.

    Returns:
      Two arrays [b] in nats, of the chosen and the rejected responses.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> w, x, ref = jnp.array([-1.0, jnp.nan]), jnp.array([-3.0, 0.0]), jnp.array([-2.0, -2.0])
      >>> print(*valid_log_ratios(w, x, ref, ref, jnp.array([True, False])))
      [1.0000 0.0000] [-1.0000 0.0000]
    """
    check_same_shape({"chosen_logps": chosen_logps, "valid": valid})
    chosen, rejected = log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return only(valid, chosen), only(valid, rejected)


def entry_of(table: Float[Array, " n"], ids: Int[Array, " b"], valid: Rows) -> Batch:
    """`table[ids]` of the valid rows; rows that are not valid may hold any id.

    Returns:
      [b] as `table`; NaN for an id that the table does not have, so that such a run stops at once.

    Example:
      >>> print(entry_of(jnp.array([0.1, 0.9]), jnp.array([1, 2, -1]), jnp.array([True, True, True])))
      [0.9000 nan nan]
    """
    ids = jnp.where(valid, jnp.where(ids < 0, table.size, ids), 0)
    return table.at[ids].get(mode="fill", fill_value=jnp.nan)


def slots(table: Float[Array, " n"], ids: Int[Array, " b"], valid: Rows) -> Int[Array, " b"]:
    """Where to scatter rows into `table` with `mode="drop"`.

    Returns:
      [b] the ids of valid rows; the table's size, beyond its end, for the others and for negative ids.

    Example:
      >>> print(slots(jnp.zeros(2), jnp.array([1, -1, 0]), jnp.array([True, True, False])))
      [1 2 2]
    """
    return jnp.where(valid & (ids >= 0), ids, table.size)
