"""Scored lists and labelled responses: from lines of a file to batches."""

import json
import sys
import types
from functools import partial

import numpy as np
import pytest
from jsonl_files import jsonl

from jaxpref.data import Loader, bytes_tokenizer, load_records, write_records
from jaxpref.data.account import account
from jaxpref.data.text.dialogue import chatml_template, hh_template, turn_template
from jaxpref.data.text.jsonl import jsonl_labelled, jsonl_lists
from jaxpref.types import check_completions

BUDGET = {"prompt_length": 64, "response_length": 32, "tokenizer": bytes_tokenizer}
TOKENIZER = bytes_tokenizer()
CAPITALS = [
    {"prompt": "Capital of Peru?", "responses": [" Cusco", " Lima", " Peru"], "scores": [0.5, 2, -1.5]},
    {"prompt": "Capital of Oman?", "responses": [" Muscat", " Oman"], "scores": [1, 0]},
]


def texts(records):
    return [
        (
            TOKENIZER.decode(records.prompt(i)),
            *(TOKENIZER.decode(records.response(i, j)) for j in range(records.k)),
        )
        for i in range(len(records))
    ]


def lists(tmp_path, *rows, **arguments):
    return jsonl_lists(path=jsonl(tmp_path, *rows), **{**BUDGET, **arguments})


def labelled(tmp_path, *rows, **arguments):
    return jsonl_labelled(path=jsonl(tmp_path, *rows), **{**BUDGET, **arguments})


