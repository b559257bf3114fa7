"""A ring buffer of records: the newest rows, in arrays of fixed size."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxpref.types import Completions, PRNGKey

__all__ = ["Replay", "draw", "empty_replay", "push"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """Rows that were pushed last. A pytree: it may live in a state, be jitted and be saved."""

    rows: Completions  # [capacity, ...]
    # Rows pushed so far; once full it runs from the capacity to twice that, so that it never overflows. The
    # next row goes to `pushed % capacity`.
    pushed: Int[Array, ""]


def empty_replay(like: Completions, capacity: int) -> Replay:
    """A buffer for records with the shapes of `like`, at least one batch of them.

    Returns:
      A buffer of `capacity` rows that holds none yet.

    Raises:
      ValueError: `capacity` is below the number of rows of `like`.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[7]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> buffer = selection.empty_replay(batch, capacity=3)
      >>> print(int(buffer.pushed), buffer.rows.valid)
      0 [False False False]
    """
    if capacity < len(like.prompt_tokens):
        raise ValueError(
            f"capacity: expected at least a batch, {len(like.prompt_tokens)} rows, got {capacity}"
        )
    rows = jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape[1:]), a.dtype), like)
    return Replay(rows, jnp.int32(0))


def push(buffer: Replay, batch: Completions) -> Replay:
    """The buffer with a batch in place of its oldest rows. Padding rows of the batch take a place too.

    Returns:
      The new buffer, of the same capacity.

    Raises:
      ValueError: the batch has more rows than the buffer.

    Example:
      >>> from jaxpref.types import Completions
      >>> rows = [jnp.array([[[token]]]) for token in (7, 8, 9)]
      >>> batches = [Completions(t[:, 0], t[:, 0] > 0, t, t > 0) for t in rows]
      >>> buffer = selection.empty_replay(batches[0], capacity=2)
      >>> for batch in batches:
      ...     buffer = selection.push(buffer, batch)
      >>> print(buffer.rows.response_tokens.ravel())
      [9 8]
    """
    capacity, b = len(buffer.rows.prompt_tokens), len(batch.prompt_tokens)
    if b > capacity:
        raise ValueError(f"push: {b} rows do not fit a buffer of {capacity}")
    places = (buffer.pushed + jnp.arange(b)) % capacity
    rows = jax.tree.map(lambda old, new: old.at[places].set(new), buffer.rows, batch)
    pushed = buffer.pushed + b
    return Replay(rows, jnp.where(pushed >= 2 * capacity, pushed - capacity, pushed))


def draw(buffer: Replay, key: PRNGKey, n: int) -> Completions:
    """`n` rows with replacement, uniform over those held; padding where the buffer is empty.

    Returns:
      A record of `n` rows.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[7]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> buffer = selection.push(selection.empty_replay(batch, capacity=3), batch)
      >>> print(selection.draw(buffer, jax.random.key(0), 4).response_tokens.ravel())  # it holds one row
      [7 7 7 7]
    """
    filled = jnp.minimum(buffer.pushed, len(buffer.rows.prompt_tokens))
    places = jax.random.randint(key, (n,), 0, jnp.maximum(filled, 1))
    return jax.tree.map(lambda a: a[places], buffer.rows)
