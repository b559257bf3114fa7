"""The product of an adapter, and gradients of it that transpose nothing but what is small."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["low_rank"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def low_rank(
    scale: float, x: Float[Array, "*rows i"], a: Float[Array, "i r"], b: Float[Array, "r o"]
) -> Float[Array, "*rows o"]:
    """`scale * (x @ a) @ b` in the dtype of `x`; gradients of `a` and `b` are summed in float32 or wider.

    Of a product of tokens and weights JAX takes the gradient in the weights as `(dy.T @ x).T`, for which XLA
    computes what is upstream in transposed order. Here only `[rows, r]` and `[r, i]` are transposed.
    """
    return _forward(scale, x, a, b)[0]


def _forward(scale: float, x: Array, a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    low = (x @ a.astype(x.dtype)) * scale  # where the numbers are few
    return low @ b.astype(x.dtype), (x, low, a, b)


def _backward(scale: float, kept: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    x, low, a, b = kept
    d_low = (dy @ b.astype(dy.dtype).T) * scale
    of_a, of_b = _over_rows(d_low, x).T, _over_rows(low, dy)
    return d_low @ a.astype(dy.dtype).T, of_a.astype(a.dtype), of_b.astype(b.dtype)


def _over_rows(first: Float[Array, "*rows m"], second: Float[Array, "*rows n"]) -> Float[Array, "m n"]:
    """`first.T @ second`, float32 or wider."""
    rows = tuple(range(first.ndim - 1))
    wide = jnp.promote_types(first.dtype, jnp.float32)

    def product(first: Array, second: Array) -> Array:
        return jax.lax.dot_general(first, second, ((rows, rows), ((), ())), preferred_element_type=wide)

    def of_wide(first: Array, second: Array) -> Array:
        return product(first.astype(wide), second.astype(wide))

    # XLA on CPU has no product of bfloat16 matrices with a float32 result where one of them is transposed.
    return jax.lax.platform_dependent(first, second, cpu=of_wide, default=product)


low_rank.defvjp(_forward, _backward)