class TestLists:
    def test_best_first_and_filled_up(self, tmp_path):
        records = lists(tmp_path, *CAPITALS)
        assert texts(records) == [
            ("Capital of Peru?", " Lima", " Cusco", " Peru"),
            ("Capital of Oman?", " Muscat", " Oman", ""),
        ]
        np.testing.assert_array_equal(records.columns["scores"], [[2, 0.5, -1.5], [1, 0, 0]])
        np.testing.assert_array_equal(records.response_lengths, [[6, 7, 6], [8, 6, 0]])
        assert records.metadata["rows_read"] == 2
        assert dict(records.metadata["drops"]) == {}

    def test_absent_responses_reach_the_batch_masked(self, tmp_path):
        records = lists(tmp_path, *CAPITALS)
        batch = records.rows([1, 0, -1])
        check_completions(batch, TOKENIZER.vocab_size)
        np.testing.assert_array_equal(
            batch.response_mask.any(-1), [[True, True, False], [True] * 3, [False] * 3]
        )
        np.testing.assert_array_equal(batch.columns["scores"], [[1, 0, 0], [2, 0.5, -1.5], [0, 0, 0]])
        assert batch.columns["scores"].dtype == np.float32
        loader = Loader(records, batch_size=2)
        np.testing.assert_array_equal(np.sort(loader.batch(0).lengths, None), [0, 6, 6, 6, 7, 8])

    def test_a_row_without_prompt_tokens_has_no_negative_length(self, tmp_path):
        rows = [{**row, "prompt": ""} for row in CAPITALS]
        records = lists(tmp_path, *rows, add_bos=False)
        np.testing.assert_array_equal(records.scored_lengths, [[5, 6, 5], [7, 5, 0]])
        check_completions(records.rows([0, 1]))

    def test_num_responses_keeps_the_best_and_counts_the_others(self, tmp_path):
        records = lists(tmp_path, *CAPITALS, num_responses=2)
        assert [row[1:] for row in texts(records)] == [(" Lima", " Cusco"), (" Muscat", " Oman")]
        assert dict(records.metadata["responses_left_out"]) == {"response beyond num_responses": 1}
        assert "responses left out: 1 response beyond num_responses" in account(records)
        assert records.metadata["rows_read"] == 2
        wide = lists(tmp_path, *CAPITALS, num_responses=5)
        np.testing.assert_array_equal((wide.response_lengths > 0).sum(1), [3, 2])
        assert wide.columns["scores"].shape == (2, 5)

    def test_ties_keep_the_order_of_the_file(self, tmp_path):
        row = {"prompt": "p", "responses": ["c", "a", "b", "d"], "scores": [1, 2, 1, 1]}
        assert texts(lists(tmp_path, row)) == [("p", "a", "c", "b", "d")]

    def test_empty_responses_leave_and_the_scores_stay_with_their_own(self, tmp_path):
        rows = [
            {"prompt": "1", "responses": ["", "b", " \n", "d"], "scores": [9, 1, 8, 3]},
            {"prompt": "2", "responses": ["", "b"], "scores": [0, 1]},
            {"prompt": "3", "responses": ["", " "], "scores": [0, 1]},
            {"prompt": "4", "responses": ["same", "same "], "scores": [0, 1]},
        ]
        records = lists(tmp_path, *rows)
        assert texts(records) == [("1", "d", "b")]
        np.testing.assert_array_equal(records.columns["scores"], [[3, 1]])
        assert dict(records.metadata["responses_left_out"]) == {"empty response of a list": 2}
        assert dict(records.metadata["drops"]) == {
            "fewer than two responses left": 1,
            "empty response": 1,
            "identical responses": 1,
        }
        assert records.metadata["rows_read"] == 4

    def test_lists_without_an_order_are_left_out(self, tmp_path):
        tied = {"prompt": "p", "responses": ["b", "a"], "scores": [1, 1]}
        near = {"prompt": "q", "responses": ["b", "a", "a"], "scores": [16777217, 16777216, 3]}
        records = lists(tmp_path, tied, near)
        assert dict(records.metadata["drops"]) == {"all scores are equal": 1}
        said = account(records)
        assert "1 row: scores that differ are equal in float32, and count as ties" in said
        assert "1 row: a list has one response twice" in said
        rounded = {"prompt": "p", "responses": ["b", "b"], "scores": [16777217, 16777216]}
        records = lists(tmp_path, rounded, near)
        assert dict(records.metadata["drops"]) == {"all scores are equal": 1}, "in float32, as they are kept"
        same = {"prompt": "r", "responses": ["a", "a"], "scores": [1, 0]}
        records = lists(tmp_path, same, CAPITALS[0])
        assert dict(records.metadata["drops"]) == {"identical responses": 1}
        assert dict(records.metadata["notes"]) == {}, "what is said of rows is said of those that stay"

    def test_nothing_left(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"pairs\.jsonl: no record is left; every row was dropped: .*'empty response': 1"
        ):
            lists(tmp_path, {"prompt": "3", "responses": ["", " "], "scores": [0, 1]})
        with pytest.raises(ValueError, match=r"pairs\.jsonl: no record is left; the file has no rows"):
            lists(tmp_path)

    def test_cut_responses_are_counted(self, tmp_path):
        records = lists(tmp_path, *CAPITALS, response_length=6)
        assert records.metadata["truncated"] == {"prompts": 0, "responses": 2}
        assert any(line.startswith("2 of 5 responses were longer") for line in account(records))
        assert records.response_lengths.max() == 6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"scores": None}, "the object has no scores; it has prompt, responses"),
            ({"scores": {}}, "scores: expected a list, got dict"),
            ({"responses": "a b"}, r"responses: expected a list, got str"),
            ({"responses": ["a"], "scores": [1]}, "responses: expected two or more, got 1"),
            ({"responses": [], "scores": []}, "responses: expected two or more, got 0"),
            ({"scores": [1]}, "expected one score per response, got 1 scores for 2 responses"),
            ({"scores": [1, float("nan")]}, r"scores\[1\]: expected a finite number, got nan"),
            ({"scores": [float("inf"), 1]}, r"scores\[0\]: expected a finite number, got inf"),
            ({"scores": [1e300, 1]}, r"scores\[0\]: expected a finite number"),  # not in float32
            ({"scores": [1, 10**400]}, r"scores\[1\]: expected a finite number"),
            ({"scores": [1, "2"]}, r"scores\[1\]: expected a finite number, got '2'"),
            ({"scores": [1, True]}, r"scores\[1\]: expected a finite number, got True"),
            ({"responses": ["a", 3]}, r"responses\[1\]: expected a text or a list of one turn, got int"),
            ({"prompt": 3}, "prompt: expected a text or a list of turns, got int"),
            ({"prompt": []}, "prompt: .* got an empty list"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=rf"pairs\.jsonl:2: {message}"):
            lists(tmp_path, CAPITALS[0], {**CAPITALS[1], **change})

    def test_other_errors(self, tmp_path):
        with pytest.raises(ValueError, match=r"jsonl:1: the object has no responses and no scores; it has"):
            lists(tmp_path, {"prompt": "p", "chosen": "a"})
        with pytest.raises(ValueError, match=r"jsonl:1: expected an object with responses, scores, got str"):
            lists(tmp_path, ["p"])
        with pytest.raises(ValueError, match="num_responses of 2 or more, got 1"):
            lists(tmp_path, *CAPITALS, num_responses=1)
        with pytest.raises(ValueError, match="does not exist"):
            jsonl_lists(path=str(tmp_path / "none.jsonl"), **BUDGET)
        with pytest.raises(ValueError, match=r"jsonl:1: template: the prompt .* is plain text"):
            lists(tmp_path, *CAPITALS, template=chatml_template)


