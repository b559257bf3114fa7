"""Pairs of a file of your own: no row that means something else, and nothing done in silence."""

import json
import sys

import numpy as np
import pytest
from jsonl_files import jsonl, sums

from jaxpref.data import bytes_tokenizer, characters_tokenizer
from jaxpref.data.account import account
from jaxpref.data.text.boundary import prompt_ids
from jaxpref.data.text.dialogue import chatml_template
from jaxpref.data.text.jsonl import jsonl_labelled, jsonl_lists, jsonl_pairs

BUDGET = {"prompt_length": 200, "response_length": 64, "tokenizer": bytes_tokenizer}
TOKENIZER = bytes_tokenizer()
ARITHMETIC = {
    "system": "S",
    "question": "What is 2+2?",
    "chosen": "It is 4.",
    "rejected": "It is 5, I think.",
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def pairs(tmp_path, *rows, **arguments):
    return jsonl_pairs(path=jsonl(tmp_path, *rows), **{**BUDGET, **arguments})


def texts(records, row=0):
    responses = [TOKENIZER.decode(records.response(row, j)) for j in range(records.k)]
    return TOKENIZER.decode(records.prompt(row)), *responses


class TestPrompts:
    def test_a_question_is_not_lost(self, tmp_path):
        """The prompt was "It is", what the replies share: question and system turn were gone."""
        with pytest.raises(
            ValueError,
            match=r"jsonl:1: the object has no prompt; it has chosen, question, .*prompt='question'",
        ):
            pairs(tmp_path, ARITHMETIC)
        records = pairs(tmp_path, ARITHMETIC, prompt="question")
        opening = "\n\nSystem: S\n\nHuman: What is 2+2?\n\nAssistant:"
        assert texts(records) == (opening, " It is 4.", " It is 5, I think.")
        in_chatml = texts(pairs(tmp_path, ARITHMETIC, prompt="question", template=chatml_template))
        assert in_chatml[0].startswith(
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>"
        )
        without = pairs(tmp_path, ARITHMETIC, prompt="question", system=None)
        assert texts(without)[0] == "What is 2+2?"
        assert "columns not used: system (text)" in account(without)

    def test_several_columns_make_a_prompt(self, tmp_path):
        row = {"instruction": "Add.", "input": "2, 2", "chosen": "4", "rejected": "5"}
        both = ("instruction", "input")
        assert texts(pairs(tmp_path, row, prompt=both))[0] == "Add.\n\n2, 2"
        assert texts(pairs(tmp_path, row | {"input": ""}, prompt=both))[0] == "Add."
        assert texts(pairs(tmp_path, row, row | {"input": None}, prompt=both), row=1)[0] == "Add."
        with pytest.raises(
            ValueError, match="no row has a column 'inptu'; the columns are chosen, input, instr"
        ):
            pairs(tmp_path, row, prompt=("instruction", "inptu"))
        with pytest.raises(
            ValueError, match="has no instruction or input; it has chosen, input, rejected; say which"
        ):
            pairs(tmp_path, {key: row[key] for key in ("input", "chosen", "rejected")}, prompt=both)
        said = account(pairs(tmp_path, row, prompt="instruction"))
        assert "columns not used: input (text)" in said

    def test_an_implicit_prompt_is_asked_for_and_said(self, tmp_path):
        row = {"chosen": "It is 4.", "rejected": "It is 5."}
        with pytest.raises(ValueError, match="has no prompt; it has chosen, rejected; pass prompt=None for"):
            pairs(tmp_path, row)
        records = pairs(tmp_path, row, prompt=None)
        assert texts(records) == ("It is", " 4.", " 5.")
        said = account(records)
        assert "1 row: the prompt is what chosen and rejected have in common" in said
        assert "first row: 'It is' + ' 4.' | ' 5.'" in said
        with pytest.raises(ValueError, match="and this one has; leave that option out"):
            pairs(tmp_path, row | {"prompt": "Well?"}, prompt=None)

    def test_a_repeated_prompt(self, tmp_path):
        row = {"prompt": "2+2=", "chosen": "2+2=4", "rejected": "2+2=5"}
        with pytest.raises(
            ValueError,
            match=r"jsonl:1: each response begins with what its prompt ends with \('2\+2='\); pass",
        ):
            pairs(tmp_path, row)
        removed = pairs(tmp_path, row, repeated_prompt="remove")
        assert texts(removed) == ("2+2=", "4", "5")
        assert "1 row: the prompt was repeated in the responses, and removed there" in account(removed)
        assert texts(pairs(tmp_path, row, repeated_prompt="keep")) == ("2+2=", "2+2=4", "2+2=5")
        one = {"prompt": "2", "chosen": "2 is it", "rejected": "no"}
        assert texts(pairs(tmp_path, one)) == ("2", "2 is it", "no")
        with pytest.raises(ValueError, match='repeated_prompt: expected "refuse"'):
            pairs(tmp_path, row, repeated_prompt="removed")

    def test_a_repeated_prompt_of_lists_and_labels(self, tmp_path):
        path = jsonl(tmp_path, {"prompt": "2+2=", "responses": ["2+2=5", "2+2=4"], "scores": [0, 1]})
        with pytest.raises(ValueError, match="each response begins with what its prompt ends with"):
            jsonl_lists(path=path, **BUDGET)
        assert texts(jsonl_lists(path=path, repeated_prompt="remove", **BUDGET)) == ("2+2=", "4", "5")
        path = jsonl(tmp_path, {"prompt": "2+2=", "completion": "2+2=5", "label": 0})
        with pytest.raises(ValueError, match="each response begins with what its prompt ends with"):
            jsonl_labelled(path=path, **BUDGET)
        assert texts(jsonl_labelled(path=path, repeated_prompt="remove", **BUDGET)) == ("2+2=", "5")

    def test_a_prompt_beside_conversations_is_one_of_their_turns(self, tmp_path):
        talks = {"chosen": [user("Hi"), assistant("Yes")], "rejected": [user("Hi"), assistant("No")]}
        for prompt in ("Hi", " Hi\n", [user("Hi")]):
            assert texts(pairs(tmp_path, talks | {"prompt": prompt})) == texts(pairs(tmp_path, talks))
        for prompt in ("Answer briefly", [user("Ho")], [{"role": "system", "content": "S"}, user("Hi")]):
            with pytest.raises(ValueError, match=r"jsonl:1: the prompt is not what the responses begin with"):
                pairs(tmp_path, talks | {"prompt": prompt})
        hh = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
        for prompt in ("Hi", "\n\nHuman: Hi\n\nAssistant:"):
            assert texts(pairs(tmp_path, hh | {"prompt": prompt})) == texts(pairs(tmp_path, talks))
        with pytest.raises(ValueError, match="the prompt is not what the responses begin with"):
            pairs(tmp_path, hh | {"prompt": "Ho"})

    def test_a_system_turn_in_front_of_conversations(self, tmp_path):
        talks = {"chosen": [user("Hi"), assistant("Yes")], "rejected": [user("Hi"), assistant("No")]}
        hh = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
        expected = ("\n\nSystem: S\n\nHuman: Hi\n\nAssistant:", " Yes", " No")
        for row in (talks, hh, {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}):
            assert texts(pairs(tmp_path, row | {"system": "S"})) == expected
        own = {key: [{"role": "system", "content": "S"}, *turns] for key, turns in talks.items()}
        assert texts(pairs(tmp_path, own | {"system": "S"})) == expected
        with pytest.raises(ValueError, match="system: the turns have a system turn of their own"):
            pairs(tmp_path, own | {"system": "T"})

    def test_a_prefill_opens_no_second_turn(self, tmp_path):
        row = {"prompt": [user("2+2?"), assistant("It is")], "chosen": " 4.", "rejected": " 5."}
        assert texts(pairs(tmp_path, row)) == ("\n\nHuman: 2+2?\n\nAssistant: It is", " 4.", " 5.")
        chatml = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\nIt is"
        assert texts(pairs(tmp_path, row, template=chatml_template)) == (chatml, " 4.", " 5.")
        again = row | {"chosen": "It is 4.", "rejected": "It is 5."}
        with pytest.raises(ValueError, match=r"each response begins with .* \('It is'\)"):
            pairs(tmp_path, again)
        assert texts(pairs(tmp_path, again, repeated_prompt="remove")) == texts(pairs(tmp_path, row))
        path = jsonl(tmp_path, {"prompt": row["prompt"], "responses": [" 5.", " 4."], "scores": [0, 1]})
        assert texts(jsonl_lists(path=path, **BUDGET))[0].endswith("Assistant: It is")


class TestSaid:
    """What is not refused, and is not done in silence either."""

    def test_a_dialogue_beside_a_system_turn(self, tmp_path):
        row = {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " b", "rejected": " c", "system": "S"}
        assert texts(pairs(tmp_path, row)) == ("\n\nSystem: S\n\nHuman: hi\n\nAssistant:", " b", " c")

    def test_text_before_the_first_name_is_the_systems(self, tmp_path):
        begin = "You are a poet.\n\nHuman: hi\n\nAssistant:"
        row = {"chosen": begin + " A", "rejected": begin + " B"}
        assert texts(pairs(tmp_path, row))[0] == begin
        expected = "<|im_start|>system\nYou are a poet.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        records = pairs(tmp_path, row, template=chatml_template)
        assert texts(records)[0] == expected + "<|im_start|>assistant\n"
        assert records.metadata["first_row"]["prompt"] == texts(records)[0]

    def test_a_reply_that_begins_with_the_users_turn(self, tmp_path):
        row = {"prompt": [user("Hello")], "chosen": "Hello!", "rejected": "Hello."}
        records = pairs(tmp_path, row)
        assert texts(records)[1:] == (" Hello!", " Hello.")
        assert "1 row: each response begins with the user's last turn, and keeps it" in account(records)

    def test_two_forms_in_one_file(self, tmp_path):
        rows = [row | {"system": "S" if i < 2 else ""} for i, row in enumerate(sums(5))]
        said = account(pairs(tmp_path, *rows))
        assert "2 rows: turns, written in a template" in said
        assert "3 rows: plain text, joined as it stands; other rows are turns" in said
        assert not any("turns" in line for line in account(pairs(tmp_path, *rows[:2])))

    def test_labels_are_counted(self, tmp_path):
        rows = [{"prompt": f"{i}", "completion": "a", "label": i % 3 == 0} for i in range(7)]
        said = account(jsonl_labelled(path=jsonl(tmp_path, *rows), **BUDGET))
        assert "columns: labels (3 desirable, 4 undesirable)" in said

    def test_keys_of_turns(self, tmp_path):
        row = {"prompt": [user("Hi") | {"name": "Ann", "tool_calls": None}], "chosen": "a", "rejected": "b"}
        assert "1 row: a turn has 'name', which is not used" in account(pairs(tmp_path, row))

    def test_a_column_that_no_row_has(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"pairs\.jsonl: no row has a column 'sytem'; the columns are chosen, p"
        ):
            pairs(tmp_path, *sums(3), system="sytem")

    def test_indentation_stays(self, tmp_path):
        row = {"prompt": [user("Code?")], "chosen": "    return 1", "rejected": "\treturn 2"}
        for template in (None, chatml_template):
            assert texts(pairs(tmp_path, row, template=template))[1:] == ("    return 1", "\treturn 2")


class _Special:
    """One id a letter; <s> is BOS and </s> EOS where the text has them, as with Hugging Face's tokenizers."""

    bos_id, eos_id, pad_id, vocab_size, fingerprint = 1, 2, 0, 300, "special"

    def encode(self, text):
        ids = []
        while text:
            special = next((s for s in ("<s>", "</s>") if text.startswith(s)), None)
            ids.append({"<s>": 1, "</s>": 2}[special] if special else 3 + ord(text[0]))
            text = text[len(special or text[0]) :]
        return ids

    def decode(self, ids):
        return "".join(chr(i - 3) for i in ids if i > 2)


class _NoBos(_Special):
    bos_id = None


class TestSpecialTokens:
    def test_bos_and_eos_come_once(self, tmp_path):
        row = {"prompt": "<s>Hi", "chosen": "a</s>", "rejected": "b</s> \n"}
        records = pairs(tmp_path, row, tokenizer=_Special)
        np.testing.assert_array_equal(records.prompt(0), [1, 3 + ord("H"), 3 + ord("i")])
        np.testing.assert_array_equal(records.response(0, 0), [3 + ord("a"), 2])
        np.testing.assert_array_equal(records.response(0, 1), [3 + ord("b"), 2])
        assert "1 row: BOS in the text already, none added" in account(records)
        assert "1 row: EOS in the text already, none added" in account(records)
        plain = pairs(tmp_path, {"prompt": "Hi", "chosen": "a", "rejected": "b"}, tokenizer=_Special)
        np.testing.assert_array_equal(plain.prompt(0), records.prompt(0))
        np.testing.assert_array_equal(plain.response(0, 0), records.response(0, 0))

    def test_prompts_to_answer_have_bos_once(self):
        assert (
            prompt_ids(_Special(), "<s>Hi") == prompt_ids(_Special(), "Hi") == [1, 3 + ord("H"), 3 + ord("i")]
        )
        assert prompt_ids(_NoBos(), "Hi") == [3 + ord("H"), 3 + ord("i")]

    def test_special_tokens_inside_are_said(self, tmp_path):
        row = {"prompt": "Hi", "chosen": "a</s>b", "rejected": "c"}
        records = pairs(tmp_path, row, tokenizer=_Special)
        np.testing.assert_array_equal(records.response(0, 0), [3 + ord("a"), 2, 3 + ord("b"), 2])
        assert "1 row: BOS or EOS inside a response" in account(records)

    def test_responses_that_differ_in_eos_alone(self, tmp_path):
        rows = [{"prompt": "Hi", "chosen": c, "rejected": "c"} for c in ("c</s>", "d")]
        assert pairs(tmp_path, *rows, tokenizer=_Special).metadata["drops"] == {"identical responses": 1}


class TestColumns:
    def test_rows_keep_the_order_and_their_columns(self, tmp_path):
        rows = [row | {"margin": i / 2, "weights": i, "kind": "sum"} for i, row in enumerate(sums(300))]
        rows.insert(3, {"prompt": "x", "chosen": "a", "rejected": "a", "margin": -1.0, "weights": 1})
        records = pairs(tmp_path, *rows)
        assert [texts(records, i)[0] for i in range(300)] == [row["prompt"] for row in sums(300)]
        np.testing.assert_array_equal(records.columns["margin"], np.arange(300) / 2)
        np.testing.assert_array_equal(records.columns["weights"], np.arange(300))
        said = account(records)
        assert "columns: margin, weights (of each row in every mean)" in said
        assert "columns not used: kind (text)" in said
        assert "301 rows read; left out: 1 identical responses" in said
        batch = records.rows([5, 2])
        np.testing.assert_array_equal(batch.columns["margin"], np.float32([2.5, 1]))

    def test_columns_asked_for(self, tmp_path):
        rows = [row | {"context": [i, 1.5], "scores": [1, 0], "n": i} for i, row in enumerate(sums(4))]
        records = pairs(tmp_path, *rows, columns={"context": "b d", "scores": "b k"})
        np.testing.assert_array_equal(records.columns["context"], [[i, 1.5] for i in range(4)])
        assert records.axes_of("context") == ("b", "d")
        assert records.metadata["unread_columns"] == {"n": "not asked for"}
        # By itself, a list that nobody declared is not taken for one of responses.
        unread = pairs(tmp_path, *rows).metadata["unread_columns"]
        assert unread == {"context": "its rows are not of one shape [b]"}

    def test_a_list_sorts_its_columns_with_its_responses(self, tmp_path):
        rows = [
            {
                "prompt": "p",
                "responses": ["c", "a", "", "b"],
                "scores": [1, 3, 9, 2],
                "returns": [10, 30, 90, 20],
            },
            {"prompt": "q", "responses": ["a", "b"], "scores": [1, 0], "returns": [1, 0]},
        ]
        records = jsonl_lists(path=jsonl(tmp_path, *rows), **BUDGET)
        np.testing.assert_array_equal(records.columns["returns"], [[30, 20, 10], [1, 0, 0]])

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("text", "text"),
            ({"a": 1}, r"not numbers \(dict\)"),
            (10**12, "holds integers beyond 32 bits"),
            (1e300, "holds numbers beyond float32"),
            (float("nan"), "holds numbers that are not finite"),
            (None, "1 of 3 rows do not have it"),
            ([1, 2], r"its rows are not of one shape \[b\]"),
        ],
    )
    def test_why_a_column_is_not_taken(self, tmp_path, value, why):
        rows = [*(row | {"x": 1} for row in sums(2)), sums(3)[2] | {"x": value}]
        import re

        assert re.fullmatch(why, pairs(tmp_path, *rows).metadata["unread_columns"]["x"])
        with pytest.raises(ValueError, match=rf"pairs\.jsonl: column x: {why}"):
            pairs(tmp_path, *rows, columns={"x": "b"})

    def test_known_columns_are_checked(self, tmp_path):
        rows = [row | {"weights": -1} for row in sums(2)]
        assert "expected 0 or more" in pairs(tmp_path, *rows).metadata["unread_columns"]["weights"]
        with pytest.raises(ValueError, match=r"pairs\.jsonl: column weights: expected 0 or more"):
            pairs(tmp_path, *rows, columns={"weights": "b"})
        with pytest.raises(ValueError, match="columns: reference_logps is made by jaxpref"):
            pairs(tmp_path, *rows, columns={"reference_logps": "b k"})
        with pytest.raises(ValueError, match="columns: x: expected axes such as 'b', 'b k'"):
            pairs(tmp_path, *rows, columns={"x": "k"})
        with pytest.raises(ValueError, match=r"pairs\.jsonl: column y: 2 of 2 rows do not have it"):
            pairs(tmp_path, *rows, columns={"y": "b"})


