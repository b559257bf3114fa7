"""What is read out of a compiled program's text, against programs whose figures are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxpref.aot.costs import operations
from jaxpref.aot.hlo import Module, nbytes
from jaxpref.aot.traffic import Collective, collectives, largest_buffers, memory_bytes

LAYERS, WIDTH, ROWS = 7, 16, 8


def _mesh():
    return jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def _layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


@pytest.fixture(scope="module")
def split():
    """Layers whose products are split over `tensor`: one sum over it in each, and the module's text."""
    mesh = _mesh()
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    weights = jax.ShapeDtypeStruct(
        (LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "tensor"))
    )
    traced = jax.jit(_layers, out_shardings=NamedSharding(mesh, PartitionSpec("data"))).trace(x, weights)
    return traced, Module(traced.lower().compile().as_text())


def test_a_loop_counts_as_often_as_it_runs(split):
    traced, module = split
    assert operations(traced.jaxpr) == LAYERS * 2 * ROWS * WIDTH * WIDTH
    found = [one for one in collectives(module, dict(_mesh().shape)) if one.kind == "all-reduce"]
    sums = Collective("all-reduce", ("tensor",), 4, LAYERS, LAYERS * 4 * ROWS // 2 * WIDTH, 0)
    (one,) = found
    assert (one.axes, one.devices, one.count, one.bytes) == (sums.axes, 4, LAYERS, sums.bytes)
    assert one.moved == one.bytes * 2 * 3 / 4, "a ring sends all but its own quarter, twice"
    loops = [times for instruction, times in module.run() if instruction.opcode == "while"]
    assert loops == [1]
    # Every layer reads a quarter of its weights at least, and the rows.
    assert memory_bytes(module) >= LAYERS * 4 * (WIDTH // 4 * WIDTH + ROWS // 2 * WIDTH)


def test_a_buffer_has_its_size_and_line(split):
    buffers = largest_buffers(split[1])
    assert max(buffer.bytes for buffer in buffers) >= 4 * ROWS // 2 * WIDTH
    assert any("test_hlo.py" in buffer.line for buffer in buffers if buffer.line)


@pytest.mark.parametrize(
    ("type_", "size"),
    [
        ("f32[3,5]{1,0}", 60),
        ("f32[3,5]{1,0:T(8,128)}", 8 * 128 * 4),
        ("bf16[2,3,5]{2,1,0:T(8,128)(2,1)}", 2 * 8 * 128 * 2),
        ("bf16[5,3]{0,1:T(8,128)(2,1)}", 8 * 128 * 2),  # the first axis is the fastest
        ("f32[]{:T(128)}", 4),
        ("(f32[2]{0}, s32[3]{0}, pred[4]{0})", 8 + 12 + 4),
        ("f32[64,128]{1,0:T(8,128)S(1)}", 0),  # on the chip, not in main memory
    ],
)
def test_bytes_of_types(type_, size):
    assert nbytes(type_) == size


def _in_a_program(instruction):
    lines = ["ENTRY %main (x: f32[4]) -> f32[4] {", "  %x = f32[4]{0} parameter(0)"]
    text = "\n".join([*lines, f"  ROOT %y = f32[4]{{0}} {instruction}", "}"])
    return collectives(Module(text), {"data": 2, "tensor": 4})


@pytest.mark.parametrize(
    ("attribute", "axes", "devices"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("tensor",), 4),
        ("replica_groups=[2,4]<=[8]", ("tensor",), 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", ("data",), 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", ("data", "tensor"), 8),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("data",), 2),
        ("replica_groups={}", ("data", "tensor"), 8),
    ],
)
def test_groups_say_their_axes(attribute, axes, devices):
    (one,) = _in_a_program(f"all-reduce(%x), {attribute}, to_apply=%add")
    assert (one.axes, one.devices, one.bytes) == (axes, devices, 16)


def test_a_permutation_goes_over_its_ring():
    pairs = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    (one,) = _in_a_program(f"collective-permute(%x), {pairs}")
    assert (one.axes, one.devices, one.moved) == (("tensor",), 4, 16)


