"""Checksums of arrays, computed where the arrays lie.

Two things tell arrays apart here. `constants.fingerprint` is a SHA-256 on the host: it names weights, may be
compared by anybody for years, and costs a read of everything (1.4 GB a CPU second). A checksum asks less,
whether a checkpoint came back from the disk as it was saved, and must cost next to nothing at each save: one
pass over the memory of the devices, and four bytes that leave them for each array.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

__all__ = ["checksum", "checksums", "named"]

_GOLDEN = 0x9E3779B9


def named(tree: Any) -> dict[str, Any]:
    """Leaves by the dotted name that a checkpoint has them under.

    Raises:
      ValueError: two have the same, as `{"a.b": x, "a": {"b": y}}`: one would be saved for both.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in leaves:
            raise ValueError(
                f"two arrays of the state have the name {name} in a checkpoint, which would hold one of them "
                "for both; take the dots out of the names of its dicts"
            )
        leaves[name] = leaf
    return leaves


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of each array by its dotted name, 0 to 2^32 - 1.

    They depend on shape, dtype, values and the place of each, and neither on the mesh nor on the number of
    processes, all of which must call this together.

    Raises:
      ValueError: two arrays have one name.
    """
    leaves = named(tree)
    if not leaves:
        return {}
    layouts = [getattr(x, "sharding", None) for x in leaves.values()]
    meshes = [layout.mesh for layout in layouts if isinstance(layout, NamedSharding)]
    found = _program(meshes[0] if meshes else None)(list(leaves.values()))
    return {name: int(value) for name, value in zip(leaves, np.asarray(found), strict=True)}


@functools.lru_cache(maxsize=8)
def _program(mesh: Any) -> Any:
    """One program for all arrays of a tree, so that processes add up all of their parts at once."""
    out = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([checksum(x) for x in leaves]), out_shardings=out)


def checksum(x: Array) -> UInt32[Array, ""]:
    """Sum, modulo 2^32, over 4-byte words of a hash of the word and of where it stands.

    Whole numbers add up exactly in any order, so parts on several devices do. Another value of one word
    always changes the sum, since the hash is a permutation of words at each place; any other change, such as
    two values in each other's place, leaves it as it was with a chance of 2^-32.

    x: no larger than 2^32 words a row (index of axis 0).
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    # Of eight bytes this makes two words, on an axis of their own.
    words = jax.lax.bitcast_convert_type(x, f"uint{8 * min(x.dtype.itemsize, 4)}").astype(jnp.uint32)
    words = words.reshape(words.shape or (1,))
    rows = jax.lax.broadcasted_iota(jnp.uint32, (words.shape[0], *[1] * (words.ndim - 1)), 0)
    place, stride = jnp.broadcast_to(_hash(rows), words.shape), 1
    for axis in range(words.ndim - 1, 0, -1):
        step = jnp.uint32(stride * _GOLDEN % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * step
        stride *= words.shape[axis]
    return jnp.sum(_hash(words ^ place), dtype=jnp.uint32)


def _hash(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A permutation of words in which each bit depends on all, but 0 stays 0 (multipliers: Wellons,
    "Prospecting for hash functions", 2018: lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
