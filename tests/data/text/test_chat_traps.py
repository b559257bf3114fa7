"""What chat templates do to conversations, one trap a test; the table is in jaxpref/data/README.md.

The templates are small ones of ours (`third_party/transformers/chat_templates.py`); the README says which
models' templates do the same.
"""

import json
import pathlib
import re
from functools import partial

import pytest
from chat_folders import chat_folder, oracle
from jsonl_files import jsonl

from jaxpref.data import chatml_template, conversation_ids, hf_template, hf_tokenizer, hh_template, reply_end
from jaxpref.data.account import account
from jaxpref.data.text.boundary import Unwritten
from jaxpref.data.text.jsonl import jsonl_labelled, jsonl_lists, jsonl_messages, jsonl_pairs

USER, YES, NO = "<|im_start|>user\n", "Yes<|im_end|>", "No<|im_end|>"
ASKED = f"<|bos|>{USER}Hi<|im_end|>\n"
OPENED = "<|im_start|>assistant\n"
HH = "\n\nHuman: Hi\n\nAssistant:"


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def pair(*prompt, chosen="Yes", rejected="No"):
    return {
        "prompt": list(prompt or [user("Hi")]),
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
    }


CALLING = assistant("", tool_calls=oracle()["conversations"]["call"][1]["tool_calls"])


class Chat:
    """Reads rows in one of the templates."""

    def __init__(self, root, monkeypatch):
        self.root = root
        monkeypatch.setenv("JAXPREF_CACHE", str(root / "cache"))

    def __call__(self, name, *rows, reader=jsonl_pairs, prompt_length=400, variables=None, **arguments):
        """The texts of the rows that stay, each (prompt, scored, scored); and the records."""
        folder = chat_folder(self.root, name)
        self.tokenizer = partial(hf_tokenizer, path=folder)
        self.template = partial(hf_template, path=folder, **(variables or {}))
        self.records = reader(
            path=jsonl(self.root, *rows),
            tokenizer=self.tokenizer,
            template=self.template,
            prompt_length=prompt_length,
            response_length=200,
            **arguments,
        )
        return [self._texts(row) for row in range(len(self.records))]

    def _texts(self, row):
        mask = self.records.rows([row]).response_mask[0].sum(-1)
        responses = [self.records.response(row, j) for j in range(self.records.k)]
        assert [len(response) for response in responses] == mask.tolist()
        return tuple(self.shown(ids) for ids in (self.records.prompt(row), *responses))

    def shown(self, ids):
        return self.tokenizer()._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def opened(self, *messages):
        """The prompt that a reply is drawn to."""
        return self.shown(conversation_ids(self.tokenizer(), self.template(), messages))

    @property
    def account(self):
        return account(self.records)

    def left_out(self, name, *rows, **arguments):
        """Why the first of two rows is left out; the second stays."""
        kept = self(name, *rows, **arguments)
        assert len(kept) == 1
        (reason,) = self.records.metadata["drops"]
        return reason


@pytest.fixture
def chat(tmp_path, monkeypatch):
    return Chat(tmp_path, monkeypatch)


def test_text_behind_the_end_of_a_reply_is_not_scored(chat):
    assert chat("plain", pair()) == [(ASKED + OPENED, YES, NO)]
    assert chat.opened(user("Hi")) == ASKED + OPENED


def test_the_end_of_a_reply_is_scored_once(chat):
    """Where EOS follows the end of a turn, and where EOS is the end of a turn."""
    assert chat("eos_without_prompt", pair()) == [(ASKED + OPENED, YES, NO)]
    assert chat("no_opening", pair()) == [("<|bos|>[Hi]", "Yes<|endoftext|>", "No<|endoftext|>")]
    assert chat("no_opening", pair(), add_eos=False) == [("<|bos|>[Hi]", "Yes", "No")]


def test_a_template_that_ends_no_reply(chat):
    asked = f"<|bos|>{USER}Hi\n" + OPENED
    assert chat("no_end", pair()) == [(asked, "Yes<|endoftext|>", "No<|endoftext|>")]
    assert "1 row: the template ends no reply, so EOS follows" in chat.account
    assert reply_end(chat.tokenizer(), chat.template()) == chat.tokenizer().eos_id


def test_a_reply_that_ends_otherwise_when_it_calls_a_tool(chat):
    row = {"prompt": [user("Weather?")], "chosen": [CALLING], "rejected": [assistant("No")]}
    ((_, chosen, rejected),) = chat("calls", row, variables={"tools": oracle()["tools"]})
    assert chosen == '<call>weather {"city": "Paris é", "days": 2}</call><|call_end|>'
    assert rejected == NO


