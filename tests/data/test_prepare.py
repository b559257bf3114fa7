"""From files to records through TFDS and SeqIO, on real data, the errors on the way, and the cache."""

import errno
import functools
import gzip
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from jsonl_files import jsonl, sums
from launch import smoke_run

from jaxpref import config
from jaxpref.data import bytes_tokenizer, llama2c_tokenizer
from jaxpref.data.cache import cache_root
from jaxpref.data.prepare import (
    chosen_only,
    hh_pairs,
    jsonl_pairs,
    prepared,
    split,
)
from jaxpref.data.sources import read_rows, sha256_of
from jaxpref.data.text.boundary import Drop, encode_example
from jaxpref.data.text.dialogue import chatml_template
from jaxpref.data.text.hh_files import hh_source
from jaxpref.data.text.pairs import hh_pair

pytestmark = pytest.mark.needs_tensorflow

BUDGET = {"prompt_length": 128, "response_length": 96}


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio")


@pytest.fixture(scope="module")
def llama2c(data_root):
    return functools.partial(llama2c_tokenizer, str(data_root / "stories260K" / "tok512.bin"))


@pytest.fixture(scope="module")
def hh(seqio, few_pairs, llama2c):
    return hh_pairs(data_root=str(few_pairs), tokenizer=llama2c, **BUDGET)


