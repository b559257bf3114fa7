"""Lazy arrays and their views are the arrays that they stand for, slice by slice."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.models.hub import lazy
from jaxpref.models.hub.lazy import stacked, wrapped
from jaxpref.models.hub.safetensors import open_file, write_file

RANDOM = np.random.default_rng(0)
GIVEN = RANDOM.normal(size=(6, 9)).astype(jnp.bfloat16)
OTHER = RANDOM.normal(size=(6, 9)).astype(jnp.bfloat16)
ORDER = np.array([4, 5, 0, 2, 1])
VIEWS = {
    "itself": (lambda x: x, lambda a: a),
    "T": (lambda x: x.T, lambda a: a.T),
    "rows by a slice": (lambda x: x.rows(slice(1, 5)), lambda a: a[1:5]),
    "rows in order": (lambda x: x.rows(ORDER), lambda a: a[ORDER]),
    "rows of rows": (lambda x: x.rows(ORDER).rows([3, 1]), lambda a: a[ORDER][[3, 1]]),
    "no rows": (lambda x: x.rows([]), lambda a: a[:0]),
    "columns": (lambda x: x.T.rows(slice(2, None)).T, lambda a: a[:, 2:]),
    "cast": (lambda x: x.astype(np.float32), lambda a: a.astype(np.float32)),
    "cast and back": (
        lambda x: x.astype(np.int8).astype(np.float64),
        lambda a: a.astype(np.int8).astype(float),
    ),
    "stacked": (lambda x: stacked([x, OTHER, x]), lambda a: np.stack([a, OTHER, a])),
    "stacked transposes": (lambda x: stacked([x.T, wrapped(OTHER).T]), lambda a: np.stack([a.T, OTHER.T])),
    "stacked rows": (lambda x: stacked([x.rows(ORDER).T] * 2), lambda a: np.stack([a[ORDER].T] * 2)),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy") / "x.safetensors"
    write_file(
        path,
        {"x": GIVEN, "three": RANDOM.normal(size=(3, 4, 5)), "vector": np.arange(7), "one": np.array(3.5)},
    )
    return open_file(path)


@pytest.mark.parametrize("block", [1, 40, lazy.BLOCK])
@pytest.mark.parametrize("view", VIEWS)
def test_views_are_those_of_numpy(stored, view, block, monkeypatch):
    monkeypatch.setattr(lazy, "BLOCK", block)
    monkeypatch.setattr(lazy, "_ALONE", block)
    of_lazy, of_numpy = VIEWS[view]
    x, wanted = of_lazy(stored["x"]), of_numpy(GIVEN)
    assert (x.shape, x.dtype, x.nbytes) == (wanted.shape, wanted.dtype, wanted.nbytes)
    np.testing.assert_array_equal(np.asarray(x), wanted)
    cuts = [slice(None), slice(1, 4), slice(2, 2), slice(-2, None)]
    for index in itertools.product(cuts, repeat=x.ndim):
        np.testing.assert_array_equal(x[index], wanted[index])


@pytest.mark.parametrize("block", [1, 48, lazy.BLOCK])
def test_any_number_of_axes(stored, block, monkeypatch):
    monkeypatch.setattr(lazy, "BLOCK", block)
    three = np.asarray(stored["three"])
    for index in itertools.product([slice(None), slice(1, 3)], repeat=3):
        np.testing.assert_array_equal(stored["three"][index], three[index])
    np.testing.assert_array_equal(stored["three"].T[1:3, :, 2:], three.T[1:3, :, 2:])
    assert stored["vector"][2:5].tolist() == [2, 3, 4]
    assert stored["vector"].rows([6, 0]).astype(np.float32)[...].tolist() == [6, 0]
    assert stored["one"][...] == stored["one"][()] == 3.5
    assert stacked([stored["one"]] * 2)[...].tolist() == [3.5, 3.5]


def test_results_are_new_aligned_arrays(stored):
    for x in (stored["x"], stored["x"].T, wrapped(GIVEN)):
        out = x[1:4]
        assert out.ctypes.data % 64 == 0
        assert out.flags.c_contiguous
        assert not np.shares_memory(out, GIVEN)


def test_an_error_of_one_thread_is_the_error(stored, monkeypatch):
    monkeypatch.setattr(lazy, "BLOCK", 1)
    monkeypatch.setattr(lazy, "_ALONE", 1)

    class Failing(lazy.LazyArray):
        def pieces(self, bounds):
            def fail():
                raise ValueError("the disk has failed")

            yield (slice(0, 1),), fail
            for i in range(1, 100):
                yield (slice(i, i + 1),), lambda: np.zeros(1)

    with pytest.raises(ValueError, match="the disk has failed"):
        Failing((100,), float)[...]


def test_what_is_no_index(stored):
    x = stored["x"]
    for index in (
        3,
        (slice(None), 3),
        np.array([1, 2]),
        slice(0, 4, 2),
        slice(None, None, -1),
        (slice(None),) * 3,
    ):
        with pytest.raises(ValueError, match="read by slices"):
            x[index]
    with pytest.raises(ValueError, match="rows 2 to 6 asked for of an array with 6"):
        x.rows([2, 6])
    with pytest.raises(ValueError, match="rows -1"):
        x.rows([-1])
    with pytest.raises(ValueError, match="a vector of integers"):
        x.rows([0.5])
    with pytest.raises(ValueError, match="has no rows"):
        stored["one"].rows([0])
    with pytest.raises(ValueError, match=r"got bfloat16 \[6, 9\], bfloat16 \[9, 6\]"):
        stacked([x, x.T])
    with pytest.raises(ValueError, match="got none"):
        stacked([])
    with pytest.raises(ValueError, match="without a copy"):
        np.array(x, copy=False)


def test_a_cast_to_its_own_dtype_is_the_array():
    given = np.arange(3, dtype=np.float32)
    assert lazy.cast(given, np.float32) is given
    half = lazy.cast(given, np.float16)
    assert isinstance(half, lazy.LazyArray)
    np.testing.assert_array_equal(half[...], given.astype(np.float16))
