"""Attention of responses to a prompt they share: joint softmax over two or three sets of keys.

The scores of each set stay in the layout of its matrix product; only the maxima and sums of each query are
brought together. So the prompt's keys are never copied `k` times, and no score array is concatenated.

Letters: b prompts, k responses, q queries, s keys, n key heads, g query heads per key head, h head_dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["Keys", "attend"]


class Keys(NamedTuple):
    """Keys and values of one set, and which of them each query may read."""

    keys: Float[Array, "b *k n s h"]  # without k: shared by the k responses of a prompt
    values: Float[Array, "b *k n s h"]  # heads before tokens, as the products read them
    mask: Bool[Array, "#b #q s"] | None  # None: all of them


def _scores(queries: Array, part: Keys, scale: float, soft_cap: float | None) -> Array:
    """`[b k n g q s]` for own keys, `[b n k g q s]` for shared ones; masked ones are very negative."""
    shared = part.keys.ndim == 4
    form = "bkqngh,bnsh->bnkgqs" if shared else "bkqngh,bknsh->bkngqs"
    wide = jnp.promote_types(queries.dtype, jnp.float32)
    scores = jnp.einsum(form, queries * scale, part.keys, preferred_element_type=wide)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if part.mask is None:
        return scores
    return jnp.where(part.mask[:, None, None, None], scores, jnp.finfo(wide).min / 2)


def attend(
    queries: Float[Array, "b k q n g h"],
    parts: Sequence[Keys],
    *,
    scale: float,
    soft_cap: float | None = None,
) -> Float[Array, "b k q n g h"]:
    """Softmax attention over the union of `parts`, softmax in float32 or wider.

    Every query must be allowed at least one key of some part (its own token is one).
    """
    scores = [_scores(queries, part, scale, soft_cap) for part in parts]
    shared = [part.keys.ndim == 4 for part in parts]

    def aligned(x: Array, is_shared: bool) -> Array:  # between the two orders of (k, n)
        return jnp.swapaxes(x, 1, 2) if is_shared else x

    largest = [aligned(s.max(-1), is_shared) for s, is_shared in zip(scores, shared, strict=True)]
    top = largest[0]
    for other in largest[1:]:
        top = jnp.maximum(top, other)
    top = jax.lax.stop_gradient(top)  # the value does not depend on it
    total, read = 0.0, 0.0
    for s, part, is_shared in zip(scores, parts, shared, strict=True):
        weights = jnp.exp(s - aligned(top, is_shared)[..., None])
        total += aligned(weights.sum(-1), is_shared)
        # As a batched product with the weights on the left: `einsum` puts them on the right, and XLA then
        # copies the values transposed, for one query as for many.
        weights = weights.astype(part.values.dtype)
        values, batch = part.values, tuple(range(part.values.ndim - 2))
        product = jax.lax.dot_general(
            weights.reshape(*values.shape[:-2], -1, values.shape[-2]),
            values,
            (((len(batch) + 1,), (len(batch),)), (batch, batch)),
            preferred_element_type=top.dtype,
        ).reshape(*weights.shape[:-1], -1)
        read += jnp.transpose(product, (0, 2, 4, 1, 3, 5) if is_shared else (0, 1, 4, 2, 3, 5))
    total = jnp.transpose(total, (0, 1, 4, 2, 3))  # b k q n g
    return (read / total[..., None]).astype(queries.dtype)
