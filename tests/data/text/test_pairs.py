"""Lines of preference files to texts: HH dialogues, JSON objects, implicit prompts, templates."""

import pytest

from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.dialogue import chatml_template, hh_template
from jaxpref.data.text.messages import hh_turns
from jaxpref.data.text.pairs import PairFields, hh_pair, jsonl_pair

DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant:"


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


TURNS = (user("Hi"), assistant("Hello."), user("A joke?"))


def texts(pair):
    return pair.prompt.text, pair.chosen["content"], pair.rejected["content"]


class TestHh:
    def test_pair(self):
        pair = hh_pair(DIALOGUE + " Knock", DIALOGUE + " No.")
        assert texts(pair) == (DIALOGUE, " Knock", " No.")
        assert pair.prompt.turns == TURNS

    def test_versions_of_one_dialogue_share_a_group(self):
        short = "\n\nHuman: Hi\n\nAssistant:"
        other = short.replace("Hi", "Ho")
        groups = [hh_pair(text + " a", text + " b").prompt.group for text in (DIALOGUE, short, other)]
        assert groups[0] == groups[1] != groups[2]
        assert 0 <= groups[0] < 2**63

    def test_drops(self):
        assert hh_pair(DIALOGUE + " a", DIALOGUE.replace("joke", "song") + " b") == Drop("unequal prompts")
        assert hh_pair(DIALOGUE + " a", "\n\nHuman: Hi\n\nAssistant: b") == Drop("unequal prompts")
        assert hh_pair("\n\nHuman: Hi", "\n\nHuman: Hi") == Drop("no assistant turn")


class TestTemplates:
    def test_hh(self):
        written = hh_template().written(TURNS, [assistant("Yes ")], (), end=True)
        assert (written.prompt, written.wholes) == (DIALOGUE, (DIALOGUE + " Yes",))
        assert tuple(hh_turns(DIALOGUE.removesuffix("\n\nAssistant:"))) == TURNS

    def test_chatml(self):
        prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        written = chatml_template().written(TURNS[:1], [assistant("Yes")], (), end=True)
        assert (written.prompt, written.wholes) == (prompt, (prompt + "Yes",))


class TestJsonl:
    def test_plain(self):
        pair = jsonl_pair({"prompt": "2+2=", "chosen": "4", "rejected": "5", "extra": None})
        assert texts(pair) == ("2+2=", "4", "5")
        assert pair.prompt.turns == ()

    def test_conversation(self):
        for row in (
            {"prompt": [user("Hi")], "chosen": [assistant("Yes")], "rejected": [assistant("No")]},
            {"prompt": [user("Hi")], "chosen": "Yes", "rejected": "No"},
            {"prompt": "Hi", "chosen": [assistant("Yes")], "rejected": [assistant("No")]},
            # UltraFeedback's form: the whole conversation on both sides, its first turn repeated as prompt.
            {
                "prompt": "Hi",
                "chosen": [user("Hi"), assistant("Yes")],
                "rejected": [user("Hi"), assistant("No")],
            },
            {
                "prompt": [user("Hi")],
                "chosen": [user("Hi"), assistant("Yes")],
                "rejected": [user("Hi"), assistant("No")],
            },
            {"chosen": [user("Hi"), assistant("Yes")], "rejected": [user("Hi"), assistant("No")]},
            {"prompt": [user("Hi")], "chosen": assistant("Yes"), "rejected": assistant("No")},
        ):
            pair = jsonl_pair(row)
            assert texts(pair) == (None, "Yes", "No"), row
            assert pair.prompt.turns == (user("Hi"),)

    def test_implicit_turns_are_cut_at_a_turn(self):
        same = [user("Hi"), assistant("Well"), user("So?")]
        pair = jsonl_pair({"chosen": [*same, assistant("Yes")], "rejected": [*same, assistant("Yet")]})
        assert pair.prompt.turns == tuple(same)
        assert texts(pair)[1:] == ("Yes", "Yet")  # not cut at "Ye", which both share

    def test_conversations_that_part_early(self):
        chosen = [user("Hi"), assistant("A"), user("So?"), assistant("Yes")]
        rejected = [user("Hi"), assistant("B"), user("So?"), assistant("Yes")]
        assert jsonl_pair({"chosen": chosen, "rejected": rejected}) == Drop("unequal prompts")
        assert jsonl_pair({"chosen": [user("Hi")], "rejected": [user("Ho")]}) == Drop("unequal prompts")
        assert jsonl_pair({"chosen": [], "rejected": []}) == Drop("no assistant turn")

    def test_identical_conversations_keep_a_response(self):
        same = [user("Hi"), assistant("Yes")]
        assert texts(jsonl_pair({"chosen": same, "rejected": same}))[1:] == ("Yes", "Yes")

    def test_implicit_text(self):
        def split(chosen, rejected):
            return texts(jsonl_pair({"chosen": chosen, "rejected": rejected}, PairFields(prompt=None)))

        assert split("The cat sat", "The cat ran") == ("The cat", " sat", " ran")
        assert split("The cart", "The cat") == ("The", " cart", " cat")
        assert split("one two", "one two three") == ("one", " two", " two three")
        assert split("abc", "abd") == ("", "abc", "abd")
        assert split(DIALOGUE + " Yes", DIALOGUE + " Yet") == (DIALOGUE, " Yes", " Yet")

    def test_group(self):
        row = {"prompt": "a", "chosen": "b", "rejected": "c"}
        groups = [
            jsonl_pair({**row, "prompt": p, "group": g}).prompt.group
            for p, g in (("a", 1), ("z", 1), ("a", 2))
        ]
        assert groups[0] == groups[1] != groups[2]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"chosen": 1, "rejected": "b"}, "chosen: expected a text or a list of turns, got int"),
            ({"prompt": {}, "chosen": "a", "rejected": "b"}, "prompt: expected a text"),
            ({"chosen": "a", "rejected": [assistant("b")]}, "got one of each"),
            ({"chosen": [{"role": "user"}], "rejected": []}, "turn 0: expected"),
            ({"chosen": [{"role": "robot", "content": "a"}], "rejected": []}, "got 'robot' and str"),
        ],
    )
    def test_errors(self, row, message):
        with pytest.raises(ValueError, match=message):
            jsonl_pair(row)