class TestTruncation:
    TALK = (
        {"role": "system", "content": "Be brief"},
        user("First question, a long one"),
        assistant("First answer"),
        user("Second"),
        assistant("Answer"),
        user("Third"),
    )

    def test_it_is_said(self, tmp_path):
        rows = [{"prompt": "p" * (i + 5), "chosen": "a" * i, "rejected": "b" * 9} for i in range(1, 11)]
        records = pairs(tmp_path, *rows, prompt_length=8, response_length=8)
        said = account(records)
        cut = "8 of 10 prompts were longer than prompt_length=8 tokens and were cut (truncate_prompt='start')"
        assert cut in said
        assert sum("13 of 20 responses were longer than response_length=8" in line for line in said) == 1
        np.testing.assert_array_equal(records.full_lengths, [[i + 1, 10] for i in range(1, 11)])
        assert records.response_lengths.max() == 8
        whole = pairs(tmp_path, *rows)
        assert "full_lengths" not in whole.columns
        np.testing.assert_array_equal(whole.full_lengths, records.full_lengths)
        assert not any("cut" in line for line in account(whole))

    @pytest.mark.parametrize("template", [None, chatml_template])
    def test_oldest_turns_go_first_and_the_system_turn_stays(self, tmp_path, template):
        row = {"prompt": list(self.TALK), "chosen": "a", "rejected": "b"}
        arguments = {"truncate_prompt": "turns", "template": template}
        with pytest.raises(ValueError, match="'prompt longer than the budget': 1"):
            pairs(tmp_path, row, prompt_length=40, **arguments)
        seen = []
        for length in range(120 if template else 48, 340, 4):
            records = pairs(tmp_path, row, prompt_length=length, **arguments)
            assert records.prompt_lengths.max() <= length
            seen.append(texts(records)[0])
        versions = list(dict.fromkeys(seen))
        assert all("Be brief" in text and text.count("Third") == 1 for text in versions)
        assert ["Second" in text for text in versions] == [False, True, True]
        assert ["First question" in text for text in versions] == [False, False, True]
        assert versions[-1] == texts(pairs(tmp_path, row, prompt_length=500, template=template))[0]

    def test_plain_text_that_is_too_long_is_left_out(self, tmp_path):
        rows = sums(11)
        records = pairs(tmp_path, *rows, prompt_length=5, truncate_prompt="turns")
        assert len(records) == 10
        assert records.metadata["drops"] == {"prompt longer than the budget": 1}


