"""Which mesh axis splits which dimension of a weight, and which rows of a batch are where."""

import json
import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from launch import TINY, here, run
from tiny import experiment

from jaxpref.data.loader import Loader
from jaxpref.experiment import MeshShape
from jaxpref.training import sharding
from jaxpref.training.loop import compiled_step
from jaxpref.training.sharding import (
    check_batch_size,
    make_mesh,
    param_shardings,
    put_batch,
    state_shardings,
    with_shardings,
)


@pytest.mark.parametrize(
    ("shape", "logical", "expected"),
    [
        ((8, 16), ("vocab", "embed"), P("tensor", "fsdp")),
        ((6, 16), ("vocab", "embed"), P(None, "fsdp")),  # 4 does not divide 6: whole, on every device
        ((8, 3), ("heads", "embed"), P("tensor", None)),
        ((8, 8), ("heads", "mlp"), P("tensor", None)),  # an axis splits one dimension only
        ((8,), (None,), P(None)),
    ],
)
def test_a_dimension_is_split_where_its_axis_divides_it(shape, logical, expected):
    mesh = make_mesh(MeshShape(data=1, fsdp=2, tensor=4))
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert param_shardings({"w": array}, {"w": logical}, mesh)["w"].spec == expected


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_each_device_holds_its_rows(shape):
    """Rows are split over data and fsdp, in that order, and repeated over tensor."""
    mesh = make_mesh(MeshShape(*shape))
    whole = {"tokens": np.arange(48).reshape(16, 3), "valid": np.arange(16) % 3 == 0}
    asked = []

    def read(rows):
        asked.append(rows)
        return jax.tree.map(lambda x: x[rows], whole)

    found = put_batch(read, 16, mesh)
    np.testing.assert_array_equal(asked, [np.arange(16)])  # one process reads each row once
    share = 16 // (shape[0] * shape[1])
    for name, array in found.items():
        assert array.shape == whole[name].shape
        for shard in array.addressable_shards:
            d, f, _ = (int(i[0]) for i in np.where(mesh.devices == shard.device))
            start = (d * shape[1] + f) * share
            np.testing.assert_array_equal(shard.data, whole[name][start : start + share])


@pytest.mark.parametrize(
    ("rows", "parts", "message"),
    [
        (
            6,
            1,
            "dpo: batch_size=6 does not divide over data x fsdp = 4 devices; use a multiple of 4, or fewer",
        ),
        (
            8,
            4,
            r"batch_size=8 .* 4 devices in 4 parts \(microbatches x minibatches\); use a multiple of 16, or",
        ),
    ],
)
def test_what_does_not_divide_is_refused(rows, parts, message):
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    check_batch_size(16, mesh, parts=4)
    with pytest.raises(ValueError, match=message):
        check_batch_size(rows, mesh, parts=parts, where="dpo")


def test_a_batch_that_does_not_divide_is_not_read():
    with pytest.raises(ValueError, match="batch_size=6 does not divide"):
        put_batch(lambda rows: pytest.fail("read"), 6, make_mesh(MeshShape(data=4, tensor=2)))


@pytest.mark.parametrize(("shape", "microbatches"), [((2, 2, 2), 1), ((1, 4, 2), 2)])
def test_activations_stay_where_their_rows_are(shape, microbatches):
    """Weights are gathered, gradients summed, and tokens of a row both around a layer. An activation goes
    from one layout to another only in a look-up, and where rows are cut into prompt and responses."""
    mesh = make_mesh(MeshShape(*shape))
    stage = experiment(batch_size=16, microbatches=microbatches, evaluators=False).stages[1]
    policy = partial(experiment().policy, unroll=1)()  # a loop over layers, as in large models
    algorithm = stage.build(policy)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    state = jax.eval_shape(algorithm.init, params)
    shardings = state_shardings(state, params, policy.axes(), mesh)
    batch = put_batch(partial(Loader(stage.train(), batch_size=16).batch, 0), 16, mesh)
    step = compiled_step(algorithm, shardings, mesh, seed=0, stage="dpo", skip_non_finite=False).compiled
    with jax.set_mesh(mesh):
        lowered = step.lower(with_shardings(state, shardings), jax.ShapeDtypeStruct((), bool), {}, batch, 0)
    text = lowered.compile().as_text()
    lines = [line for line in text.splitlines() if re.search(r" (all-to-all|collective-permute)\(", line)]
    looked_up = [line for line in lines if "shard_map/all_to_all" in line]
    assert looked_up
    assert [
        line for line in lines if line not in looked_up and not re.search(r'["/](slice|pad)"', line)
    ] == []
    assert len(lines) - len(looked_up) <= 3


@pytest.mark.exhaustive  # what it takes of the gate; the parts have tests of their own
@pytest.mark.slow
def test_nothing_is_gathered_whole_to_be_split_anew(tmp_path):
    """Where XLA cannot go from one layout to the other it says so, and takes the memory of one device."""
    one, eight = tmp_path / "one", tmp_path / "eight"
    arguments = ("train", TINY, "steps=2", "--no-report")
    mesh = ("data=2", "fsdp=2", "tensor=2")
    # A program out of the cache would warn of nothing.
    loud = {"TF_CPP_MIN_LOG_LEVEL": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    said = run(*arguments, *mesh, f"workdir={eight}", count=8, **loud)
    assert not re.findall("Involuntary full rematerialization.*", said)
    here(*arguments, f"workdir={one}")
    first, second = (
        [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for workdir in (one, eight)
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_only_data_goes_between_slices():
    """Devices of two slices, as a multislice pod (or two GPU nodes) has them."""

    def device(index: int):
        return mock.Mock(
            id=index, slice_index=index // 4, platform="gpu", device_kind="some", process_index=index // 4
        )

    devices = [device(index) for index in (0, 4, 1, 5, 2, 6, 3, 7)]
    mesh = sharding.make_mesh(MeshShape(data=-1, fsdp=2, tensor=1), devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    slices = [[d.slice_index for d in row] for row in mesh.devices[:, :, 0]]
    assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(
        ValueError, match=re.escape("only data goes between slices, so mesh.data must be a multiple of 2")
    ):
        sharding.make_mesh(MeshShape(data=1, fsdp=8), devices)


def test_a_torus_that_cannot_hold_a_mesh():
    devices = [mock.Mock(id=i, slice_index=0, coords=[i % 4, i // 4, 0]) for i in range(16)]
    with (
        mock.patch.object(jax, "make_mesh", side_effect=NotImplementedError("physical axes")),
        pytest.raises(ValueError, match="fsdp=8, tensor=2: a torus of 4 x 4 x 1 cannot hold it"),
    ):
        sharding.make_mesh(MeshShape(data=1, fsdp=8, tensor=2), devices)
