"""The table of records: what it holds, views of it, and that it survives the disk."""

import errno
import json
import os

import numpy as np
import pytest

from jaxpref.data import Example, Records, add_column, concatenate, load_records, write_records
from jaxpref.types import check_completions


def table(n=23, k=2, seed=0, **metadata):
    generator = np.random.default_rng(seed)

    def tokens(low, high):
        return generator.integers(3, 50, generator.integers(low, high)).tolist()

    examples = [
        Example([1, *tokens(0, 6)], [[*tokens(1, 9), 2] for _ in range(k)], group=i // 3) for i in range(n)
    ]
    return Records.from_examples(examples, {"vocab_size": 50, "tokenizer": "f" * 64, "pad_id": 0, **metadata})


def contents(records):
    """Everything a row says, as plain lists."""
    return [
        (
            records.prompt(i).tolist(),
            [records.response(i, j).tolist() for j in range(records.k)],
            int(records.group[i]),
            {name: values[i].tolist() for name, values in records.columns.items()},
        )
        for i in range(len(records))
    ]


@pytest.fixture
def stored(tmp_path):
    write_records(table(), tmp_path / "records")
    return tmp_path / "records"


class TestRows:
    def test_padding_and_masks(self):
        records = Records.from_examples([Example([1, 7], [[8, 9, 2], [5, 2]]), Example([1], [[6, 2], [4]])])
        batch = records.rows([1, 0, -1], prompt_length=3, response_length=4, pad_id=9)
        np.testing.assert_array_equal(batch.prompt_tokens, [[1, 9, 9], [1, 7, 9], [9, 9, 9]])
        np.testing.assert_array_equal(batch.prompt_mask.sum(1), [1, 2, 0])
        np.testing.assert_array_equal(batch.response_tokens[1], [[8, 9, 2, 9], [5, 2, 9, 9]])
        # Token 9 is also the padding here: masks come from lengths.
        np.testing.assert_array_equal(batch.response_mask.sum(-1), [[2, 1], [3, 2], [0, 0]])
        assert batch.response_tokens.dtype == np.int32
        check_completions(batch, 10)

    def test_unscored_leading_token(self):
        records = Records.from_examples([Example([], [[8, 9, 2], [5, 2]], unscored=1)])
        batch = records.rows([0])
        np.testing.assert_array_equal(batch.response_mask[0], [[False, True, True], [False, True, False]])
        np.testing.assert_array_equal(records.scored_lengths, [[2, 1]])
        check_completions(batch)

    def test_too_short_a_bucket(self):
        with pytest.raises(ValueError, match="response_length=2, but a row has"):
            table().rows([0, 1, 2], response_length=2)

    def test_columns(self):
        logps = np.arange(46, dtype=np.float32).reshape(23, 2)
        preferences = np.full((23, 2, 2), 0.5, np.float32)
        records = table().with_column("reference_logps", logps).with_column("preferences", preferences)
        batch = records.rows([4, -1])
        np.testing.assert_array_equal(batch.reference_logps, [[8, 9], [0, 0]])
        check_completions(batch)
        np.testing.assert_array_equal(records.take([4]).only(1).rows([0]).reference_logps, [[9]])
        with pytest.raises(ValueError, match=r"reference_logps: expected shape \[23, 2\], got \(23,\)"):
            table().with_column("reference_logps", np.zeros(23))
        with pytest.raises(ValueError, match="row 3 is not finite"):
            table().with_column("reference_logps", np.where(np.arange(23)[:, None] == 3, np.nan, logps))

    def test_columns_that_nobody_knows_say_what_their_axes_are(self, tmp_path):
        """Two columns of one shape: of responses, and of rows. Views, joins and the disk know them apart."""
        values = np.arange(46.0).reshape(23, 2)
        with pytest.raises(ValueError, match=r"column mine: of shape \[23, 2\].*axes were not declared"):
            table().with_column("mine", values)
        for axes in ("b k", "b d"):
            records = table().with_column("mine", values, axes=axes)
            write_records(records, tmp_path / axes)
            joined = concatenate([records, records], metadata=table().metadata)
            for same in (records, load_records(tmp_path / axes), joined):
                assert same.rows([0]).axes_of("mine") == tuple(axes.split())
                expected = values[4] if axes == "b d" else values[4, 1:]
                np.testing.assert_array_equal(same.take([4]).only(1).columns["mine"][0], expected)


class TestViews:
    def test_take_and_only(self):
        records = table()
        whole = contents(records)
        rows = [5, 2, 2]
        assert contents(records.take(rows)) == [whole[i] for i in rows]
        assert contents(records.take(records.group == 2)) == whole[6:9]
        assert [row[1] for row in contents(records.only(1))] == [[row[1][1]] for row in whole]
        with pytest.raises(ValueError, match=r"expected a response index in \[0, 2\), got 2"):
            records.only(2)

    def test_split_keeps_groups_together(self):
        records = table(300)
        train, held_out = records.split(0.2, seed=1)
        assert len(train) + len(held_out) == 300
        assert not set(train.group) & set(held_out.group)
        assert 0.1 < len(held_out) / 300 < 0.3
        assert set(records.split(0.2, seed=2)[1].group) != set(held_out.group)
        # A group stays on its side when other rows come or go.
        assert set(records.take(np.arange(150)).split(0.2, seed=1)[1].group) <= set(held_out.group)

    def test_split_by_row(self):
        train, held_out = table(300).split(0.5, by="row")
        assert set(train.group) & set(held_out.group)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"held_out": 0.0}, "strictly between 0 and 1"),
            ({"held_out": 1.5}, "strictly between 0 and 1"),
            ({"held_out": 1e-9}, "leaves 0 of 23 rows held out"),
            ({"held_out": 0.5, "by": "prompt"}, 'by must be "group" or "row"'),
        ],
    )
    def test_bad_split(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            table().split(**arguments)

    def test_concatenate(self):
        first, second = table(5, seed=1), table(7, seed=2)
        assert contents(concatenate([first, second])) == contents(first) + contents(second)
        views = [first.take([3, 0]), second.take([6])]  # parts that do not use all of their tokens
        assert contents(concatenate(views)) == contents(views[0]) + contents(views[1])
        with pytest.raises(ValueError, match=r"different responses to a prompt: \['1', '2'\]"):
            concatenate([first, second.only(0)])
        with pytest.raises(ValueError, match="different tokenizers"):
            concatenate([first, table(tokenizer="0" * 64)])


class TestChecks:
    def test_vocabulary(self):
        table().check_vocab(50)
        table().check_vocab(64)  # a model may pad its vocabulary
        with pytest.raises(ValueError, match="tokenizer of 50 ids and the model has 32"):
            table().check_vocab(32)
        with pytest.raises(ValueError, match="vocabulary mismatch"):
            table(vocab_size=0).check_vocab(20)  # no word of the manifest: the tokens decide

    def test_tokenizer(self):
        table().check_tokenizer("f" * 64)
        with pytest.raises(ValueError, match="made by ffffffffffff"):
            table().check_tokenizer("0" * 64)

    def test_no_examples(self):
        with pytest.raises(ValueError, match=r"no example is left.*'empty response': 3"):
            Records.from_examples([], {"drops": {"empty response": 3}})
        with pytest.raises(ValueError, match="example 1 has 1 responses, the first one has 2"):
            Records.from_examples([Example([1], [[2], [3]]), Example([1], [[2]])])


class TestDisk:
    def test_round_trip(self, stored):
        loaded = load_records(stored)
        assert contents(loaded) == contents(table())
        assert dict(loaded.metadata) == dict(table().metadata)
        assert isinstance(loaded.prompt_tokens, np.memmap)

    def test_a_view_is_written_compactly(self, tmp_path):
        view = table().take([4, 1]).only(1)
        write_records(view, tmp_path / "view")
        loaded = load_records(tmp_path / "view")
        assert contents(loaded) == contents(view)
        assert len(loaded.response_tokens) == view.response_lengths.sum()

    def test_overwriting_is_asked_for(self, stored):
        with pytest.raises(ValueError, match="exists; pass overwrite=True"):
            write_records(table(3), stored)
        assert len(load_records(stored)) == 23
        write_records(table(3), stored, overwrite=True)
        assert len(load_records(stored)) == 3
        assert [p.name for p in stored.parent.iterdir()] == ["records"]

    def test_add_column(self, stored):
        for value in (1.0, 2.0):
            add_column(stored, "reference_logps", np.full((23, 2), value, np.float32))
            np.testing.assert_array_equal(
                load_records(stored).columns["reference_logps"], np.full((23, 2), value)
            )
        add_column(stored, "score", np.arange(23))
        loaded = load_records(stored)
        assert set(loaded.columns) == {"reference_logps", "score"}
        assert len(list(stored.glob("column.*"))) == 2
        assert contents(loaded.take([3]))[0][3] == {"reference_logps": [2.0, 2.0], "score": 3}
        with pytest.raises(ValueError, match="expected shape"):
            add_column(stored, "reference_logps", np.zeros((22, 2), np.float32))
        with pytest.raises(ValueError, match="letters, digits"):
            add_column(stored, "../x", np.zeros(23))


class TestDamage:
    @pytest.mark.parametrize(
        "name", ["prompt_tokens", "response_tokens", "response_offsets", "group", "unscored"]
    )
    def test_truncated_file(self, stored, name):
        path = stored / f"{name}.npy"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(
            ValueError, match=rf"{name}\.npy is damaged: it has \d+ bytes .* says .*prepare the records"
        ):
            load_records(stored)

    def test_missing_file(self, stored):
        (stored / "response_tokens.npy").unlink()
        with pytest.raises(ValueError, match=r"response_tokens\.npy is damaged: it is missing"):
            load_records(stored)

    def test_file_of_another_table(self, stored, tmp_path):
        """Same size on disk, other rows: the offsets give it away."""
        path = stored / "response_offsets.npy"
        offsets = np.load(path)
        offsets[-1] += 1
        np.save(path, offsets)
        with pytest.raises(ValueError, match="do not divide the"):
            load_records(stored)

    def test_manifest(self, stored, tmp_path):
        with pytest.raises(ValueError, match="is not a directory of prepared records"):
            load_records(tmp_path / "nothing")
        manifest = json.loads((stored / "manifest.json").read_text())
        (stored / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
        with pytest.raises(ValueError, match=r"is of format .*99"):
            load_records(stored)
        (stored / "manifest.json").write_text(json.dumps({**manifest, "n": 22}))
        with pytest.raises(ValueError, match="holds 23 rows and the manifest says 22"):
            load_records(stored)
        (stored / "manifest.json").write_text('{"format": ')
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            load_records(stored)


class TestFullDisk:
    """A disk that fills up after some number of files loses nothing that was there."""

    @pytest.fixture
    def fill_after(self, monkeypatch):
        def fill_after(files):
            flush = os.fsync
            left = [files]

            def fsync(descriptor):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                flush(descriptor)

            monkeypatch.setattr(os, "fsync", fsync)

        return fill_after

    @pytest.mark.parametrize("files", range(7))
    def test_write(self, stored, fill_after, files):
        fill_after(files)
        with pytest.raises(
            OSError, match=r"disk is full while writing records to .*nothing written before is lost"
        ):
            write_records(table(5), stored, overwrite=True)
        assert contents(load_records(stored)) == contents(table())
        assert [p.name for p in stored.parent.iterdir()] == ["records"]

    @pytest.mark.parametrize("files", range(2))
    def test_add_column(self, stored, fill_after, files):
        add_column(stored, "reference_logps", np.ones((23, 2), np.float32))
        fill_after(files)
        with pytest.raises(OSError, match="disk is full"):
            add_column(stored, "reference_logps", np.zeros((23, 2), np.float32))
        np.testing.assert_array_equal(load_records(stored).columns["reference_logps"], np.ones((23, 2)))
        assert not list(stored.glob(".*"))
