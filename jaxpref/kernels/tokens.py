"""Where the tokens of a row are: all in one place within a layer, and split between layers.

An axis that splits heads and hidden units leaves the residual stream whole on each of its devices, and so
what is kept of every layer for the backward pass. Between layers each device may have its share of the tokens
instead (arXiv:2205.05198 Sec. 4.2.2): sums over heads and hidden units end as shares, and are gathered where
the next layer begins, which moves as many bytes as sums that end whole. Steps of decoding, which have few
tokens, are left as they are.
"""

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxpref.kernels.partition import partition_of

__all__ = ["tokens_split", "tokens_whole"]

_FEW = 16  # tokens of a share: rows of a tile of bfloat16 numbers


def tokens_split(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """`x` with its tokens over the axis of the mesh in context that splits heads, where it divides them; its
    gradient arrives whole.

    Returns:
      The same numbers.

    Example:
      >>> from jaxpref.kernels.tokens import tokens_split
      >>> print(tokens_split(jnp.ones((1, 2, 1))).ravel())  # no mesh in context
      [1.0000 1.0000]
    """
    return x if _split(x) is None else _leaving(x)


def tokens_whole(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """What `tokens_split` gave, with all tokens of a row in one place; its gradient leaves split.

    Returns:
      The same numbers.

    Example:
      >>> from jaxpref.kernels.tokens import tokens_whole
      >>> print(tokens_whole(jnp.ones((1, 2, 1))).ravel())  # no mesh in context
      [1.0000 1.0000]
    """
    return x if _split(x) is None else _entering(x)


def _split(x: Array) -> P | None:
    partition = partition_of(x.shape[0], x.shape[1], 1)
    if partition.vocab is None or x.shape[1] < _FEW * partition.vocab_shards:
        return None
    return P(partition.rows or None, partition.vocab)


def _laid_out(x: Array, *, split: bool) -> Array:
    spec = _split(x)
    assert spec is not None
    return jax.lax.with_sharding_constraint(x, spec if split else P(spec[0]))


@jax.custom_vjp
def _leaving(x: Array) -> Array:
    return _laid_out(x, split=True)


@jax.custom_vjp
def _entering(x: Array) -> Array:
    return _laid_out(x, split=False)


_leaving.defvjp(lambda x: (_leaving(x), None), lambda _, g: (_laid_out(g, split=False),))
_entering.defvjp(lambda x: (_entering(x), None), lambda _, g: (_laid_out(g, split=True),))
