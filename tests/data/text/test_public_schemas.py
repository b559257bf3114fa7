"""Columns of public data sets, from JSON lines and from Parquet: the same records, and which kind it is."""

import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest
from chat_folders import chat_folder, oracle
from jsonl_files import jsonl

from jaxpref.data import bytes_tokenizer, chatml_template, hf_template, hf_tokenizer
from jaxpref.data.account import account
from jaxpref.data.content import content_of
from jaxpref.data.prepare import jsonl_labelled, jsonl_lists, jsonl_messages, jsonl_pairs, recognised

BUDGET = {"prompt_length": 400, "response_length": 200}
READERS = {"pairs": jsonl_pairs, "lists": jsonl_lists, "labelled": jsonl_labelled, "messages": jsonl_messages}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


CALL = oracle()["conversations"]["call"][1]["tool_calls"]
TOOL_TALK = [
    user("Weather?"),
    assistant("", tool_calls=CALL),
    {"role": "tool", "name": "weather", "content": "20"},
]
TALK = [{"role": "system", "content": "S"}, user("1"), assistant("one"), user("2")]
SCHEMAS = {
    "texts": ("pairs", {"prompt": "2+2=", "chosen": "4", "rejected": "5"}),
    "messages": ("pairs", {"prompt": TALK, "chosen": [assistant("two")], "rejected": [assistant("2")]}),
    "single": ("pairs", {"prompt": TALK, "chosen": assistant("two"), "rejected": assistant("2")}),
    "implicit": ("pairs", {"chosen": [*TALK, assistant("two")], "rejected": [*TALK, assistant("2")]}),
    "implicit_hh": (
        "pairs",
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    ),
    "ultrafeedback": (
        "pairs",
        {
            "prompt": "2",
            "prompt_id": "x",
            "chosen": [user("2"), assistant("two")],
            "rejected": [user("2"), assistant("2")],
            "messages": [user("2"), assistant("two")],
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        },
    ),
    "tools": (
        "pairs",
        {"prompt": TOOL_TALK, "chosen": [assistant("20")], "rejected": [assistant("", tool_calls=CALL)]},
    ),
    "scored": (
        "lists",
        {"prompt": TALK, "responses": [assistant("2"), assistant("two")], "scores": [0.5, 1.0]},
    ),
    "scored_texts": ("lists", {"prompt": "2+2=", "responses": ["5", "4"], "scores": [0.0, 1.0]}),
    "scored_talks": (
        "lists",
        {"responses": [[*TALK, assistant("2")], [*TALK, assistant("two")]], "scores": [0.5, 1.0]},
    ),
    "unpaired": ("labelled", {"prompt": "2+2=", "completion": "4", "label": True}),
    "labelled": ("labelled", {"messages": [*TALK, assistant("two")], "label": False}),
    "completed": ("labelled", {"prompt": TALK, "completion": [assistant("two")], "label": True}),
    "conversations": ("messages", {"messages": [*TALK, assistant("two")]}),
    "instructions": ("messages", {"prompt": TALK, "completion": [assistant("two")]}),
}


def parquet(folder, *rows, name="rows.parquet"):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / name)
    return str(folder / name)


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_lines_and_parquet_give_the_same(tmp_path, name):
    kind, row = SCHEMAS[name]
    other = json.loads(
        json.dumps(row).replace("two", "deux").replace('"4"', '"four"').replace("a: b", "a: d")
    )
    paths = jsonl(tmp_path, row, other), parquet(tmp_path, row, other)
    assert [recognised(path) for path in paths] == [kind, kind]
    plain = any(isinstance(row.get(column), str) for column in ("prompt", "chosen"))
    folder = chat_folder(tmp_path, "calls")
    template = None if plain else lambda: hf_template(folder)
    arguments = {"tokenizer": lambda: hf_tokenizer(folder), "template": template, **BUDGET}
    made = [READERS[kind](path=path, **arguments) for path in paths]
    assert len(made[0]) == 2
    assert content_of(made[0]) == content_of(made[1])


def test_pairs_that_share_several_turns(tmp_path):
    """The prompt is all that both sides share, and each reply is scored by itself."""
    paths = [jsonl(tmp_path, SCHEMAS[name][1], name=name) for name in ("messages", "single", "implicit")]
    arguments = {"tokenizer": bytes_tokenizer, "template": chatml_template, **BUDGET}
    made = [jsonl_pairs(path=path, **arguments) for path in paths]
    assert len({content_of(records) for records in made}) == 1
    assert bytes_tokenizer().decode(made[0].prompt(0)).count("<|im_start|>") == len(TALK) + 1
    assert [bytes_tokenizer().decode(made[0].response(0, j)) for j in (0, 1)] == ["two", "2"]