def test_bos_comes_once(chat):
    """The template writes it, and so would the tokenizer."""
    assert chat("plain", pair())[0][0].count("<|bos|>") == 1
    assert "columns" not in " ".join(chat.account)
    assert not any("BOS" in line for line in chat.account)
    (row,) = chat("plain", pair(user("a long question " * 5)), prompt_length=20)
    assert row[0].startswith("<|bos|>")
    assert row[0].count("<|bos|>") == 1


def test_bos_at_each_turn(chat):
    """The first one stays if it is the tokenizer's, and not if it opens turns and is only called BOS."""
    folder = pathlib.Path(chat_folder(chat.root, "plain"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ bos_token + '[' + m.content + ']' + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token + '[' }}{% endif %}"
    )
    talk = pair(user("a long question " * 5), assistant("one"), user("two"))
    ((prompt, *_),) = chat("plain", talk, prompt_length=20)
    assert prompt.startswith("<|bos|>")
    assert prompt.endswith("[one]<|endoftext|><|bos|>[two]<|endoftext|><|bos|>[")
    assert not any("BOS" in line for line in chat.account)
    ((prompt, *_),) = chat("plain", talk)
    assert prompt.startswith("<|bos|>[a long question ")
    for file, changes in {
        "tokenizer.json": {"post_processor": None},
        "tokenizer_config.json": {"bos_token": "<|im_start|>"},
    }.items():
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    ((prompt, *_),) = chat("plain", talk, prompt_length=20)
    assert not prompt.startswith("<|im_start|>")
    assert prompt.endswith("[one]<|endoftext|><|im_start|>[two]<|endoftext|><|im_start|>[")


def test_a_template_that_writes_no_bos(chat):
    assert chat("no_bos", pair()) == [(ASKED.removeprefix("<|bos|>") + OPENED, YES, NO)]
    assert "1 row: the template writes no BOS, so there is none" in chat.account
    assert chat.opened(user("Hi")) == ASKED.removeprefix("<|bos|>") + OPENED


def test_a_system_turn_of_the_templates_own(chat):
    ((prompt, *_),) = chat("default_system", pair())
    assert prompt == f"<|bos|><|im_start|>system\nHelp.<|im_end|>\n{USER}Hi<|im_end|>\n{OPENED}"
    ((prompt, *_),) = chat("default_system", pair({"role": "system", "content": "S"}, user("Hi")))
    assert prompt == f"<|bos|><|im_start|>system\nS<|im_end|>\n{USER}Hi<|im_end|>\n{OPENED}"


def test_a_template_that_refuses_system_turns(chat):
    rows = pair({"role": "system", "content": "S"}, user("Hi")), pair()
    assert chat.left_out("no_system", *rows) == "the template refuses it: System role not supported"
    with pytest.raises(Unwritten, match="System role not supported"):
        chat.opened({"role": "system", "content": "S"}, user("Hi"))


def test_a_system_turn_that_moves_into_the_users(chat):
    ((prompt, *scored),) = chat("system_into_user", pair({"role": "system", "content": "S"}, user("Hi")))
    assert prompt == f"<|bos|>{USER}S\n\nHi<|im_end|>\n{OPENED}"
    assert scored == [YES, NO]
    assert len(chat.account) == 2, "nothing was left out, so nothing is said"


def test_white_space_that_is_trimmed(chat):
    (row,) = chat("trims", pair(user("  Hi \n"), chosen=" Yes \n", rejected="No "))
    assert row == (ASKED.removesuffix("\n") + OPENED, YES, NO)
    assert chat.left_out("trims", pair(chosen="Yes ", rejected=" Yes"), pair()) == "identical responses"
    (row,) = chat("plain", pair(chosen=" Yes \n", rejected="No "))
    assert row[1:] == (" Yes \n<|im_end|>", "No <|im_end|>"), "the file's own text where nothing is trimmed"


def test_thinking_of_earlier_turns_is_removed(chat):
    talk = [user("2?"), assistant("<think>\na\n</think>\n\n4"), user("3?")]
    (row,) = chat("drops_thinking", pair(*talk, chosen="<think>\nb\n</think>\n\n6", rejected="7"))
    before = f"<|bos|>{USER}2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n{USER}3?<|im_end|>\n"
    assert row == (before + OPENED, "<think>\nb\n</think>\n\n6<|im_end|>", "7<|im_end|>")
    assert "1 row: the template leaves out or changes part of an earlier turn" in chat.account


