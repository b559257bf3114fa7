"""Attention over rows a block at a time equals one softmax over the keys that each token reads."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, use_abstract_mesh
from jax.sharding import PartitionSpec as P
from x64 import enable_x64

from jaxpref.kernels.attention import Marks, Row, planned, row_attention
from jaxpref.kernels.attention.blockwise import Blocks, blockwise
from jaxpref.kernels.attention.splash import splash
from jaxpref.kernels.partition import partition_of

N, G, H = 2, 2, 8
LENGTHS = (5, 0, 3)  # of prompts with room for five tokens: one is full, one is empty
ROW = Row(prompt=5, responses=2, each=4)


def _operands(row, b, seed=0, heads=N, width=H):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(b, row.length, heads, G, width))
    k, v = rng.normal(size=(2, b, row.length, heads, width))
    return q, k, v


def _marks(row, lengths, window=None):
    lengths = np.array(lengths)[:, None]
    order, after = np.arange(row.prompt)[None], lengths + np.arange(row.each)[None]
    positions = np.concatenate([np.repeat(order, len(lengths), 0), np.tile(after, (1, row.responses))], 1)
    real = np.concatenate([order < lengths, np.ones((len(lengths), row.length - row.prompt), bool)], 1)
    limit = None if window is None else jnp.int32(window)
    return Marks(jnp.asarray(row.segments())[None], jnp.asarray(positions), jnp.asarray(real), limit)


def _read_by(row, lengths, window, b, t):
    """Which tokens token `t` of row `b` reads, from the definition."""
    response, place = divmod(t - row.prompt, row.each) if t >= row.prompt else (-1, t)
    start = row.prompt + response * row.each
    position = place if response < 0 else lengths[b] + place
    before = [] if response < 0 else [(j, j) for j in range(lengths[b])]
    first, offset = (0, 0) if response < 0 else (start, lengths[b])
    own = [(first + i, offset + i) for i in range(place + 1)]
    return [j for j, at in before + own if window is None or position - at < window]


def _expected(operands, row, lengths, *, scale, soft_cap, window):
    q, k, v = operands
    out = np.zeros_like(q)
    for b, t, n, g in np.ndindex(*q.shape[:4]):
        read = _read_by(row, lengths, window, b, t)
        scores = k[b, read, n] @ q[b, t, n, g] * scale
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        weights = np.exp(scores - scores.max())
        out[b, t, n, g] = weights / weights.sum() @ v[b, read, n]
    return out


CASES = [
    (ROW, LENGTHS, 3, None, None),
    (ROW, LENGTHS, 4, 2.0, 3),
    (ROW, LENGTHS, 13, None, 3),  # one block
    (Row(7), (7, 2), 2, None, None),
    (Row(0, 3, 4), (0, 0), 4, None, 2),
]


@pytest.mark.parametrize(("row", "lengths", "size", "soft_cap", "window"), CASES)
def test_equals_one_softmax(row, lengths, size, soft_cap, window):
    operands = _operands(row, len(lengths))
    expected = _expected(operands, row, lengths, scale=0.5, soft_cap=soft_cap, window=window)
    with enable_x64(True):
        for static in {None, window}:  # known while tracing, or to the device only
            blocks = Blocks(row, size, soft_cap, static)
            marks = _marks(row, lengths, window)
            given = blockwise(*map(jnp.asarray, operands), marks, blocks, scale=0.5)
            np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("soft_cap", "window"), [(None, None), (2.0, 3)])
def test_gradients_are_those_of_finite_differences(soft_cap, window):
    operands, directions = _operands(ROW, 3), _operands(ROW, 3, seed=1)
    weights = np.random.default_rng(2).normal(size=operands[0].shape)

    def total(operands):
        read = _expected(operands, ROW, LENGTHS, scale=0.5, soft_cap=soft_cap, window=window)
        return (read * weights).sum()

    with enable_x64(True):
        blocks, marks = Blocks(ROW, 3, soft_cap, window), _marks(ROW, LENGTHS, window)
        loss = lambda *x: (blockwise(*x, marks, blocks, scale=0.5) * weights).sum()  # noqa: E731
        gradients = map(np.asarray, jax.jit(jax.grad(loss, (0, 1, 2)))(*map(jnp.asarray, operands)))
    for i, (gradient, direction) in enumerate(zip(gradients, directions, strict=True)):
        moved = [
            [x + (s * 1e-5 * direction if i == j else 0) for j, x in enumerate(operands)] for s in (1, -1)
        ]
        slope = (total(moved[0]) - total(moved[1])) / 2e-5
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


@pytest.mark.parametrize("row", [ROW, Row(16, 2, 8), Row(0, 3, 5), Row(9), Row(2, 2, 11)])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_blocks_on_the_list_are_those_that_somebody_reads(row, window, size):
    wanted = set()
    for length in range(row.prompt + 1):
        for t in range(row.length):
            wanted |= {(t // size, j // size) for j in _read_by(row, (length,), window, 0, t)}
    assert set(map(tuple, row.blocks(size, window).tolist())) == wanted


def test_nothing_is_of_the_size_of_all_pairs():
    row = Row(64, 2, 64)
    blocks, marks = Blocks(row, 16, None, None), _marks(row, (64,))
    x = [jnp.asarray(x, jnp.float32) for x in _operands(row, 1)]
    text = str(jax.make_jaxpr(jax.grad(lambda *x: blockwise(*x, marks, blocks, scale=1.0).sum()))(*x))
    sizes = [np.prod(list(map(int, dims.split(",")))) for dims in re.findall(r"\w+\[([\d,]+)\]", text)]
    assert max(sizes) <= N * G * row.length * H < N * G * 64 * 64


def test_bfloat16_is_rounded_as_the_products_say():
    operands = [jnp.asarray(x, jnp.bfloat16) for x in _operands(ROW, 3)]
    wide = [np.asarray(x, np.float64) for x in operands]
    expected = _expected(wide, ROW, LENGTHS, scale=0.5, soft_cap=None, window=None)
    given = blockwise(*operands, _marks(ROW, LENGTHS), Blocks(ROW, 4, None, None), scale=0.5)
    assert given.dtype == jnp.bfloat16
    np.testing.assert_allclose(given.astype(jnp.float32), expected, rtol=0.02, atol=0.02)


@functools.cache
def _long():
    """A row of three blocks of the kernel's smallest size, and the same a block at a time, with gradients."""
    row, lengths = Row(200, 2, 80), (200, 150)
    operands = [jnp.asarray(x, jnp.float32) for x in _operands(row, 2, heads=2, width=128)]
    marks = _marks(row, lengths)
    # Padding reads other padding there, and nobody reads it: it counts for nothing.
    weights = (
        np.random.default_rng(3).normal(size=operands[0].shape)
        * np.asarray(marks.real)[..., None, None, None]
    )
    expected = _with_gradients(
        lambda *x: blockwise(*x, marks, Blocks(row, 128, 3.0, None), scale=0.1), weights
    )
    return row, operands, marks.real, weights, expected(*operands)


