"""Order, parts, buckets: the loader's promises."""

import jax
import numpy as np
import pytest

from jaxpref.data import Example, Loader, Records
from jaxpref.types import check_completions


def numbered(n=37):
    """Row `i` has prompt [1, i + 10] and responses of lengths that vary."""
    return Records.from_examples(
        [
            Example([1, i + 10] + [5] * (i % 4), [[7] * (i % 5 + 1), [8] * (i % 3 + 1)], group=i)
            for i in range(n)
        ]
    )


def rows_of(batch):
    return [
        int(t) - 10
        for t, real in zip(batch.prompt_tokens[:, 1], batch.prompt_mask[:, 1], strict=True)
        if real
    ]


def assert_equal(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


class TestOrder:
    def test_every_row_once_an_epoch(self):
        loader = Loader(numbered(), batch_size=4)
        seen = [i for step in range(37) for i in rows_of(loader.batch(step))]
        for epoch in range(4):
            assert sorted(seen[epoch * 37 : (epoch + 1) * 37]) == list(range(37))
        assert seen[:37] != seen[37:74] != list(range(37))

    def test_resuming_equals_a_straight_run(self):
        straight = Loader(numbered(), batch_size=4, seed=3)
        run = [straight.batch(step) for step in range(30)]
        for start in (0, 1, 17, 29):
            resumed = Loader(numbered(), batch_size=4, seed=3)
            for step in range(start, 30):
                assert_equal(resumed.batch(step), run[step])

    def test_going_back(self):
        loader = Loader(numbered(), batch_size=8)
        first = [loader.batch(step) for step in range(12)]
        for step in reversed(range(12)):
            assert_equal(loader.batch(step), first[step])

    def test_far_step_does_not_walk_there(self):
        loader = Loader(numbered(), batch_size=4)
        assert len(rows_of(loader.batch(10**12))) == 4

    def test_seed_and_shuffle(self):
        orders = [
            [rows_of(Loader(numbered(), batch_size=37, **how).batch(0))]
            for how in ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"shuffle": False})
        ]
        assert orders[0] == orders[1] != orders[2]
        assert orders[3] == [list(range(37))]

    def test_batch_larger_than_the_table(self):
        rows = rows_of(Loader(numbered(3), batch_size=8).batch(0))
        assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


class TestParts:
    """What a process asks for, whose devices hold these rows of a batch."""

    @pytest.mark.parametrize("rows", [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 4, 5], [7], [], list(range(8))])
    def test_rows_of_a_batch_are_those_of_the_whole(self, rows):
        loader = Loader(numbered(), batch_size=8, prompt_buckets=(2, 4, 8), response_buckets=(2, 3, 8))
        rows = np.array(rows, np.int64)
        for step in range(12):
            assert_equal(loader.batch(step, rows), jax.tree.map(lambda x: x[rows], loader.batch(step)))
        for index, whole in enumerate(loader.evaluation_batches()):
            assert_equal(loader.evaluation_batch(index, rows), jax.tree.map(lambda x: x[rows], whole))

    def test_no_other_row_is_read(self):
        class Watched:
            def __init__(self, records):
                self.records, self.read = records, []

            def __getattr__(self, name):
                return getattr(self.records, name)

            def __len__(self):
                return len(self.records)

            def rows(self, indices, **how):
                self.read += list(indices)
                return self.records.rows(indices, **how)

        watched = Watched(numbered())
        loader = Loader(watched, batch_size=8)
        loader.batch(3, np.array([2, 5]))
        assert watched.read == list(loader.indices(3)[[2, 5]])

    def test_bad_counts(self):
        with pytest.raises(ValueError, match="batch_size counts from 1, got 0"):
            Loader(numbered(), batch_size=0)
        with pytest.raises(ValueError, match="the records are empty"):
            Loader(numbered().take([]), batch_size=1)


class TestBuckets:
    def test_smallest_that_holds_the_global_batch(self):
        records = numbered()
        loader = Loader(records, batch_size=2, prompt_buckets=(5, 3, 8), response_buckets=(2, 5))
        shapes = set()
        for step in range(30):
            batch, rows = loader.batch(step), loader.indices(step)
            longest = records.prompt_lengths[rows].max()
            assert batch.prompt_tokens.shape[1] == min(b for b in (3, 5, 8) if b >= longest)
            longest = records.response_lengths[rows].max()
            assert batch.response_tokens.shape[2] == min(b for b in (2, 5) if b >= longest)
            shapes.add((batch.prompt_tokens.shape[1], batch.response_tokens.shape[2]))
        assert len(shapes) > 2
        assert shapes <= set(loader.shapes())

    def test_default_holds_everything(self):
        loader = Loader(numbered(), batch_size=5)
        assert (loader.prompt_buckets, loader.response_buckets) == ((8,), (8,))
        assert {loader.batch(step).prompt_tokens.shape for step in range(20)} == {(5, 8)}

    def test_bad_buckets(self):
        with pytest.raises(ValueError, match="response_buckets: the largest is 4 and the longest row has 5"):
            Loader(numbered(), batch_size=1, response_buckets=(2, 4))
        with pytest.raises(ValueError, match="prompt_buckets: expected positive lengths"):
            Loader(numbered(), batch_size=1, prompt_buckets=())


class TestEvaluation:
    def test_one_pass_in_order_with_a_padded_end(self):
        loader = Loader(numbered(), batch_size=8, seed=5)
        batches = list(loader.evaluation_batches())
        assert [i for batch in batches for i in rows_of(batch)] == list(range(37))
        assert len(batches) == loader.evaluation_steps() == 5
        np.testing.assert_array_equal(batches[-1].valid, [True] * 5 + [False] * 3)
        assert not batches[-1].response_mask[5:].any()
        for batch in batches:
            assert batch.prompt_tokens.shape[0] == 8
            check_completions(batch)

    def test_columns_come_along(self):
        records = numbered().with_column("reference_logps", np.arange(74.0, dtype=np.float32).reshape(37, 2))
        last = list(Loader(records, batch_size=8).evaluation_batches())[-1]
        np.testing.assert_array_equal(last.reference_logps[:, 0], [64, 66, 68, 70, 72, 0, 0, 0])
        assert Loader(records, batch_size=8).batch(0).preferences is None


def test_description_tells_other_data_apart():
    loader = Loader(numbered(), batch_size=4)
    assert loader.description == Loader(numbered(), batch_size=4).description
    assert loader.description != Loader(numbered(36), batch_size=4).description
    assert loader.steps_per_epoch == 37 / 4