class TestLabelled:
    def test_labels_and_texts(self, tmp_path):
        rows = [
            {"prompt": "2+2=", "completion": "4", "label": True},
            {"prompt": "2+2=", "completion": "5", "label": False},
            {"prompt": "3+3=", "response": "6", "label": 1},
            {"prompt": "3+3=", "response": "7", "label": 0},
            {"prompt": "3+3=", "response": " ", "label": 0},
        ]
        records = labelled(tmp_path, *rows)
        assert texts(records) == [("2+2=", "4"), ("2+2=", "5"), ("3+3=", "6"), ("3+3=", "7")]
        np.testing.assert_array_equal(records.columns["labels"], [[1], [0], [1], [0]])
        assert dict(records.metadata["drops"]) == {"empty response": 1}
        assert len(set(records.group[:2])) == 1, "responses to one prompt stay on one side of a split"
        assert records.group[0] != records.group[2]
        batch = records.rows([0, 3, -1])
        check_completions(batch)
        np.testing.assert_array_equal(batch.columns["labels"], [[1], [0], [0]])
        assert batch.columns["labels"].dtype == np.int32

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"prompt": "p", "label": 1}, "expected completion or response, got label, prompt"),
            ({"prompt": "p", "response": "a"}, "the object has no label"),
            ({"completion": "a", "label": 1}, "the object has no prompt"),
            ({"prompt": "p", "completion": "a", "label": 2}, "label: expected true, false, 1 or 0, got 2"),
            ({"prompt": "p", "completion": "a", "label": "true"}, "label: .* got 'true'"),
            ({"prompt": "p", "completion": "a", "label": None}, "the object has no label; it has"),
            ({"prompt": "p", "completion": "a", "label": 0.5}, r"label: .* got 0\.5"),
            (
                {"prompt": "p", "completion": "a", "response": "b", "label": 1},
                "expected completion or response",
            ),
            ({"prompt": "p", "completion": 1, "label": 1}, "completion: expected a text"),
            ([1], "expected an object with label, got list"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path, row, message):
        good = {"prompt": "2+2=", "completion": "4", "label": True}
        with pytest.raises(ValueError, match=rf"pairs\.jsonl:2: {message}"):
            labelled(tmp_path, good, row)


TURNS = [{"role": "user", "content": "Hi"}]
REPLY = [{"role": "assistant", "content": "Hello"}]


class TestDialogues:
    def test_a_template_that_changed_under_its_name_makes_other_records(self, tmp_path, monkeypatch):
        """A file of one's own: the tokens of the template before were taken from the cache."""
        monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
        row = {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello", "label": True}

        def written(source: str) -> tuple[str, str]:
            module = types.ModuleType("my_template")
            exec(source, vars(module))
            monkeypatch.setitem(sys.modules, "my_template", module)
            return texts(labelled(tmp_path, row, template=partial(turn_template, write=module.mine)))[0]

        source = "LEAD = '> '\n\n\ndef mine(turns):\n    return 'Q: ' + turns[-1][1] + '\\n', LEAD"
        assert written(source) == ("Q: Hi\n", "> Hello")
        assert written(source.replace("Q:", "Q.")) == ("Q. Hi\n", "> Hello")
        assert written(source.replace("'> '", "'- '")) == ("Q: Hi\n", "- Hello")
        reads = "import pathlib\n\n\ndef mine(turns):\n    return pathlib.Path('form').read_text(), ''"
        monkeypatch.chdir(tmp_path)
        for form in ("one", "two"):
            (tmp_path / "form").write_text(form)
            assert written(reads) == (form, "Hello"), "what it writes counts, too"

    def test_turns_are_written_in_the_template(self, tmp_path):
        row = {"prompt": TURNS, "completion": REPLY, "label": True}
        hh, chatml = (template().opened(TURNS).prompt for template in (hh_template, chatml_template))
        for template, expected in ((None, (hh, " Hello")), (chatml_template, (chatml, "Hello"))):
            assert texts(labelled(tmp_path, row, template=template)) == [expected]
        row = {"prompt": TURNS, "responses": ["Hello", "", "Hm"], "scores": [0, 5, 1]}
        assert texts(lists(tmp_path, row)) == [(hh, " Hm", " Hello")]

    def test_a_response_of_more_turns(self, tmp_path):
        row = {"prompt": TURNS, "completion": TURNS + REPLY, "label": True}
        with pytest.raises(ValueError, match=r"expected one assistant turn, got \['user', 'assistant'\]"):
            labelled(tmp_path, row)

    def test_group(self, tmp_path):
        rows = [{"prompt": p, "completion": "a", "label": 1, "group": 7} for p in ("x", "y")]
        assert len(set(labelled(tmp_path, *rows).group)) == 1


def test_made_once_and_again_when_something_changes(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "jaxpref.data.text.reading.write_records", lambda *a: (made.append(1), write_records(*a))
    )
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
    read = partial(lists, tmp_path, *CAPITALS)
    for arguments, count in (({}, 1), ({}, 1), ({"num_responses": 2}, 2), ({"add_eos": False}, 3), ({}, 3)):
        read(**arguments)
        assert len(made) == count, arguments
    changed = json.loads(json.dumps(CAPITALS))
    changed[0]["scores"][0] = 3
    assert texts(lists(tmp_path, *changed))[0][1] == " Cusco"


def test_absent_responses_survive_the_disk_and_only(tmp_path):
    records = lists(tmp_path, *CAPITALS)
    write_records(records, tmp_path / "kept")
    loaded = load_records(tmp_path / "kept")
    assert texts(loaded) == texts(records)
    np.testing.assert_array_equal(loaded.take([1]).only(2).rows([0]).response_mask.sum(), 0)


def test_no_tensorflow(tmp_path, monkeypatch):
    for name in ("tensorflow", "tensorflow_datasets", "seqio"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
    assert len(lists(tmp_path, *CAPITALS)) == 2
