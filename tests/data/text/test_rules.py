"""Records in a cache are found by the version of the rules that made them, so whoever changes what the rules
make raises the version: the content of a few examples is written down for each."""

from jsonl_files import jsonl

from jaxpref.data import Records, bytes_tokenizer
from jaxpref.data.content import content_of
from jaxpref.data.text import encoding, reading
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.dialogue import chatml_template
from jaxpref.data.text.encoding import Encoding, encode_texts
from jaxpref.data.text.jsonl import jsonl_labelled, jsonl_lists, jsonl_pairs
from jaxpref.data.text.pairs import hh_pair
from jaxpref.data.text.tokenizers.base import digest

TURN = "\n\nHuman: What is {}?\n\nAssistant: It is"
# version of the rules -> start of the content's SHA-256. A line changes together with its version alone.
HH = {3: "b4d39179d3234318"}
LINES = {(3, 2): "0a70f8860ae1d95f"}


def hh_records() -> Records:
    pairs = [
        hh_pair(TURN.format("1+1") + " 2.", TURN.format("1+1") + " 3."),
        hh_pair(TURN.format("a" * 90) + " long.", TURN.format("a" * 90) + " longer than the budget allows."),
        hh_pair("\n\nHuman: Hi\n\nAssistant: Hello", "\n\nHuman: Hi\n\nAssistant:"),
        hh_pair("\n\nHuman: Hi\n\nAssistant: Hello", "\n\nHuman: Ho\n\nAssistant: Hello"),
    ]
    examples = []
    for template in (None, chatml_template):
        for truncate in ("start", "end", "drop"):
            rules = Encoding(64, 20, truncate_prompt=truncate, template=template)
            for pair in pairs:
                if not isinstance(pair, Drop):
                    replies = [pair.chosen, pair.rejected]
                    made = encode_texts(bytes_tokenizer(), rules, pair.prompt, replies)
                    examples += [] if isinstance(made, Drop) else [made]
    return Records.from_examples(examples)


def test_what_the_rules_make_of_dialogues_changes_with_their_version():
    assert {encoding.RULES: content_of(hh_records())[:16]} == HH


def test_what_the_rules_make_of_lines_changes_with_their_version(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path))
    budget = {"tokenizer": bytes_tokenizer, "prompt_length": 40, "response_length": 12}
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    reply = [{"role": "assistant", "content": "Hello"}]
    pairs = jsonl(
        tmp_path,
        {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
        {"prompt": chat, "chosen": reply, "rejected": [{"role": "assistant", "content": "No"}]},
        {"prompt": "x" * 60, "chosen": "long " * 9, "rejected": "short"},
        name="pairs.jsonl",
    )
    lists = jsonl(
        tmp_path, {"prompt": "p", "responses": ["a", "b", "c"], "scores": [0, 2, 1]}, name="lists.jsonl"
    )
    labelled = jsonl(tmp_path, {"prompt": "p", "completion": "a", "label": True}, name="labelled.jsonl")
    made = [
        jsonl_pairs(path=pairs, **budget),
        jsonl_lists(path=lists, **budget),
        jsonl_labelled(path=labelled, **budget),
    ]
    found = digest(*(content_of(records) for records in made))[:16]
    assert {(encoding.RULES, reading._VERSION): found} == LINES
