"""The batch that is trained on is one batch, on whatever devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxpref.training import batches, job, sharding
from jaxpref.training.job import Job


class Loader:
    """One batch of two arrays, of which one is not split into whole words of 32 bits."""

    batch_size = 8
    whole = {  # noqa: RUF012
        "ids": np.arange(8 * 6, dtype=np.int32).reshape(8, 6),
        "mask": np.arange(3) == np.arange(8)[:, None] % 3,  # as many in each row
        "weights": np.linspace(0, 1, 8, dtype=np.float64),
    }

    def batch(self, step, rows=None):
        whole = jax.tree.map(lambda x: x + x.dtype.type(step), self.whole)
        return whole if rows is None else jax.tree.map(lambda x: x[rows], whole)


def _mesh(*shape: int) -> Mesh:
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (8, 1, 1), (1, 1, 8)])
def test_the_checksum_of_what_is_placed_is_that_of_what_was_read(shape):
    loader, mesh = Loader(), _mesh(*shape)
    placed = sharding.put_batch(lambda rows: loader.batch(3, rows), 8, mesh)
    assert batches._placed_checksum(placed, mesh) == batches.checksum(loader.batch(3))


def test_the_checksum_knows_values_places_and_sizes():
    whole = Loader.whole
    one = batches.checksum(whole)
    rows = batches.checksum({name: x[[1, 0, *range(2, 8)]] for name, x in whole.items()})
    assert all(one[name] != rows[name] for name in one), "two rows for one another"
    for name, x in whole.items():
        changed = x.copy()
        changed.flat[5] = not x.flat[5] if x.dtype == bool else x.flat[5] + 1
        assert batches.checksum({name: changed})[name] != one[name]
        longer = np.concatenate([x, np.zeros_like(x[:1])])
        assert batches.checksum({name: longer})[name] != one[name], "zeros count"
        assert batches.digest({name: changed}) != batches.digest({name: x})


class Two(Job):
    """The first of two processes, whose other one answers what `other` says."""

    def __init__(self, other) -> None:
        super().__init__()
        self.count, self.other = 2, other

    def gather(self, what, value):
        return [value, self.other(what, value)]


def _checked(monkeypatch, other=lambda what, value: value, put=None):
    monkeypatch.setattr(job, "_current", Two(other))
    if put is not None:
        monkeypatch.setattr(sharding, "put_batch", put)
    batches.check_batch("dpo", Loader(), 5, _mesh(2, 1, 1))


def test_one_batch_placed_as_it_was_read_passes(monkeypatch):
    _checked(monkeypatch)


def test_another_batch_in_another_process_is_refused(monkeypatch):
    def other(what, value):
        return batches.digest(Loader().batch(6)) if what == "digest of the batch" else value

    with pytest.raises(ValueError, match="dpo: process 1 reads another batch 5 than process 0"):
        _checked(monkeypatch, other)


def test_rows_in_other_places_are_refused(monkeypatch):
    put = sharding.put_batch

    def own_slice(read, size, mesh):
        """The fault that this is for: each process takes the slice that its number says."""
        return put(lambda rows: read(np.roll(rows, 1)), size, mesh)

    with pytest.raises(ValueError, match=r"dpo: batch 5 on the devices is not .*: ids differs, .* process 0"):
        _checked(monkeypatch, put=own_slice)
    with pytest.raises(ValueError, match="mask differs, as process 1 sees it"):
        _checked(monkeypatch, lambda what, value: ["mask"] if what == "batch on devices" else value, put=put)
