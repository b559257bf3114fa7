"""Records in a cache are found by the version of the rules that made them, so whoever changes what the rules
make raises the version: the content of a few examples is written down for each."""

from chat_folders import chat_folder, oracle
from jsonl_files import jsonl

from jaxpref.data import Records, bytes_tokenizer, hf_tokenizer
from jaxpref.data.content import content_of
from jaxpref.data.text import encoding, reading
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.dialogue import chatml_template
from jaxpref.data.text.encoding import Encoding, encode_texts
from jaxpref.data.text.jsonl import jsonl_labelled, jsonl_lists, jsonl_pairs
from jaxpref.data.text.pairs import hh_pair
from jaxpref.data.text.templates import hub
from jaxpref.data.text.tokenizers.base import digest

TURN = "\n\nHuman: What is {}?\n\nAssistant: It is"
# version of the rules -> start of the content's SHA-256. A line changes together with its version alone.
HH = {4: "b4d39179d3234318"}
TEMPLATES = {2: "b5a46b59a654150e"}
LINES = {(4, 2): "0a70f8860ae1d95f"}


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


def test_what_the_rules_make_in_templates_of_models_changes_with_their_version(tmp_path):
    """How they are rendered, how a reply ends, and what is said of it."""
    written = []
    for name in oracle()["templates"]:
        folder = chat_folder(tmp_path, name)
        template, added = hub.hf_template(folder, date="2026-12-01"), hf_tokenizer(folder).added
        for messages in oracle()["conversations"].values():
            try:
                made = template.written(messages[:-1], messages[-1:], added, end=True)
                written.append(repr((made.prompt, made.wholes, made.ended, made.bos, made.notes)))
            except ValueError as error:
                written.append(type(error).__name__)
    assert {hub.VERSION: digest(*written)[:16]} == TEMPLATES