def _with_gradients(attention, weights):
    def loss(*operands):
        read = attention(*operands) * weights
        return read.sum(), read

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


@pytest.mark.exhaustive  # Pallas programs in JAX: seconds
@pytest.mark.parametrize("shape", [None, (2, 1, 2)])
def test_splash_equals_blocks(shape):
    row, operands, real, weights, expected = _long()
    if shape is None:
        partition = partition_of(2, 2, 1)
        given = _with_gradients(
            lambda *x: splash(*x, real, row, partition, scale=0.1, soft_cap=3.0, interpret=True), weights
        )(*operands)
    else:
        mesh = jax.make_mesh(
            shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:4]
        )
        by_head = NamedSharding(mesh, P(("data", "fsdp"), None, "tensor"))
        with jax.set_mesh(mesh):
            partition = partition_of(2, 2, 1)
            assert (partition.row_shards, partition.vocab_shards) == (2, 2)
            given = _with_gradients(
                lambda *x: splash(*x, real, row, partition, scale=0.1, soft_cap=3.0, interpret=True), weights
            )(*[jax.device_put(x, by_head) for x in operands])
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4)])  # four devices do not divide two key heads
def test_devices_agree(shape):
    b, lengths = 8, (5, 0, 3, 1, 5, 2, 4, 5)
    operands = [jnp.asarray(x, jnp.float32) for x in _operands(ROW, b)]
    weights = np.random.default_rng(3).normal(size=operands[0].shape)
    attention = _with_gradients(
        lambda *x: blockwise(*x, _marks(ROW, lengths), Blocks(ROW, 4, None, None), scale=0.5), weights
    )
    expected = attention(*operands)
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        given = attention(*[jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp")))) for x in operands])
    for x, y in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


class TestChoice:
    LARGE = Row(2048, 2, 2048)

    def planned(self, row=LARGE, rows=1, kv_heads=8, window=None, **options):
        return planned(row, rows=rows, heads=32, kv_heads=kv_heads, window=window, **options)

    def on(self, kind, platform, sizes=(1, 1)):
        device = AbstractDevice(kind, 1, platform)
        axes = (AxisType.Auto,) * 2
        return use_abstract_mesh(AbstractMesh(sizes, ("fsdp", "tensor"), axes, abstract_device=device))

    def test_small_is_dense_and_large_is_not(self):
        assert self.planned(Row(128, 2, 128), rows=8).name == "dense"
        assert self.planned().name == "blockwise"
        assert self.planned(Row(0, 2, 128)).name == "dense"

    def test_on_a_tpu(self):
        with self.on("TPU v5", "tpu", (4, 2)):
            assert self.planned(rows=4).name == "splash"
            assert self.planned(rows=4, window=4096).name == "blockwise"
            assert self.planned(rows=4, window=6144).name == "splash"  # as long as the row
            assert self.planned(rows=3).name == "blockwise"  # four devices do not divide three rows
            assert self.planned(rows=4, kv_heads=1).name == "blockwise"
            assert self.planned(Row(128, 2, 128), rows=4).name == "dense"

    def test_room_on_a_gpu(self):
        with self.on("NVIDIA H200", "gpu"):
            assert self.planned(Row(512, 2, 512), rows=2).name == "dense"
            assert self.planned(rows=4).name == "blockwise"

    def test_asked_for(self):
        assert self.planned(Row(8), implementation="blockwise").name == "blockwise"
        with pytest.raises(ValueError, match="attention='splash' is a kernel for TPUs, and this is a cpu"):
            self.planned(implementation="splash")
        with self.on("TPU v5", "tpu"), pytest.raises(ValueError, match="has no sliding windows"):
            self.planned(implementation="splash", window=16)

    def test_is_said_once_for_a_shape(self, caplog):
        caplog.set_level("INFO", "jaxpref.kernels")
        for _ in range(2):
            self.planned(Row(2049, 2, 2048))
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith(
            "attention: blockwise for 1 rows, prompt of 2,049, 2 responses of 2,048, 32 heads: float32 scores"
        )


def test_a_row_of_one_block_is_short_enough():
    """Rows shorter than the block take blocks of their own length."""
    found = planned(ROW, rows=3, heads=N * G, kv_heads=N, window=None, implementation="blockwise")
    operands = _operands(ROW, 3)
    given = row_attention(*map(jnp.asarray, operands), _marks(ROW, LENGTHS), found, scale=0.5)
    expected = _expected(operands, ROW, LENGTHS, scale=0.5, soft_cap=None, window=None)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
