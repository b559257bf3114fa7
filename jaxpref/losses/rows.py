"""Rows of a batch that are real, means over them, and tables with one entry per annotator or example."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_same_shape
from jaxpref.losses.scores import log_ratios

__all__ = ["entry_of", "mean_over", "only", "slots", "valid_log_ratios"]

Batch = Float[Array, " b"]
Rows = Bool[Array, " b"]


def only(valid: Rows, values: Float[Array, "b *rest"]) -> Float[Array, "b *rest"]:
    """0 in rows that are not valid, whatever they hold (NaN too), with zero gradient there."""
    return jnp.where(valid.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)


def mean_over(valid: Rows, values: Batch) -> Float[Array, ""]:
    """Mean over the valid rows, 0 where there are none."""
    return only(valid, values).sum() / jnp.maximum(valid.sum(), 1)


def valid_log_ratios(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    valid: Rows,
) -> tuple[Batch, Batch]:
    """`scores.log_ratios`, 0 in rows that are not valid."""
    check_same_shape({"chosen_logps": chosen_logps, "valid": valid})
    chosen, rejected = log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return only(valid, chosen), only(valid, rejected)


def entry_of(table: Float[Array, " n"], ids: Int[Array, " b"], valid: Rows) -> Batch:
    """`table[ids]`; NaN for an id that the table does not have, so that such a run stops at once. Rows that
    are not valid may hold any id."""
    ids = jnp.where(valid, jnp.where(ids < 0, table.size, ids), 0)
    return table.at[ids].get(mode="fill", fill_value=jnp.nan)


def slots(table: Float[Array, " n"], ids: Int[Array, " b"], valid: Rows) -> Int[Array, " b"]:
    """Where to scatter rows into `table` with `mode="drop"`: rows that are not valid point beyond its end."""
    return jnp.where(valid & (ids >= 0), ids, table.size)
