"""Weights in fewer bits: what the formats promise, by enumeration, and how arrays of them are read."""

import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpref.models.hub.lazy import LazyArray, stacked
from jaxpref.models.quantized import (
    Quantized,
    _chosen,
    _gathered,
    bound,
    dequantized,
    floats,
    nf4_table,
    product,
)
from jaxpref.models.quantizing import Quantization

# arXiv:2305.14314, appendix E.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
]
FORMATS = [("int8", None), ("int8", 8), ("int4", 8), ("nf4", 8)]


def weights(dtype=np.float32, layers=2, inputs=24, outputs=5):
    return np.random.default_rng(0).normal(size=(layers, inputs, outputs)).astype(dtype)


def read(made):
    return Quantized(**{name: jnp.asarray(x[...]) for name, x in made.items()})


def by_numpy(weight, kind, tile):
    """Tiles `[layers, tiles, tile, outputs]`, the step of each, and the nearest values of the format."""
    layers, inputs, outputs = weight.shape
    tiles = weight.astype(np.float64).reshape(layers, inputs // tile, tile, outputs)
    bits = {"int8": 8, "int4": 4}
    largest = np.abs(tiles).max(2, keepdims=True)
    step = largest / {"int8": 127.5, "int4": 7.5, "nf4": 1}[kind]
    levels = np.arange(-(2 ** (bits[kind] - 1)), 2 ** (bits[kind] - 1)) if kind in bits else np.asarray(NF4)
    distance = np.abs((tiles / step)[..., None] - levels)
    return tiles, step, levels[distance.argmin(-1)] * step


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("kind", "tile"), FORMATS)
def test_values_are_the_nearest_of_the_format(kind, tile, dtype):
    """Of uniform formats no weight is off by more than half a step, the largest included."""
    weight = weights(dtype)
    made = dequantized(read(Quantization(kind, tile).of(weight)), jnp.float32)
    tiles, step, nearest = by_numpy(weight, kind, tile or 24)
    error = np.abs(np.asarray(made, np.float64).reshape(tiles.shape) - tiles)
    if kind != "nf4":
        assert (error <= step / 2 + 1e-6).all()  # float32, of weights up to 4
        assert error.max() > 0.45 * step.min(), "the bound would hold of something finer"
    np.testing.assert_allclose(error, np.abs(nearest - tiles), atol=2e-6)


def test_the_table_of_nf4():
    """That of the paper, by both ways to look it up, for all codes."""
    np.testing.assert_array_equal(nf4_table(), np.asarray(NF4, np.float32))
    codes = jnp.arange(16, dtype=jnp.uint8).reshape(2, 8)
    for way in (_gathered, _chosen):
        np.testing.assert_array_equal(way(codes), nf4_table().reshape(2, 8))


@pytest.mark.parametrize("kind", ["int4", "nf4"])
def test_two_codes_lie_in_a_byte(kind):
    """The first input in the lower half; int4 in two's complement."""
    levels = np.arange(-8, 8) if kind == "int4" else np.asarray(NF4)
    byte = np.arange(256, dtype=np.uint8)[None, None]
    codes = np.stack([byte & 15, byte >> 4], 1)[:, :, 0]  # [1, 2, 256]
    expected = levels[(codes ^ 8) if kind == "int4" else codes].astype(np.float32)
    made = dequantized(Quantized(jnp.ones((1, 1, 256)), **{kind: jnp.asarray(byte)}), jnp.float32)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(("kind", "tile"), FORMATS)
def test_slices_are_those_of_the_whole(kind, tile):
    """Wherever a device's part begins and ends: within tiles, too, and of more than a block."""
    for weight, cuts in (
        (weights(), (3, 7, 1, 4)),
        (weights(inputs=48, outputs=11_000), (2, 9, 5000, 10_999)),
    ):
        first, last, left, right = cuts
        for array in Quantization(kind, tile).of(stacked(list(weight))).values():
            assert isinstance(array, LazyArray)
            assert array.is_stack
            whole = array[...]
            rows = slice(min(first, array.shape[1] - 1), last)
            index = slice(1, 2), rows, slice(left, right)
            np.testing.assert_array_equal(array[index], whole[index])


@pytest.mark.parametrize(("kind", "tile"), FORMATS)
def test_a_product_is_that_of_the_floats(kind, tile):
    """Its value and its gradient in the inputs; the weight has none."""
    weight = jax.tree.map(lambda x: x[0], read(Quantization(kind, tile).of(weights())))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 24)), jnp.float32)
    made, back = jax.vjp(product, x, weight)
    expected, plain = jax.vjp(product, x, dequantized(weight, jnp.float32))
    np.testing.assert_array_equal(made, expected)
    of_x, of_weight = back(made)
    np.testing.assert_allclose(of_x, plain(made)[0], rtol=1e-5, atol=1e-5)
    assert not np.any(of_weight.scales)


def test_trees():
    """Dicts of one format and scales are weights; a norm's `scale` is none."""
    made = {name: jnp.asarray(x[...]) for name, x in Quantization("int8").of(weights()).items()}
    tree = {"query": {"weight": made, "bias": 1}, "norm": {"scale": 2}}
    assert bound(tree)["query"]["weight"].int8 is made["int8"]
    assert bound(tree)["norm"] == {"scale": 2}
    plain = floats(tree, jnp.bfloat16)
    assert plain["query"]["weight"].dtype == jnp.bfloat16
    assert plain["norm"] == {"scale": 2}


def test_weights_of_zero_and_large_ones_stay():
    weight = np.zeros((1, 8, 2), np.float32)
    weight[0, :, 1] = np.float32(2.0**100) * np.asarray(NF4[:8], np.float32)
    made = dequantized(read(Quantization("nf4", 8).of(weight)), jnp.float32)
    np.testing.assert_array_equal(made, weight)


def test_what_is_no_format_is_refused():
    with pytest.raises(
        ValueError, match=r"quantize: expected one of \('int8', 'int4', 'nf4'\) or None, got 'fp8'"
    ):
        Quantization("fp8")
    with pytest.raises(
        ValueError, match="quantize_tile: expected 1 or more inputs, an even number in 4 bits, got 3"
    ):
        Quantization("nf4", 3)
    with pytest.raises(ValueError, match="tiles of 64 do not divide the 40 inputs of blocks"):
        Quantization("nf4").check({"blocks.mlp.down.weight": (1, 40, 16)})
    Quantization("int8").check({"blocks.mlp.down.weight": (1, 40, 16)})


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxpref\[quant\]'"):
        Quantization("int8")
