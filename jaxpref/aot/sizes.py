"""Bytes of arrays on one device of a mesh."""

import math
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["bytes_on_device"]


def bytes_on_device(tree: Any) -> int:
    """Bytes on one device of arrays (or shapes) with shardings, without what fills up tiles."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * _width(x.dtype) for x in jax.tree.leaves(tree))


def _width(dtype: Any) -> int:
    # A key of the default generator is two words.
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
