"""A checksum is of values and places: nothing else changes it, and any change of these does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpref.experiment import MeshShape
from jaxpref.training.checksums import checksum, checksums, named
from jaxpref.training.sharding import make_mesh

WORD = 2**32
RANDOM = np.random.default_rng(0)


def mixed(x: int) -> int:
    x = (x ^ (x >> 16)) * 0x7FEB352D % WORD
    x = (x ^ (x >> 15)) * 0x846CA68B % WORD
    return x ^ (x >> 16)


def by_hand(x: np.ndarray) -> int:
    """Word by word, in Python's own integers."""
    size = min(x.dtype.itemsize, 4)
    words = x.reshape(-1).view(f"uint{8 * size}").tolist()
    row = max(len(words) // (x.shape[0] if x.ndim else 1), 1)
    places = ((mixed(i // row) + i % row * 0x9E3779B9) % WORD for i in range(len(words)))
    return sum(mixed(word ^ place) for word, place in zip(words, places, strict=True)) % WORD


ARRAYS = {
    "scalar": np.int32(7),
    "vector": RANDOM.normal(size=11).astype(np.float32),
    "stack": RANDOM.normal(size=(3, 4, 5)).astype(np.float32),
    "bfloat16": np.asarray(jnp.asarray(RANDOM.normal(size=(6, 5)), jnp.bfloat16)),
    "codes": RANDOM.integers(0, 256, (4, 7)).astype(np.uint8),
    "bool": RANDOM.integers(0, 2, 9).astype(bool),
    "zeros": np.zeros((2, 3), np.float32),
}


def test_it_is_what_plain_integers_say():
    assert checksums(ARRAYS) == {name: by_hand(np.asarray(x)) for name, x in ARRAYS.items()}


def test_words_of_eight_bytes_are_two():
    with jax.enable_x64(True):
        given = RANDOM.normal(size=(3, 5))
        assert int(checksum(jnp.asarray(given))) == by_hand(given.view(np.uint32).reshape(3, 10))


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 4, 2), (2, 2, 2)])
def test_the_mesh_changes_nothing(mesh):
    stack = RANDOM.normal(size=(8, 8, 16)).astype(np.float32)
    on = partial(NamedSharding, make_mesh(MeshShape(*mesh)))
    for spec in (P(), P(None, "fsdp", "tensor"), P(("data", "tensor")), P(None, "tensor", ("data", "fsdp"))):
        assert checksums({"x": jax.device_put(stack, on(spec))}) == {"x": by_hand(stack)}, spec


def test_each_bit_and_each_place_counts():
    whole = RANDOM.normal(size=(3, 4)).astype(np.float32)
    others = []
    for bit in range(8 * whole.nbytes):
        raw = bytearray(whole.tobytes())
        raw[bit // 8] ^= 1 << bit % 8
        others.append(np.frombuffer(raw, np.float32).reshape(whole.shape))
    for i in range(1, whole.size):
        moved = whole.copy().reshape(-1)
        moved[[0, i]] = moved[[i, 0]]
        others.append(moved.reshape(whole.shape))
    others += [whole[::-1], np.roll(whole, 1, 1)]
    found = jax.jit(jax.vmap(checksum))(np.stack([whole, *others]))
    assert len(set(np.asarray(found).tolist())) == len(others) + 1


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two arrays of the state have the name a\.b in a checkpoint"):
        named({"a.b": 1, "a": {"b": 2}})
    assert named({"a": {"b": 1}, "c": (2,)}) == {"a.b": 1, "c.0": 2}