def test_conversations_are_learned_by_their_last_turn(tmp_path):
    records = jsonl_messages(
        path=jsonl(tmp_path, SCHEMAS["conversations"][1]), tokenizer=bytes_tokenizer, **BUDGET
    )
    assert bytes_tokenizer().decode(records.response(0, 0)) == " two"
    assert records.k == 1
    assert "labels" not in records.columns
    said = "1 row: earlier turns of the assistant are part of the prompt, and are not learned"
    assert said in account(records)


class TestRecognised:
    def test_columns_that_are_empty_at_first(self, tmp_path):
        rows = [{"prompt": "a", "completion": "b", "label": None}] * 3 + [
            {"prompt": "a", "completion": "b", "label": True}
        ]
        assert recognised(jsonl(tmp_path, *rows)) == "labelled"

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (
                [{"question": "a", "answer": "b"}],
                "columns of preference data: answer, question; pairs have chosen",
            ),
            ([{"prompt": "a", "responses": ["b"]}], "not the columns of preference data: prompt, responses"),
            ([], "no rows, or no columns in them"),
            ([7], r"rows\.jsonl:1: expected an object with columns, got int"),
        ],
    )
    def test_what_is_none_of_them(self, tmp_path, rows, message):
        with pytest.raises(ValueError, match=message):
            recognised(jsonl(tmp_path, *rows, name="rows.jsonl"))


class TestBadParquet:
    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("chosen", 4, "chosen: expected a text or a list of turns, got int"),
            ("chosen", b"4", "chosen: expected a text or a list of turns, got bytes"),
            ("chosen", 0.5, "chosen: expected a text or a list of turns, got float"),
            ("chosen", datetime.datetime(2026, 12, 1), "expected a text or a list of turns, got datetime"),
            ("prompt", [1, 2], 'turn 0: expected {"role": ..., "content": ...}, got 1'),
            ("prompt", ["a"], 'turn 0: expected {"role": ..., "content": ...}, got a'),
            (
                "prompt",
                {"role": "user", "content": "a"},
                "prompt: expected a text or a list of turns, got dict",
            ),
            ("prompt", [{"role": "user", "text": "a"}], 'turn 0: expected {"role": ..., "content": ...}'),
            (
                "prompt",
                [{"role": "user", "content": 4}],
                "turn 0: expected a role of .* and a text, got 'user' and int",
            ),
            ("prompt", [{"role": "bot", "content": "a"}], "turn 0: expected a role of .*, got 'bot' and str"),
            ("prompt", [], "prompt: expected a text or a list of turns, got an empty list"),
            (
                "prompt",
                '[{"role": "user", "content": "Hi"}]',
                "prompt: turns as JSON inside a text; make them a list of objects",
            ),
        ],
    )
    def test_a_column_of_another_type(self, tmp_path, column, value, message):
        row = {"prompt": "2+2=", "chosen": "4", "rejected": "5"} | {column: value}
        if column != "prompt" and not isinstance(value, str):
            row |= {"rejected": value, "chosen": value}
        with pytest.raises(ValueError, match=r"rows\.parquet, row 1: .*") as error:
            jsonl_pairs(path=parquet(tmp_path, row), tokenizer=bytes_tokenizer, **BUDGET)
        assert error.match(message.replace("{", r"\{").replace("...,", r"\.\.\.,"))

    def test_labels_and_scores_of_another_type(self, tmp_path):
        path = parquet(tmp_path, {"prompt": "a", "completion": "b", "label": "yes"})
        with pytest.raises(ValueError, match="row 1: label: expected true, false, 1 or 0, got 'yes'"):
            jsonl_labelled(path=path, tokenizer=bytes_tokenizer, **BUDGET)
        path = parquet(tmp_path, {"prompt": "a", "responses": ["b", "c"], "scores": [1.0, None]})
        with pytest.raises(ValueError, match=r"row 1: scores\[1\]: expected a finite number, got None"):
            jsonl_lists(path=path, tokenizer=bytes_tokenizer, **BUDGET)

    def test_null_fields_of_structs_are_none(self, tmp_path):
        """Arrow gives every turn, and every object of arguments, the keys that any of them has."""
        other = [{"function": {"name": "weather", "arguments": {"days": 3}}}]
        talk = [*TOOL_TALK, assistant("", tool_calls=other), {"role": "tool", "content": "21"}]
        path = parquet(tmp_path, {"prompt": talk, "chosen": assistant("20"), "rejected": assistant("no")})
        turns = pyarrow.parquet.read_table(path).to_pylist()[0]["prompt"]
        assert turns[0]["tool_calls"] is None, "this is how it is in the file"
        assert turns[3]["tool_calls"][0]["function"]["arguments"] == {"city": None, "days": 3}
        folder = chat_folder(tmp_path, "calls")
        tokenizer = hf_tokenizer(folder)
        records = jsonl_pairs(
            path=path, tokenizer=lambda: tokenizer, template=lambda: hf_template(folder), **BUDGET
        )
        prompt = tokenizer.decode(records.prompt(0))
        assert 'weather {"days": 3}' in prompt
        assert "null" not in prompt
        assert "None" not in prompt
