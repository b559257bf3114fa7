"""Lines of preference files to texts: HH dialogues, JSON objects, implicit prompts, templates."""

import pytest

from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.dialogue import chatml_template, hh_template, hh_turns
from jaxpref.data.text.pairs import PairFields, TextPair, hh_pair, jsonl_pair

DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant:"
TURNS = (("user", "Hi"), ("assistant", "Hello."), ("user", "A joke?"))


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


class TestHh:
    def test_pair(self):
        pair = hh_pair(DIALOGUE + " Knock", DIALOGUE + " No.")
        assert pair[:3] == (DIALOGUE, " Knock", " No.")
        assert pair.turns == TURNS

    def test_versions_of_one_dialogue_share_a_group(self):
        short = "\n\nHuman: Hi\n\nAssistant:"
        groups = [hh_pair(text + " a", text + " b").group for text in (DIALOGUE, short)]
        assert groups[0] == groups[1]
        assert groups[0] != hh_pair(short.replace("Hi", "Ho") + " a", short.replace("Hi", "Ho") + " b").group
        assert 0 <= groups[0] < 2**63

    def test_drops(self):
        assert hh_pair(DIALOGUE + " a", DIALOGUE.replace("joke", "song") + " b") == Drop("unequal prompts")
        assert hh_pair(DIALOGUE + " a", "\n\nHuman: Hi\n\nAssistant: b") == Drop("unequal prompts")
        assert hh_pair("\n\nHuman: Hi", "\n\nHuman: Hi") == Drop("no assistant turn")


class TestTemplates:
    def test_hh(self):
        assert hh_template(TURNS) == (DIALOGUE, " ")
        assert tuple(hh_turns(DIALOGUE.removesuffix("\n\nAssistant:"))) == TURNS

    def test_chatml(self):
        prompt, lead = chatml_template(TURNS[:1])
        assert (prompt, lead) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "")


class TestJsonl:
    def test_plain(self):
        pair = jsonl_pair({"prompt": "2+2=", "chosen": "4", "rejected": "5", "extra": None})
        assert pair == TextPair("2+2=", "4", "5", pair.group, ())

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
        ):
            pair = jsonl_pair(row)
            assert pair[:3] == ("\n\nHuman: Hi\n\nAssistant:", " Yes", " No"), row
            assert pair.turns == (("user", "Hi"),)

    def test_implicit_turns_are_cut_at_a_turn(self):
        same = [user("Hi"), assistant("Well"), user("So?")]
        pair = jsonl_pair({"chosen": [*same, assistant("Yes")], "rejected": [*same, assistant("Yet")]})
        assert pair.turns == (("user", "Hi"), ("assistant", "Well"), ("user", "So?"))
        assert pair[1:3] == (" Yes", " Yet")  # not cut at "Ye", which both share

    def test_conversations_that_part_early(self):
        chosen = [user("Hi"), assistant("A"), user("So?"), assistant("Yes")]
        rejected = [user("Hi"), assistant("B"), user("So?"), assistant("Yes")]
        assert jsonl_pair({"chosen": chosen, "rejected": rejected}) == Drop("unequal prompts")
        assert jsonl_pair({"chosen": [user("Hi")], "rejected": [user("Ho")]}) == Drop("unequal prompts")
        assert jsonl_pair({"chosen": [], "rejected": []}) == Drop("no assistant turn")

    def test_identical_conversations_keep_a_response(self):
        same = [user("Hi"), assistant("Yes")]
        assert jsonl_pair({"chosen": same, "rejected": same})[1:3] == (" Yes", " Yes")

    def test_implicit_text(self):
        def split(chosen, rejected):
            return jsonl_pair({"chosen": chosen, "rejected": rejected}, PairFields(prompt=None))[:3]

        assert split("The cat sat", "The cat ran") == ("The cat", " sat", " ran")
        assert split("The cart", "The cat") == ("The", " cart", " cat")
        assert split("one two", "one two three") == ("one", " two", " two three")
        assert split("abc", "abd") == ("", "abc", "abd")
        assert split(DIALOGUE + " Yes", DIALOGUE + " Yet") == (DIALOGUE, " Yes", " Yet")

    def test_group(self):
        row = {"prompt": "a", "chosen": "b", "rejected": "c"}
        groups = [
            jsonl_pair({**row, "prompt": p, "group": g}).group for p, g in (("a", 1), ("z", 1), ("a", 2))
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