class TestForms:
    def test_all_forms_of_a_file_give_the_same(self, tmp_path):
        import gzip

        import pyarrow
        import pyarrow.parquet

        rows = [row | {"margin": float(i)} for i, row in enumerate(sums(5))]
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
        (tmp_path / "a.jsonl.gz").write_bytes(
            gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode())
        )
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
        expected = pairs(tmp_path, *rows)
        for name in ("a.json", "a.jsonl.gz", "a.parquet"):
            records = jsonl_pairs(path=str(tmp_path / name), **BUDGET)
            assert [texts(records, i) for i in range(5)] == [texts(expected, i) for i in range(5)]
            np.testing.assert_array_equal(records.columns["margin"], expected.columns["margin"])

    def test_no_tensorflow(self, tmp_path, monkeypatch):
        for name in ("tensorflow", "tensorflow_datasets", "seqio"):
            monkeypatch.setitem(sys.modules, name, None)
        assert len(pairs(tmp_path, *sums(7), response_length=9)) == 7

    def test_progress_is_shown(self, tmp_path, capsys):
        pairs(tmp_path, *sums(20), {"prompt": "x", "chosen": "a", "rejected": "a"}, prompt_length=9)
        assert "21/21 rows (1 dropped)" in capsys.readouterr().err

    def test_a_tokenizer_error_has_the_line(self, tmp_path):
        rows = [*sums(3), {"prompt": "2*2=", "chosen": "4", "rejected": "5"}]

        def tokenizer():
            return characters_tokenizer("0123456789+=")

        with pytest.raises(
            ValueError, match=r"pairs\.jsonl:4: .*'\*' at position 1 .* is not in the alphabet"
        ):
            pairs(tmp_path, *rows, tokenizer=tokenizer)

    def test_template_on_plain_text(self, tmp_path):
        with pytest.raises(ValueError, match="is plain text, not a dialogue; use template=None"):
            pairs(tmp_path, *sums(5), template=chatml_template)
