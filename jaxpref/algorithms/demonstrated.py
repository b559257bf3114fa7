"""What demonstrations show of a finite world: occupancies and first states."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.types import Segments

__all__ = ["demonstrated", "first_states"]


def demonstrated(batch: Segments, *, states: int, actions: int, discount: float) -> Float[Array, "s a"]:
    """Share of each state and action in the steps of a batch, `[s, a]` of total 1.

    Step t of a segment has weight discount^t, times the weight of its row. Nothing is added for steps that a
    cut-off segment would have taken later.
    """
    steps = discount ** jnp.arange(batch.actions.shape[-1])
    often = jnp.where(batch.mask, batch.response_weights[..., None] * steps[None, None], 0)
    counts = jnp.zeros((states, actions), often.dtype).at[batch.observations, batch.actions].add(often)
    return counts / counts.sum()


def first_states(batch: Segments, *, states: int) -> Float[Array, " s"]:
    """Share of each state among the first ones of a batch's segments, `[s]` of total 1."""
    alive = batch.response_weights * batch.mask[:, :, 0]
    counts = jnp.zeros(states, alive.dtype)
    counts = counts.at[batch.observations[:, :, 0]].add(alive)
    return counts / counts.sum()
