"""Files that cannot be what they are said to be: one line each, with the file, the line and what to do.

What a person does wrong with a command, a folder or an experiment is in `tests/test_bad_commands.py`, what
with tables of roads and behaviour in the tests of these rooms.
"""

import gzip
import json

import pytest
from launch import here

EXPERIMENT = '''
from functools import partial

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import bytes_tokenizer
from jaxpref.data.prepare import jsonl_labelled, jsonl_lists, jsonl_pairs
from jaxpref.experiment import Experiment, Stage
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer


def experiment(path: str, kind: str = "pairs") -> Experiment:
    """A run that never gets to its first step."""
    reader = {"pairs": jsonl_pairs, "lists": jsonl_lists, "labelled": jsonl_labelled}[kind]
    records = partial(reader, path=path, tokenizer=bytes_tokenizer, prompt_length=16, response_length=16)
    optimizer = partial(adamw, schedule=partial(constant, value=0.1))
    algorithm = partial(offline, loss=losses.dpo, optimizer=optimizer)
    sizes = partial(tiny, vocab=259, embed=16, layers=1, heads=2, kv_heads=2, mlp=32)
    policy = partial(transformer, sizes=sizes, eos_id=2)
    stage = Stage("dpo", train=records, algorithm=algorithm, num_steps=1, batch_size=2)
    return Experiment("bad", policy=policy, stages=(stage,), tokenizer=bytes_tokenizer)
'''

GOOD = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
LIST = {"prompt": "2+2=", "responses": ["5", "4"], "scores": [0, 1]}
LABEL = {"prompt": "2+2=", "completion": "4", "label": True}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def turn(content, role="user"):
    return {"role": role, "content": content}


