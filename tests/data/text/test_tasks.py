"""SeqIO tasks and mixtures: registering, converting, sharding, mixing by rate."""

import functools
from collections import Counter

import numpy as np
import pytest
from jsonl_files import jsonl, sums

from jaxpref.data import Records, bytes_tokenizer, characters_tokenizer
from jaxpref.data.prepare import jsonl_pairs, mixture_pairs, prepare

pytestmark = pytest.mark.needs_tensorflow

BUDGET = {"prompt_length": 128, "response_length": 96}


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio")


def task(name, tag="", count=10, prompt_length=12):
    """A SeqIO task of sums."""
    import seqio
    import tensorflow as tf

    from jaxpref.data.text import tasks
    from jaxpref.data.text.encoding import Encoding

    rows = {key: [row[key] for row in sums(count, tag)] for key in ("prompt", "chosen", "rejected")}
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(rows), splits=["train"]
    )
    return tasks.register(name, source, tokenizer=bytes_tokenizer(), encoding=Encoding(prompt_length, 6))


class TestTasks:
    @pytest.fixture
    def names(self, seqio):
        return [task(f"sums_{tag}", tag) for tag in "ab"]

    def test_registering_again_is_harmless(self, names):
        assert task("sums_a", "a") == names[0]

    def test_feature_converter_gives_the_batch_of_the_loader(self, seqio, names, tmp_path):
        from jaxpref.data.text.features import PreferenceFeatureConverter, task_lengths

        dataset = seqio.get_dataset(
            names[0], task_lengths(prompt_length=12, response_length=6), PreferenceFeatureConverter(pad_id=0)
        )
        rows = next(iter(dataset.batch(10).as_numpy_iterator()))
        records = prepare(names[0], tmp_path / "records")
        batch = records.rows(np.arange(10), prompt_length=12, response_length=6)
        for name in ("prompt_tokens", "prompt_mask", "response_tokens", "response_mask"):
            np.testing.assert_array_equal(rows[name], getattr(batch, name), strict=True)

    def test_seqio_shards_are_disjoint(self, seqio, names):
        from jaxpref.data.text.features import PreferenceFeatureConverter, task_lengths

        lengths, converter = task_lengths(prompt_length=12, response_length=6), PreferenceFeatureConverter()
        groups = [
            [
                int(row["group"][0])
                for row in seqio.get_dataset(
                    names[0], lengths, converter, shard_info=seqio.ShardInfo(i, 2)
                ).as_numpy_iterator()
            ]
            for i in range(2)
        ]
        assert len(groups[0]) == len(groups[1]) == 5
        assert len(set(groups[0] + groups[1])) == 10

    def test_mixture_by_rate(self, names, tmp_path):
        from jaxpref.data.text import tasks

        mixed = tasks.mixture("sums_3_to_1", names, [3.0, 1.0])
        assert tasks.mixture("sums_3_to_1", names, [3.0, 1.0]) == mixed
        with pytest.raises(ValueError, match="is registered already"):
            tasks.mixture("sums_3_to_1", names, [3.0, 2.0])
        records = prepare(mixed, tmp_path / "records", num_examples=400, seed=1)
        first = sum(bytes_tokenizer().decode(records.prompt(i)).startswith("a") for i in range(400))
        assert 260 < first < 340
        with pytest.raises(ValueError, match="one positive rate per task"):
            tasks.mixture("bad", names, [1.0])

    def test_mixture_of_unlike_tasks(self, names):
        from jaxpref.data.text import tasks

        longer = task("sums_longer", "a", prompt_length=99)
        with pytest.raises(ValueError, match="differ in tokenizer, budget"):
            tasks.mixture("bad", [names[0], longer], [1.0, 1.0])

    def test_several_tasks_one_after_the_other(self, names, tmp_path):
        records = prepare(names, tmp_path / "records")
        assert len(records) == 20

    def test_what_was_cut_is_counted(self, seqio, tmp_path):
        records = prepare(task("sums_short", count=12, prompt_length=5), tmp_path / "records")
        assert records.metadata["truncated"] == {"prompts": 2}  # "10+1=", "11+1=" and BOS
        assert "full_lengths" not in records.columns
        with pytest.raises(ValueError, match=r"'nobody' is not a preference task.*Known: .*sums_short"):
            prepare("nobody", tmp_path / "nobody")

    def test_a_tokenizer_error_comes_through_tensorflow_unchanged(self, seqio, tmp_path):
        from jaxpref.data.text import tasks

        name = task("sums_characters")
        tasks.details(name)[0].tokenizer = characters_tokenizer("0123456789=")
        with pytest.raises(ValueError, match=r"'\+' at position 1 .* is not in the alphabet"):
            prepare(name, tmp_path / "records")


class TestMixturePairs:
    @pytest.fixture
    def parts(self, tmp_path):
        return [
            functools.partial(
                jsonl_pairs,
                path=jsonl(tmp_path, *sums(count, tag), name=f"{tag}.jsonl"),
                tokenizer=bytes_tokenizer,
                **BUDGET,
            )
            for tag, count in (("a", 30), ("b", 10))
        ]

    def test_exact_shares(self, parts):
        mixed = mixture_pairs(parts=parts, rates=(1.0, 2.0), num_examples=60)
        tags = Counter(bytes_tokenizer().decode(mixed.prompt(i))[0] for i in range(60))
        assert tags == {"a": 20, "b": 40}
        repeats = Counter(bytes_tokenizer().decode(mixed.prompt(i)) for i in range(60))
        assert {n for text, n in repeats.items() if text[0] == "a"} == {1}
        assert {n for text, n in repeats.items() if text[0] == "b"} == {4}

    def test_errors(self, parts):
        with pytest.raises(ValueError, match="one positive rate per part"):
            mixture_pairs(parts=parts, rates=(1.0, 0.0), num_examples=10)

    def test_column_survives_loading_but_not_mixing_with_one_that_lacks_it(self, parts):
        first = parts[0]()
        with_logps = first.with_column("reference_logps", np.zeros((30, 2), np.float32))
        mixed = mixture_pairs(parts=[lambda: with_logps, parts[1]], rates=(1, 1), num_examples=10)
        assert isinstance(mixed, Records)
        assert not mixed.columns
