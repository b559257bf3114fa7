"""From hidden states to logits and back: what every implementation computes of a block."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

T = TypeVar("T")

__all__ = ["Gradients", "Head", "Operands", "Summed", "hits", "over_blocks", "part", "pick", "products"]


class Operands(NamedTuple):
    """Inputs of the primitive. `reference`: (hidden, unembedding) of the policy that KL is taken to."""

    hidden: Float[Array, "n d"]
    weight: Float[Array, "v d"]
    targets: Int[Array, " n"]
    bias: Float[Array, " v"] | None = None
    reference: tuple[Float[Array, "n e"], Float[Array, "v e"]] | None = None


# Of "hidden", "weight" and "bias": only those that are asked for, so a frozen head costs no product.
Gradients = dict[str, Array]

# Of the gradient of some rows of the weights [c, d]: over devices, [c, columns that this one stores].
Summed = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Head:
    """`logits = cap(hidden @ weight.T + bias) / temperature`; `cap(x) = soft_cap * tanh(x / soft_cap)`."""

    soft_cap: float | None = None
    temperature: float = 1.0
    statistics: tuple[str, ...] = ()

    def logits(self, hidden: Array, weight: Array, bias: Array | None = None) -> Float[Array, "n c"]:
        """float32 (float64 for float64 inputs) whatever the inputs, of a block of the vocabulary."""
        return self.after_products(products(hidden, weight), bias)

    def after_products(self, x: Float[Array, "n c"], bias: Array | None) -> Float[Array, "n c"]:
        """Logits from `hidden @ weight.T`."""
        if bias is not None:
            x = x + bias.astype(x.dtype)[None]
        return self.capped(x)

    def capped(self, x: Array) -> Array:
        """`cap(x) / temperature`."""
        if self.soft_cap is not None:
            x = self.soft_cap * jnp.tanh(x / self.soft_cap)
        return x if self.temperature == 1 else x / self.temperature

    def before_cap(self, gradient: Array, logits: Array) -> Array:
        """Gradient with respect to `hidden @ weight.T + bias` from that with respect to the logits."""
        if self.temperature != 1:
            gradient = gradient / self.temperature
        if self.soft_cap is None:
            return gradient
        return gradient * (1 - jnp.square(logits * (self.temperature / self.soft_cap)))


def products(hidden: Float[Array, "n d"], weight: Float[Array, "c d"]) -> Float[Array, "n c"]:
    """`hidden @ weight.T`, summed in float32 or wider.

    float32 inputs are multiplied as float32: the default of TPUs and GPUs would round them first. Narrower
    ones are exact as they are, whatever precision the user made the default (Mosaic refuses more).

    Returns:
      `[n, c]`, float32 or wider.

    Example:
      >>> from jaxpref.kernels.token_logps.head import products
      >>> print(products(jnp.array([[1.0, 2.0]], jnp.bfloat16), jnp.array([[3.0, 4.0]])))
      [[11.0]]
    """
    exact = jax.lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        hidden,
        weight.astype(hidden.dtype),
        (((1,), (1,)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
    )


def part(x: Array, begin: Array | int, size: int) -> Array:
    """`size` entries of axis 0 from `begin` on.

    Returns:
      The slice; the array itself where that is all of it.

    Example:
      >>> from jaxpref.kernels.token_logps.head import part
      >>> print(part(jnp.arange(5), 1, 2))
      [1 2]
    """
    return x if x.shape[0] == size else jax.lax.dynamic_slice_in_dim(x, begin, size)


def over_blocks(total: int, block: int, body: Callable[[T, Array | int, int], T], carry: T) -> T:
    """`body(carry, begin, size)` over consecutive blocks.

    The last, smaller one is a program of its own, so nothing is ever padded or masked.

    Returns:
      The last carry.

    Example:
      >>> from jaxpref.kernels.token_logps.head import over_blocks
      >>> print(int(over_blocks(10, 4, lambda carry, begin, size: carry + size**2, 0)))  # 16 + 16 + 4
      36
    """
    full, tail = divmod(total, block)
    if full == 1:
        carry = body(carry, 0, block)
    elif full:
        carry = jax.lax.fori_loop(0, full, lambda i, c: body(c, i * block, block), carry)
    return body(carry, full * block, tail) if tail else carry


def pick(logits: Float[Array, "n c"], targets: Int[Array, " n"]) -> Float[Array, "n 1"]:
    """The target's logit where it lies in this block, 0 elsewhere; `targets` count from the block's start.

    Returns:
      `[n, 1]`.

    Example:
      >>> from jaxpref.kernels.token_logps.head import pick
      >>> logits = jnp.array([[5.0, 6.0], [7.0, 8.0]])
      >>> print(pick(logits, jnp.array([1, 2])).ravel())  # the second target lies beyond the block
      [6.0 0.0]
    """
    inside = (targets >= 0) & (targets < logits.shape[1])
    picked = jnp.take_along_axis(logits, targets[:, None], 1, mode="clip")
    return jnp.where(inside[:, None], picked, 0)


def hits(targets: Int[Array, " n"], size: int) -> Array:
    """Where the targets are; one outside of `[0, size)` is nowhere.

    Returns:
      `[n, size]`, True at the target's column.

    Example:
      >>> from jaxpref.kernels.token_logps.head import hits
      >>> print(hits(jnp.array([1, 3]), 3).astype(int).tolist())
      [[0, 1, 0], [0, 0, 0]]
    """
    return jnp.arange(size, dtype=targets.dtype)[None] == targets[:, None]