# name, content, what the line says; the first row of most is right, so that the number of the line is not 1
PAIRS = [
    ("cut", lines(GOOD) + b'{"prompt": "2', ":2: not JSON: "),
    ("plain_text", b"2+2=\t4\t5\n", ":1: not JSON: "),
    ("csv", b"prompt,chosen,rejected\n2+2=,4,5\n", ":1: not JSON: "),
    ("python", b"{'prompt': '2+2='}\n", ":1: not JSON: "),
    ("two_in_a_line", json.dumps(GOOD).encode() * 2, ":1: not JSON: "),
    ("pretty_printed", json.dumps(GOOD, indent=1).encode(), ":1: not JSON: "),
    ("lone_surrogate", lines(GOOD, GOOD | {"chosen": "\ud800"}), ":2: a text holds half of a surrogate pair"),
    ("many_digits", lines(GOOD) + b'{"n": ' + b"1" * 5000 + b"}", ":2: not JSON that can be read: "),
    ("nested", lines(GOOD) + b"[" * 100_000, ":2: not JSON that can be read: it is nested too deeply"),
    ("utf16", json.dumps(GOOD).encode("utf-16"), ":1: the file is UTF-16 or binary; save it as UTF-8"),
    ("utf16_without_mark", json.dumps(GOOD).encode("utf-16-le"), ":1: the file is UTF-16 or binary"),
    ("latin1", lines(GOOD) + '{"prompt": "ä"}'.encode("latin-1"), ":2: not JSON: not UTF-8 text"),
    ("empty", b"", "no record is left; the file has no rows"),
    ("blank", b"\n  \n\n", "no record is left; the file has no rows"),
    ("empty_array", b"[]", "no record is left; the file has no rows"),
    ("cut_archive", gzip.compress(lines(*[GOOD] * 99))[:-9], "damaged gzip file after line"),
    ("bzip2", b"BZh91AY&SY", "the file is a bzip2 archive; unpack it"),
    ("zip", b"PK\x03\x04....", "the file is a zip archive; unpack it"),
    ("damaged_parquet", b"PAR1....PAR1", "damaged Parquet file after row 0"),
    ("array_without_comma", b'[{"prompt": "a"}\n{}]', ":1: the object has no chosen and no rejected"),
    ("array_and_more", b"[]\n{}", "not JSON: something follows the array"),
    (
        "twice",
        lines(GOOD) + b'{"prompt": "a", "prompt": "b"}',
        ":2: not JSON that can be read: the key 'prompt'",
    ),
    ("every_pair_dropped", lines(*[GOOD | {"chosen": "5"}] * 3), "dropped: {'identical responses': 3}"),
    ("every_reply_empty", lines(*[GOOD | {"chosen": " "}] * 3), "dropped: {'empty response': 3}"),
    ("list_in_a_line", lines(GOOD) + b"[1, 2]\n", ":2: expected an object with chosen, rejected, got list"),
    ("number_in_a_line", lines(GOOD, 7), ":2: expected an object with chosen, rejected, got int"),
    ("no_rejected", lines(GOOD, {"prompt": "a", "chosen": "b"}), ":2: the object has no rejected; it has"),
    ("null", lines(GOOD, GOOD | {"chosen": None}), ":2: the object has no chosen; it has prompt, rejected"),
    ("misspelt", lines({"prompt": "a", "choosen": "b", "rejected": "c"}), ":1: the object has no chosen; it"),
    ("number_as_text", lines(GOOD, GOOD | {"chosen": 4}), ":2: chosen: expected a text or a list of turns"),
    (
        "text_and_turns",
        lines(GOOD | {"chosen": [turn("4", "assistant")]}),
        ":1: chosen and rejected: expected",
    ),
    ("no_role", lines(GOOD | {"prompt": [{"content": "Hi"}]}), ':1: turn 0: expected {"role": ..., "content'),
    ("odd_role", lines(GOOD | {"prompt": [turn("Hi", "bot")]}), ":1: turn 0: expected a role of"),
    ("no_content", lines(GOOD | {"prompt": [turn(None)]}), ":1: turn 0: expected a role of"),
    ("parts", lines(GOOD | {"prompt": [turn([{"type": "text"}])]}), ":1: turn 0: expected a role of"),
    (
        "no_turns",
        lines(GOOD | {"prompt": []}),
        ":1: prompt: expected a text or a list of turns, got an empty",
    ),
    ("question", lines({"question": "a", "chosen": "b", "rejected": "c"}), "prompt='question'"),
    ("no_prompt", lines({"chosen": "It is 4", "rejected": "It is 5"}), "pass prompt=None for what chosen"),
    ("repeated", lines(GOOD, {"prompt": "a", "chosen": "ab", "rejected": "ac"}), ":2: each response begins"),
    ("system_number", lines(GOOD | {"system": 3}), ":1: system: expected a text, got int"),
]
OTHERS = [
    ("lists", "scores_missing", lines(LIST, LIST | {"scores": [1]}), ":2: expected one score per response"),
    ("lists", "score_text", lines(LIST, LIST | {"scores": [1, "2"]}), ":2: scores[1]: expected a finite"),
    ("lists", "score_nan", lines(LIST | {"scores": [float("nan"), 1]}), ":1: scores[0]: expected a finite"),
    (
        "lists",
        "one_response",
        lines(LIST | {"responses": ["4"], "scores": [1]}),
        ":1: responses: expected two",
    ),
    ("lists", "pairs_for_lists", lines(GOOD), ":1: the object has no responses and no scores; it has chosen"),
    ("labelled", "label_text", lines(LABEL, LABEL | {"label": "yes"}), ":2: label: expected true, false, 1"),
    ("labelled", "label_half", lines(LABEL, LABEL | {"label": 0.5}), ":2: label: expected true, false, 1 or"),
    ("labelled", "both_names", lines(LABEL | {"response": "5"}), ":1: expected completion or response, got"),
    ("labelled", "pairs_for_labels", lines(GOOD), ":1: the object has no label; it has chosen, prompt, rej"),
]


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [pytest.param(*row, id=row[1]) for row in [*(("pairs", *row) for row in PAIRS), *OTHERS]],
)
def test_one_line_says_what_where_and_how(tmp_path, monkeypatch, kind, name, content, message):
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
    # Drawing params takes most of a second of each test, and the readers come before they are needed.
    monkeypatch.setattr("jaxpref.training.run.initial_params", lambda run: {})
    file = tmp_path / "data" / f"{name}.jsonl"
    file.parent.mkdir()
    file.write_bytes(content)
    (tmp_path / "bad.py").write_text(EXPERIMENT)
    workdir = tmp_path / "run"
    printed = here(
        "train", f"{tmp_path}/bad.py", f"path={file}", f"kind={kind}", f"workdir={workdir}", expect=2
    )
    errors = [line for line in printed.splitlines() if "error" in line]
    assert len(errors) == 1, printed
    assert str(file) in errors[0]
    assert message in errors[0]
    assert "Traceback" not in printed
    assert file.read_bytes() == content
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "bad.py").write_text(EXPERIMENT)
    command = ("train", f"{tmp_path}/bad.py", f"workdir={tmp_path}/run")
    printed = here(*command, f"path={tmp_path}/no.jsonl", expect=2)
    assert f"{tmp_path}/no.jsonl does not exist; give the path of a JSON-lines" in printed
    printed = here(
        *command, f"path={tmp_path}", expect=2
    )  # nothing has trained: another path is no other run
    assert f"{tmp_path} is a folder; give the path" in printed
