"""Rotary position embeddings (arXiv:2104.09864 eq. 34), in both pairings and with scaled frequencies."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.models.architecture import RopeScaling, TransformerSizes

__all__ = ["frequencies", "rope_angles", "rope_tables", "rotate"]


def frequencies(sizes: TransformerSizes, *, local: bool = False) -> np.ndarray:
    """Radians per token of each rotating pair, float64 `[rotary_dim / 2]`.

    `local`: those of sliding-window layers.
    """
    exponents = np.arange(0, sizes.rotary_dim, 2, dtype=np.float64) / sizes.rotary_dim
    if local and sizes.local_rope_base is not None:
        return sizes.local_rope_base**-exponents
    base = sizes.rope_base**-exponents
    return base if sizes.rope_scaling is None else _scaled(base, sizes.rope_scaling)


def _scaled(base: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    if scaling.kind == "linear":
        return base / scaling.factor
    if scaling.kind == "longrope":
        return base / np.asarray(scaling.long_factors if scaling.long else scaling.short_factors)
    turns = scaling.original_length * base / (2 * np.pi)  # full turns within the original context
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return base * (kept + (1 - kept) / scaling.factor)


def rope_tables(
    sizes: TransformerSizes, positions: Int[Array, "b t"], dtype: jnp.dtype
) -> tuple[Float[Array, "n 2 b t half"] | None, tuple[int, ...]]:
    """The kinds of rotation that occur in a model, and the one of each layer; None where nothing rotates.

    A layer that does not rotate beside others that do has cosines of 1 and sines of 0.
    """
    if sizes.learned_positions:
        return None, (0,) * sizes.layers
    near = sizes.local_rope_base is not None
    rotates = sizes.rope_pattern or (True,) * sizes.layers
    kinds = [(r, near and local) for r, local in zip(rotates, sizes.local_layers, strict=True)]
    distinct = sorted(set(kinds))
    tables = []
    for turns, local in distinct:
        angles = rope_angles(positions, frequencies(sizes, local=local) * turns, dtype)
        if turns and sizes.rope_scaling is not None and not local:
            angles = angles * sizes.rope_scaling.attention_factor
        tables.append(angles)
    return jnp.stack(tables), tuple(distinct.index(kind) for kind in kinds)


def rope_angles(
    positions: Int[Array, "b t"], radians_per_token: np.ndarray, dtype: jnp.dtype
) -> Float[Array, "2 b t half"]:
    """Cosines and sines of every position, float32 or wider: bfloat16 cannot tell 257 from 258."""
    wide = jnp.promote_types(dtype, jnp.float32)
    angles = positions[..., None].astype(wide) * jnp.asarray(radians_per_token, wide)[None, None]
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotate(
    x: Float[Array, "b t *heads h"], angles: Float[Array, "2 b t half"], style: str
) -> Float[Array, "b t *heads h"]:
    """Rotates the first `2 * half` coordinates of each head; the dtype of `x` is kept."""
    half = angles.shape[-1]
    cos, sin = angles.reshape(*angles.shape[:3], *(1,) * (x.ndim - 3), half)
    wide = x[..., : 2 * half].astype(angles.dtype)
    if style == "half":
        first, second = wide[..., :half], wide[..., half:]
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    else:
        pairs = wide.reshape(*wide.shape[:-1], half, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(wide.shape)
    turned = turned.astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half :]], -1)