def test_text_in_front_of_every_reply(chat):
    (row,) = chat("empty_thinking", pair())
    assert row == (ASKED + OPENED, f"<think>\n\n</think>\n\n{YES}", f"<think>\n\n</think>\n\n{NO}")
    said = "1 row: the template writes '<think>\\n\\n</think>\\n\\n' in front of a reply, which is scored"
    assert said in chat.account
    thought = pair(chosen="<think>\na\n</think>\n\nYes", rejected="<think>\nb\n</think>\n\nYes")
    assert chat("empty_thinking", thought)[0][1] == "<think>\na\n</think>\n\nYes<|im_end|>"
    assert not any("in front of a reply" in line for line in chat.account)
    assert chat("channel", pair())[0][1] == "<channel>final\n" + YES


def test_thinking_of_the_last_turn_is_removed(chat):
    """Then replies that differ in their reasoning alone are one reply."""
    same = pair(chosen="<think>a</think>Yes", rejected="<think>b</think>Yes")
    other = pair(chosen="<think>a</think>Yes", rejected="<think>b</think>No")
    reason = chat.left_out("drops_all_thinking", same, other)
    assert reason == "identical responses once the template has written them"
    assert "1 row: the template leaves out or changes part of a reply" in chat.account
    nothing = pair(chosen="<think>a</think>", rejected="No")
    assert chat.left_out("drops_all_thinking", nothing, other) == "the template writes nothing of a reply"


def test_a_prompt_that_no_written_reply_follows(chat):
    """The template opens thinking, and writes replies without: training would never see what is generated."""
    with pytest.raises(ValueError, match=r"every row was dropped: \{'not prefix-stable: the template opens"):
        chat("opens_thinking", pair())
    assert chat.opened(user("Hi")) == ASKED + OPENED + "<think>\n"


def test_a_date(chat):
    dated = "<|im_start|>system\nToday: {}<|im_end|>\n"
    for variables, date in (({}, "26 Jul 2024"), ({"date": "2026-12-01"}, "01 Dec 2026")):
        assert chat("own_date", pair(), variables=variables)[0][0].startswith(dated.format(date))
    with pytest.raises(ValueError, match=r"jsonl:1: .* asks for today's date; pass date='2026-01-31'"):
        chat("todays_date", pair())
    assert "2026-12-01" in chat("todays_date", pair(), variables={"date": "2026-12-01"})[0][0]


def test_a_template_without_an_opening_of_replies(chat):
    talk = [user("1"), assistant("one"), user("2")]
    assert chat("no_opening", pair(*talk)) == [
        ("<|bos|>[1]one<|endoftext|>[2]", "Yes<|endoftext|>", "No<|endoftext|>")
    ]


def test_tool_calls_that_are_left_out(chat):
    rows = {"prompt": [user("Weather?")], "chosen": [CALLING], "rejected": [assistant("No")]}, pair()
    assert chat.left_out("plain", *rows) == "the template leaves out tool calls"
    talk = [user("Weather?"), CALLING, {"role": "tool", "content": "20"}]
    chat("plain", pair(*talk))
    assert "1 row: the template leaves out tool calls" in chat.account


def test_arguments_of_tools_as_text(chat):
    text = assistant("", tool_calls=[{"function": {"name": "weather", "arguments": '{"city":"Lima"}'}}])
    ((prompt, *_),) = chat("calls", pair(user("Weather?"), text, {"role": "tool", "content": "20"}))
    assert 'weather {"city": "Lima"}<' in prompt
    said = "1 row: the arguments of a tool call are JSON as text, and are read as the object"
    assert said in chat.account


def test_no_content_beside_tool_calls(chat):
    """Null, or no key: the content is empty, which every template can write."""
    for call in (CALLING | {"content": None}, {k: v for k, v in CALLING.items() if k != "content"}):
        ((prompt, *_),) = chat("calls", pair(user("Weather?"), call, {"role": "tool", "content": "20"}))
        assert "assistant\n<call>weather" in prompt


def test_a_prefill_keeps_its_last_space(chat):
    for name, behind in (("plain", "\n"), ("trims", "")):
        (row,) = chat(name, pair(user("Hi"), assistant("It is "), chosen="Yes", rejected="No"))
        opened = f"<|bos|>{USER}Hi<|im_end|>{behind}{OPENED}It is "
        assert row == (opened, YES, NO)
        assert chat.opened(user("Hi"), assistant("It is ")) == opened


def test_plain_text_that_is_written_as_nothing(chat):
    with pytest.raises(
        ValueError, match=r"jsonl:1: .*the chat template writes nothing of what a turn of text"
    ):
        chat("parts", pair())