@pytest.mark.slow
class TestHh:
    @pytest.mark.exhaustive  # reads 5,103 dialogues
    def test_counts_of_the_whole_files(self, seqio, data_root, llama2c):
        hh = hh_pairs(data_root=str(data_root), tokenizer=llama2c, **BUDGET)
        # The builder drops 12 of the 5,103 rows (unequal prompts), encoding the others.
        assert len(hh) == 5052
        assert hh.k == 2
        assert hh.metadata["rows_read"] == 2354 + 2749
        assert hh.metadata["drops"] == {
            "empty response": 4,
            "identical responses": 34,
            "unequal prompts": 12,
        } | {"identical responses after truncation": 1}
        assert hh.prompt_lengths.max() <= 128
        assert 1 <= hh.response_lengths.min() <= hh.response_lengths.max() <= 96
        hh.check_vocab(512)

    def test_same_as_encoding_the_files_by_hand(self, hh, few_pairs, llama2c):
        """TFDS reorders rows, so tables are compared as multisets of rows."""
        tokenizer, expected, drops = llama2c(), Counter(), Counter()
        for subset in ("helpful-base", "helpful-rejection-sampled"):
            for _, _, row in read_rows(hh_source(str(few_pairs), subset, "test").path):
                found = hh_pair(row["chosen"], row["rejected"])
                if not isinstance(found, Drop):
                    texts = [found.chosen["content"], found.rejected["content"]]
                    prompt = found.prompt
                    found = encode_example(tokenizer, prompt.text, texts, group=prompt.group, **BUDGET)
                if isinstance(found, Drop):
                    drops[found.reason] += 1
                else:
                    responses = tuple(tuple(r) for r in found.responses)
                    expected[tuple(found.prompt), responses, found.group] += 1
        found = Counter(
            (tuple(hh.prompt(i)), tuple(tuple(hh.response(i, j)) for j in range(2)), int(hh.group[i]))
            for i in range(len(hh))
        )
        assert found == expected
        assert hh.metadata["rows_read"] == sum(expected.values()) + sum(drops.values()) == 500
        assert hh.metadata["drops"] == drops
        assert drops["unequal prompts"] == 2 + 1, "of one file and of the other"
        hh.check_vocab(512)

    def test_prompts_do_not_straddle_the_split(self, hh):
        parts = {part: split(records=lambda: hh, part=part, held_out=0.1) for part in ("train", "held_out")}
        assert len(parts["train"]) + len(parts["held_out"]) == len(hh)
        assert 0.06 < len(parts["held_out"]) / len(hh) < 0.14  # three standard errors
        # Not by the stored hash alone: the dialogues' own first turns, tokenised, are apart too.
        starts = {
            part: {tuple(r.prompt(i)[:40]) for i in range(len(r)) if r.prompt_lengths[i] < 128}
            for part, r in parts.items()
        }
        assert not starts["train"] & starts["held_out"]
        assert chosen_only(records=lambda: hh).k == 1

    def test_second_time_loads_without_tensorflow(self, hh, few_pairs, llama2c):
        program = (
            "import functools, sys; from jaxpref.data import llama2c_tokenizer\n"
            "from jaxpref.data.prepare import hh_pairs\n"
            f"tokenizer = functools.partial(llama2c_tokenizer, {llama2c.args[0]!r})\n"
            f"hh = hh_pairs(data_root={str(few_pairs)!r}, tokenizer=tokenizer, **{BUDGET!r})\n"
            "print(len(hh), {'tensorflow', 'seqio', 'tensorflow_datasets'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(len(hh)), "set()"]


@pytest.mark.exhaustive
def test_a_reward_model_learns_from_the_real_pairs(seqio, tmp_path, repository, few_pairs):
    """The experiment's smoke run: from the public files to a held-out accuracy."""
    printed = smoke_run(
        config.load(str(repository / "experiments/rm_hh.py"), [f"data_root={few_pairs}"]), tmp_path
    )
    assert "reward accuracy" in printed
    assert "longer-response baseline" in printed


class TestHhArguments:
    def test_template(self, seqio, tmp_path):
        prompt = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
        row = {"chosen": prompt + " So.", "rejected": prompt + " No. "}
        path = tmp_path / "helpful-base.test.jsonl.gz"
        path.write_bytes(gzip.compress(json.dumps(row).encode()))
        (tmp_path / "SHA256SUMS").write_text(f"{sha256_of(path)}  {path.name}\n")
        arguments = {"data_root": str(tmp_path), "tokenizer": bytes_tokenizer, "subsets": ("helpful-base",)}
        records = hh_pairs(template=chatml_template, prompt_length=400, response_length=400, **arguments)
        assert bytes_tokenizer().decode(records.prompt(0)) == (
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert [bytes_tokenizer().decode(records.response(0, j)) for j in (0, 1)] == ["So.", "No."]
        assert records.metadata["encoding"]["template"] == "jaxpref.data.text.dialogue.chatml_template"
        # Without a template the text is the file's own.
        records = hh_pairs(prompt_length=400, response_length=400, **arguments)
        assert bytes_tokenizer().decode(records.prompt(0)) == prompt
        assert [bytes_tokenizer().decode(records.response(0, j)) for j in (0, 1)] == [" So.", " No. "]

    def test_bad_arguments(self, data_root):
        with pytest.raises(ValueError, match="data_root /nowhere does not exist"):
            hh_pairs(data_root="/nowhere", tokenizer=bytes_tokenizer, **BUDGET)
        with pytest.raises(ValueError, match=r"has neither helpful-base\.train"):
            hh_pairs(data_root=str(data_root), split="train", tokenizer=bytes_tokenizer, **BUDGET)


class TestBuilder:
    def test_download_urls_are_registered_with_checksums(self, seqio):
        from jaxpref.data.text.anthropic_hh import SUBSETS, AnthropicHH

        infos = AnthropicHH.url_infos
        for subset in SUBSETS:
            for part in ("train", "test"):
                source = hh_source(None, subset, part)
                assert infos[source.url].checksum == source.sha256
        assert len(infos) == 6

    def test_downloaded_files_are_read(self, seqio, data_root, tmp_path, monkeypatch):
        """The download path, with a manager that hands out the local copy instead of fetching."""
        import tensorflow_datasets as tfds

        from jaxpref.data.text.anthropic_hh import AnthropicHH

        asked = []

        def download(self, urls):
            asked.append(urls)
            return {part: data_root / "hh_rlhf" / "helpful-base.test.jsonl.gz" for part in urls}

        monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
        builder = AnthropicHH(config="helpful-base", splits=("test",), data_dir=str(tmp_path))
        builder.download_and_prepare()
        assert asked[0]["test"].endswith("/helpful-base/test.jsonl.gz")
        assert builder.info.splits["test"].num_examples == 2345
        # A reader of the stored data set, who has no source files, sees what was dropped.
        again = AnthropicHH(config="helpful-base", data_dir=str(tmp_path))
        assert again.info.metadata["drops"] == {"test": {"unequal prompts": 9}}

    def test_tfds_load(self, seqio, data_root, tmp_path):
        import tensorflow_datasets as tfds

        import jaxpref.data.text.anthropic_hh  # noqa: F401  (registers it)

        arguments = {"data_root": str(data_root), "splits": ("test",)}
        dataset = tfds.load(
            "anthropic_hh/helpful-base", split="test[:3]", data_dir=str(tmp_path), builder_kwargs=arguments
        )
        rows = list(dataset.as_numpy_iterator())
        assert len(rows) == 3
        assert rows[0]["prompt"].decode().endswith("\n\nAssistant:")
        assert json.loads(rows[0]["turns"])[-1][0] == "user"


class TestCache:
    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
        path = jsonl(tmp_path, *sums(6))
        make = functools.partial(jsonl_pairs, path=path, tokenizer=bytes_tokenizer, **BUDGET)
        make()
        return make

    def directories(self):
        return [path for path in (cache_root() / "records").iterdir() if path.is_dir()]

    def test_made_once(self, made, monkeypatch):
        monkeypatch.setattr("jaxpref.data.text.reading.read_rows", None)
        assert len(made()) == 6

    def test_other_arguments_other_records(self, made):
        made(response_length=95)
        made(add_eos=False)
        assert len(self.directories()) == 3
        made()
        assert len(self.directories()) == 3

    def test_changed_file_is_read_again(self, made, tmp_path):
        jsonl(tmp_path, *sums(7))
        assert len(made()) == 7

    def test_fingerprint_is_verified(self, made):
        directory = self.directories()[0]
        manifest = json.loads((directory / "manifest.json").read_text())
        (directory / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))
        with pytest.raises(ValueError, match=r"was made from other arguments .* remove that directory"):
            made()

    def test_full_disk(self, made, monkeypatch):
        def fsync(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr(os, "fsync", fsync)
            with pytest.raises(OSError, match="disk is full while writing records"):
                made(response_length=50)
        assert len(self.directories()) == 1
        assert len(made()) == 6

    def test_prepared(self, made):
        directory = self.directories()[0]
        assert len(prepared(directory=str(directory))) == 6
