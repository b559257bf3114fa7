"""Weights of projections in fewer bits: what a layer computes with them, and how they lie among params.

In a tree a quantised weight is a dict in the place of the array: its codes, under the name of their format,
and "scales". Needs qwix, which is an extra, for the table of NF4 only.
"""

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from jaxpref.types import Params

__all__ = [
    "Format",
    "Quantized",
    "bound",
    "dequantized",
    "floats",
    "formats",
    "nf4_table",
    "packed",
    "product",
    "qwix",
]

Format = Literal["int8", "int4", "nf4"]


class Quantized(NamedTuple):
    """A weight: one of the formats, and a scale for each output and each tile of inputs.

    Codes of 4 bits lie two in a byte, the first input in its lower half. (XLA for CPU would keep its own
    4-bit arrays packed at the border of a program only, and unpack all layers within.)
    """

    scales: Float[Array, "*layers tiles o"]  # float32 or wider
    int8: Int[Array, "*layers i o"] | None = None  # weight = code * scale
    int4: UInt8[Array, "*layers i/2 o"] | None = None  # the same, with codes in two's complement
    nf4: UInt8[Array, "*layers i/2 o"] | None = None  # weight = nf4_table()[code] * scale


def qwix() -> ModuleType:
    """The library; ValueError where it is not installed."""
    try:
        import qwix as library
    except ImportError as error:
        raise ValueError(
            "quantised weights need the package qwix, which is not installed: pip install 'jaxpref[quant]'"
        ) from error
    return library


@functools.cache
def nf4_table() -> np.ndarray:
    """The 16 values of NF4, ascending, float32 (arXiv:2305.14314, appendix E), as qwix has them."""
    with jax.ensure_compile_time_eval():
        codes, ones = jnp.arange(16).astype(jnp.uint4)[:, None], jnp.ones((16, 1), jnp.float32)
        return np.asarray(qwix().dequantize(qwix().QArray(codes, ones, None, "nf4")))[:, 0]


def packed(codes: Shaped[Array, "*layers i o"]) -> UInt8[Array, "*layers i/2 o"]:
    """Codes of 4 bits, int4 or uint4, two in a byte."""
    bits = jax.lax.bitcast_convert_type(codes, jnp.uint4).astype(jnp.uint8)
    return bits[..., ::2, :] | (bits[..., 1::2, :] << 4)


def _unpacked(codes: UInt8[Array, "*layers i/2 o"]) -> UInt8[Array, "*layers i o"]:
    *layers, half, outputs = codes.shape
    parts = jnp.stack([codes & 15, codes >> 4], -2)
    return parts.reshape(*layers, 2 * half, outputs)


def dequantized(weight: Quantized, dtype: Any) -> Float[Array, "*layers i o"]:
    """The array in `dtype`; multiplied in the dtype of the scales, so that it is rounded once.

    *Differs from* `qwix.dequantize` in how NF4 is looked up: that one flattens the codes, for which all
    devices that a matrix is spread over have to exchange them.
    """
    if weight.int8 is not None:
        values = weight.int8
    elif weight.int4 is not None:
        values = (_unpacked(weight.int4) ^ 8).astype(jnp.int8) - 8
    else:
        assert weight.nf4 is not None
        values = _looked_up(_unpacked(weight.nf4))
    *layers, inputs, outputs = values.shape
    scales = weight.scales
    tiles = scales.shape[-2]
    split = values.astype(scales.dtype).reshape(*layers, tiles, inputs // tiles, outputs)
    return (split * scales[..., None, :]).reshape(values.shape).astype(dtype)


def _looked_up(codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Values of NF4. TPUs gather slowly, and XLA for CPU keeps every choice of bits as an array."""
    return jax.lax.platform_dependent(codes, cpu=_gathered, default=_chosen)


def _gathered(codes: Array) -> Array:
    return jnp.take(jnp.asarray(nf4_table()), codes.astype(jnp.int32), mode="clip")


def _chosen(codes: Array) -> Array:
    values: list[Any] = list(nf4_table())
    for bit in range(4):
        is_set = (codes >> bit) & 1 == 1
        values = [jnp.where(is_set, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]


@jax.custom_vjp
def _product(x: Array, weight: Quantized) -> Array:
    return x @ dequantized(weight, x.dtype)


def _forward(x: Array, weight: Quantized) -> tuple[Array, Quantized]:
    return _product(x, weight), weight


def _backward(weight: Quantized, dy: Array) -> tuple[Array, None]:
    return dy @ dequantized(weight, dy.dtype).T, None


_product.defvjp(_forward, _backward)


def product(x: Float[Array, "*rows i"], weight: Float[Array, "i o"] | Quantized) -> Float[Array, "*rows o"]:
    """`x @ weight` in the dtype of `x`.

    A quantised weight is dequantised where it is used, and for the backward pass again: were the floats kept
    from one to the other, a scan over layers would stack them all. It has no gradient.
    """
    y: Any = _product(x, weight) if isinstance(weight, Quantized) else x @ weight.astype(x.dtype)
    return y


def _is_quantized(node: Any) -> bool:
    return isinstance(node, Mapping) and "scales" in node and len(node) == 2 and bool(node.keys() & _NAMES)


_NAMES = {*get_args(Format)}


def formats(params: Params) -> list[str]:
    """Formats of the quantised weights in a tree, by name."""
    if not isinstance(params, Mapping):
        return []
    here = _NAMES & params.keys() if _is_quantized(params) else set()
    return sorted(here.union(*map(formats, params.values())))


def bound(weights: Params) -> Any:
    """Weights of a block with `Quantized` in the place of such dicts, as modules take them."""
    if _is_quantized(weights):
        return Quantized(**weights)
    if not isinstance(weights, Mapping):
        return weights
    return {name: bound(value) for name, value in weights.items()}


def floats(params: Params, dtype: Any) -> Params:
    """The same tree with arrays of `dtype` in the place of quantised weights."""
    if _is_quantized(params):
        return dequantized(Quantized(**jax.tree.map(jnp.asarray, params)), dtype)
    if not isinstance(params, Mapping):
        return params
    return {name: floats(value, dtype) for name, value in params.items()}
