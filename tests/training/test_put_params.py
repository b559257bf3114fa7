"""Weights on their way to the devices: what is read, once, and in what order."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tiny import experiment
from toys import scored_table_policy

from jaxpref.experiment import MeshShape
from jaxpref.models.hub.lazy import LazyArray, stacked, wrapped
from jaxpref.models.hub.safetensors import open_file, write_file
from jaxpref.training import sharding
from jaxpref.training.params import initial_params
from jaxpref.training.run import open_run

VOCAB = 24
LAYERS = [np.random.default_rng(i).normal(size=(8, 12)).astype(jnp.bfloat16) for i in range(3)]


class Noted(LazyArray):
    """Notes what is asked for."""

    def __init__(self, array):
        super().__init__(array.shape, array.dtype)
        self.base, self.asked = wrapped(array), []

    def pieces(self, bounds):
        self.asked.append(bounds)
        return self.base.pieces(bounds)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize("put", [sharding.put_params, sharding._put_one_by_one])
@pytest.mark.parametrize("spec", [P(), P(None, "fsdp"), P(None, None, "tensor"), P(None, "tensor", "fsdp")])
def test_every_slice_is_read_once(mesh, spec, put):
    """Devices that hold the same slice share what is read, whatever else splits the mesh."""
    layers = [Noted(x) for x in LAYERS]
    given = stacked([x.T for x in layers])
    found = put(given, NamedSharding(mesh, spec))
    assert found.sharding.spec == spec
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found), np.stack([x.T for x in LAYERS]))
    for layer in layers:
        cells = [(i, j) for (a, b), (c, d) in layer.asked for i in range(a, b) for j in range(c, d)]
        assert len(cells) == len(set(cells)) == 8 * 12


def test_a_stack_passes_one_array_at_a_time(mesh):
    """Off the CPU, where what is on the host is not yet what the devices hold."""
    order = []

    class Ordered(Noted):
        def pieces(self, bounds):
            order.append(self)
            return super().pieces(bounds)

    layers = [Ordered(x) for x in LAYERS]
    sharding._put_one_by_one(stacked(layers).astype(np.float32), NamedSharding(mesh, P(None, "fsdp")))
    assert order == [layers[0], layers[0], layers[1], layers[1], layers[2], layers[2]]
    assert stacked(layers).astype(np.float32).is_stack
    assert not stacked(layers).T.is_stack


def test_on_cpu_a_shard_is_what_was_read():
    """No second copy: XLA takes the aligned array over."""
    read = []

    class Kept(Noted):
        def __getitem__(self, index):
            read.append(super().__getitem__(index))
            return read[-1]

    mesh = sharding.make_mesh(MeshShape(data=1, fsdp=2), jax.devices()[:2])
    found = sharding.put_params(Kept(LAYERS[0]), NamedSharding(mesh, P("fsdp")))
    shared = {shard.data.unsafe_buffer_pointer() for shard in found.addressable_shards}
    assert shared == {array.ctypes.data for array in read}


def stored(*, path: str):
    return dict(open_file(path))


def test_a_run_begins_with_the_weights_of_a_file(one_device, tmp_path):
    """Lazy, and cast as they are read."""
    logits = np.random.default_rng(0).normal(size=(VOCAB, VOCAB)).astype(jnp.bfloat16)
    write_file(tmp_path / "x", {"logits": logits})
    given = dataclasses.replace(
        experiment(steps=1, evaluators=False),
        policy=partial(scored_table_policy, VOCAB),
        weights=partial(stored, path=str(tmp_path / "x")),
    )
    read = initial_params(open_run(given, tmp_path / "run", log=lambda text: None))
    assert read["logits"].dtype == np.float32
    np.testing.assert_array_equal(read["logits"], logits.astype(np.float32))
