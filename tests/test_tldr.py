"""TL;DR: from lines as the public files have them to records."""

import json
import pathlib
import sys
from functools import partial

import pytest

from jaxpref.data import bytes_tokenizer

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "experiments"))
import _tldr

PROMPT = "SUBREDDIT: r/legal\n\nTITLE: A question\n\nPOST: It rained.\n\nTL;DR:"
INFO = {"id": "t3_1", "subreddit": "legal", "title": "A question", "post": "It rained."}


def _comparison(info, split, choice):
    return {
        "info": info,
        "summaries": [{"text": " first", "policy": "a"}, {"text": " second", "policy": "ref"}],
        "choice": choice,
        "split": split,
    }


@pytest.fixture
def folder(tmp_path):
    """The four files, made of two posts and four comparisons, one of them of a news article."""
    posts, compared = tmp_path / "posts", tmp_path / "compared"
    posts.mkdir()
    compared.mkdir()
    for split, summary in (("train", "wet"), ("valid", " dry ")):
        (posts / f"{split}.jsonl").write_text(json.dumps(INFO | {"summary": summary}) + "\n")
    rows = [
        _comparison(INFO, "train", 1),
        _comparison({"id": "n", "article": "News."}, "train", 0),
        _comparison(INFO, "valid1", 0),
        _comparison(INFO, "valid2", 0),
    ]
    (compared / "batch3.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _tldr.write(posts, compared, tmp_path / "out")
    return tmp_path / "out"


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_comparisons_have_the_choice_first_and_no_news(folder):
    train = _lines(folder / "comparisons.train.jsonl")
    assert train == [{"prompt": PROMPT, "chosen": " second", "rejected": " first", "group": "t3_1"}]
    assert [row["chosen"] for row in _lines(folder / "comparisons.valid.jsonl")] == [" first"] * 2


def test_demonstrations_are_single_responses(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
    tokenizer = bytes_tokenizer()
    read = partial(_tldr.tldr_demonstrations, data_root=str(folder), tokenizer=bytes_tokenizer)
    for split, summary in (("train", " wet"), ("valid", " dry")):
        records = read(split=split)
        assert len(records) == records.k == 1
        assert tokenizer.decode(records.prompt(0).tolist()) == PROMPT
        assert tokenizer.decode(records.response(0, 0).tolist()) == summary
    with pytest.raises(ValueError, match="prompt longer than the budget"):
        read(prompt_length=20)


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(ValueError, match=r"comparisons.train.jsonl; experiments/_tldr.py says where"):
        _tldr.tldr_comparisons(data_root=str(tmp_path), tokenizer=bytes_tokenizer)