def _count(function, *shapes):
    return operations(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)))


def test_operations_as_written():
    product = 2 * 3 * 4 * 5
    assert _count(jnp.matmul, (3, 4), (4, 5)) == product
    assert (
        _count(
            lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: x @ y * 2 + x @ y), (3, 4), (4, 5)
        )
        == 2 * product
    )

    def looped(x, y):
        return jax.lax.while_loop(lambda c: c[0] < 6, lambda c: (c[0] + 1, c[1] @ y), (0, x))[1]

    assert _count(looped, (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4
    assert _count(jnp.add, (3, 4), (3, 4)) == 0

    def forward(x, y):
        return (jnp.tanh(x @ y) ** 2).sum()

    plain, again = (_count(jax.grad(f, (0, 1)), (3, 4), (4, 5)) for f in (forward, jax.checkpoint(forward)))
    assert plain == 3 * product
    assert again == 4 * product, "what a checkpoint computes again"


def test_operations_of_a_part_on_each_device():
    mesh = _mesh()
    spec = PartitionSpec("data", None)
    mapped = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    # Rows are split over `data` and each of the four along `tensor` does the same work.
    assert _count(mapped, (8, 4), (4, 5)) == 4 * 2 * 8 * 4 * 5


def test_a_kernel_counts_what_it_says():
    from jax.experimental import pallas as pl

    kernel = partial(
        pl.pallas_call,
        lambda x, o: None,
        out_shape=jax.ShapeDtypeStruct((8,), np.float32),
        cost_estimate=pl.CostEstimate(flops=123, bytes_accessed=0, transcendentals=0),
        interpret=True,
    )()
    assert _count(kernel, (8,)) == 123


@pytest.mark.parametrize(
    ("instruction", "size"),
    [
        ("(f32[10]{0}, f32[1000]{0}) all-reduce-start(%x), replica_groups={{0,1}}", 4040),
        ("((f32[5], f32[50]), (f32[10], f32[100])) all-gather-start(%x), replica_groups={{0,1}}", 440),
        ("(f32[5]{0}, f32[10]{0}) all-gather-start(%x), replica_groups={{0,1}}", 40),
    ],
)
def test_what_a_start_gives(instruction, size):
    text = f"ENTRY %main (x: f32[4]) -> f32[4] {{\n  ROOT %y = {instruction}\n}}"
    (one,) = collectives(Module(text), {"data": 2})
    assert one.bytes == size


def test_a_kernel_that_says_no_cost_counts_its_grid():
    from jax.experimental import pallas as pl

    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    whole = pl.BlockSpec((8, 8), lambda i: (0, 0))
    rows = pl.BlockSpec((4, 8), lambda i: (i, 0))
    product = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((16, 8), np.float32),
        grid=(4,),
        in_specs=[rows, whole],
        out_specs=rows,
        interpret=True,
    )
    assert _count(product, (16, 8), (8, 8)) == 2 * 16 * 8 * 8


def test_an_instruction_over_several_lines_ends_no_computation():
    """As that of a Pallas kernel with metadata is written."""
    lines = [
        "ENTRY %main (x: f32[4]) -> f32[4] {",
        "  %x = f32[4]{0} parameter(0)",
        '  %k = f32[8]{0} custom-call(%x), custom_call_target="tpu", frontend_attributes={metadata={',
        '"block": 512',
        '}}, metadata={op_name="jit(step)/splash" source_file="/a/jaxpref/models/b.py" source_line=7}',
        "  ROOT %y = f32[4]{0} all-reduce(%x), replica_groups={{0,1}}",
        "}",
    ]
    module = Module("\n".join(lines))
    (one,) = collectives(module, {"data": 2})
    assert one.bytes == 16
    (kernel,) = [b for b in largest_buffers(module) if b.type == "f32[8]"]
    assert (kernel.line, kernel.label) == ("jaxpref/models/b.py:7", "jit(step)/splash")
