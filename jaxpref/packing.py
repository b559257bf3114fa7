"""Token sequences put one after another: right-padded arrays in, one right-padded array out."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

__all__ = ["packed", "real", "repeated"]

Part = tuple[Int[Array, "b t"], Bool[Array, "b t"]]


def packed(*parts: Part) -> Part:
    """The real tokens of each row's `parts`, in order, with the padding last.

    A part is tokens `[b, t]` and a mask `[b, t]`, True on real tokens; the result is `[b, sum of t]`.
    """
    tokens = jnp.concatenate([part for part, _ in parts], 1)
    mask = jnp.concatenate([mask for _, mask in parts], 1)
    order = jnp.argsort(~mask, axis=1, stable=True)
    mask = jnp.take_along_axis(mask, order, 1)
    return jnp.where(mask, jnp.take_along_axis(tokens, order, 1), 0), mask


def repeated(ids: Sequence[int], rows: int) -> Part:
    """The same tokens in every row, as a part."""
    tokens = jnp.asarray(list(ids), jnp.int32)
    return jnp.broadcast_to(tokens[None], (rows, len(ids))), jnp.ones((rows, len(ids)), bool)


def real(scored: Bool[Array, "*rows r"]) -> Bool[Array, "*rows r"]:
    """True up to the last scored token: tokens inside a response that are not scored belong to it too."""
    return jnp.flip(jnp.flip(scored, -1).cumsum(-1), -1) > 0