def test_text_of_control_tokens(chat):
    (row,) = chat("plain", pair(user("Hi<|im_end|>"), chosen="Yes<|im_end|>"))
    assert row == (f"<|bos|>{USER}Hi<|im_end|><|im_end|>\n{OPENED}", "Yes<|im_end|><|im_end|>", NO)
    ends = [ids.tolist().count(2) for ids in (chat.records.prompt(0), chat.records.response(0, 0))]
    assert ends == [1, 1], "one each is the template's"
    assert "1 row: the text of a control token in a turn, which stays text" in chat.account
    ids = conversation_ids(chat.tokenizer(), chat.template(), [user("Hi<|im_end|>")])
    assert ids == chat.records.prompt(0).tolist()
    for made in (hh_template(), chatml_template()):
        ids = conversation_ids(chat.tokenizer(), made, [user("say <|im_end|> now")])
        assert "say <|im_end|> now" in chat.shown(ids)
        plain = conversation_ids(chat.tokenizer(), made, [user("say")])
        ends = [list(row).count(chat.tokenizer().encode("<|im_end|>")[0]) for row in (ids, plain)]
        assert ends[0] == ends[1]


def test_marks_of_replies_write_nothing(chat):
    assert chat("generation", pair()) == [(ASKED.removesuffix("\n") + OPENED, YES, NO)]


def test_what_the_readers_read_has_the_same_boundary(chat):
    """Lists, labelled responses and conversations, each with the prompt of the pairs."""
    ((prompt, *_),) = chat("plain", pair())
    talk = [user("Hi"), assistant("Yes")]
    for reader, row, scored in (
        (jsonl_lists, {"prompt": [user("Hi")], "responses": ["No", "Yes"], "scores": [0, 1]}, (YES, NO)),
        (jsonl_lists, {"responses": [[user("Hi"), assistant("No")], talk], "scores": [0, 1]}, (YES, NO)),
        (jsonl_lists, {"messages": [user("Hi")], "responses": ["No", "Yes"], "scores": [0, 1]}, (YES, NO)),
        (jsonl_labelled, {"messages": talk, "label": True}, (YES,)),
        (jsonl_labelled, {"prompt": [user("Hi")], "completion": [assistant("Yes")], "label": 0}, (YES,)),
        (jsonl_labelled, {"prompt": "Hi", "completion": "Yes", "label": 1}, (YES,)),
        # The space that joins texts is none of the reply's.
        (jsonl_pairs, {"prompt": "Hi", "chosen": " Yes", "rejected": " No"}, (YES, NO)),
        (jsonl_pairs, {"prompt": [user("Hi")], "chosen": " Yes", "rejected": " No"}, (YES, NO)),
        (jsonl_lists, {"prompt": "Hi", "responses": [" No", " Yes"], "scores": [0, 1]}, (YES, NO)),
        (jsonl_labelled, {"prompt": "Hi", "completion": " Yes", "label": 1}, (YES,)),
        (jsonl_pairs, {"chosen": f"{HH} Yes", "rejected": f"{HH} No"}, (YES, NO)),
        (jsonl_messages, {"messages": talk}, (YES,)),
        (jsonl_messages, {"prompt": "Hi", "completion": "Yes"}, (YES,)),
    ):
        assert chat("plain", row, reader=reader, plain_prompt="turn") == [(prompt, *scored)], row
    row = {"chosen": "Hi Yes", "rejected": "Hi No"}
    assert chat("plain", row, prompt=None, plain_prompt="turn") == [(prompt, YES, NO)]


def test_a_prompt_that_is_too_long_loses_whole_turns(chat):
    talk = [{"role": "system", "content": "S"}, user("1"), CALLING, {"role": "tool", "content": "20"}]
    talk += [assistant("one"), user("2")]
    (row,) = chat("calls", pair(*talk), prompt_length=40, truncate_prompt="turns")
    assert row[0] == f"<|bos|><|im_start|>system\nS<|im_end|>\n{USER}2<|im_end|>\n{OPENED}"


def test_every_trap_of_the_table_is_a_test(repository):
    table = (repository / "jaxpref/data/README.md").read_text().partition("## Traps of chat templates")[2]
    named = set(re.findall(r"`(test_\w+)`", table))
    assert named <= set(globals())
    others = {"test_every_trap_of_the_table_is_a_test", "test_what_the_readers_read_has_the_same_boundary"}
    assert {name for name in globals() if name.startswith("test_")} - others == named
