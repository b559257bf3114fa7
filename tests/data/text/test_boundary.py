"""Where the prompt ends, what is cut, what is dropped."""

import numpy as np
import pytest

from jaxpref.data import (
    Drop,
    Example,
    bytes_tokenizer,
    characters_tokenizer,
    encode_example,
    llama2c_tokenizer,
)

BUDGET = {"prompt_length": 32, "response_length": 16}


class Merging:
    """Characters, but ": " (the end of a prompt with the start of a reply) and "ab" are one token each."""

    vocab_size, bos_id, eos_id, pad_id, fingerprint = 200, 1, 2, 0, "merging"
    _pairs = (": ", "ab")

    def encode(self, text):
        ids, at = [], 0
        while at < len(text):
            pair = text[at : at + 2]
            ids.append(150 + self._pairs.index(pair) if pair in self._pairs else ord(text[at]))
            at += 2 if pair in self._pairs else 1
        return ids

    def decode(self, ids):
        return "".join(self._pairs[i - 150] if i >= 150 else chr(i) for i in ids if i > 2)


def test_plain_case():
    example = encode_example(characters_tokenizer("pxy"), "pp", ["x", "yx"], **BUDGET)
    assert list(example.prompt) == [1, 3, 3]
    assert [list(response) for response in example.responses] == [[4, 2], [5, 4, 2]]
    assert example.unscored == example.responses_truncated == 0


def test_a_token_across_the_boundary_belongs_to_the_responses():
    example = encode_example(Merging(), "Q:", [" yes", " no"], **BUDGET)
    assert list(example.prompt) == [1, ord("Q")]
    assert [r[0] for r in example.responses] == [150, 150]


def test_one_response_that_merges_moves_the_boundary_for_all():
    example = encode_example(Merging(), "Q:", [" yes", "no"], **BUDGET)
    assert list(example.prompt) == [1, ord("Q")]
    assert [r[0] for r in example.responses] == [150, ord(":")]


@pytest.mark.parametrize("responses", [[" yes", " no"], [" yes", "no"], ["b", "c"], ["b", " x", "y z"]])
@pytest.mark.parametrize("prompt", ["Q:", "a", "Q: a", ""])
def test_each_completion_is_tokenised_as_its_text(prompt, responses):
    """Prompt tokens plus response tokens are the ids of the whole text, for every response."""
    tokenizer = Merging()
    example = encode_example(tokenizer, prompt, responses, **BUDGET)
    for response, tokens in zip(responses, example.responses, strict=True):
        assert [*example.prompt, *tokens] == [1, *tokenizer.encode(prompt + response), 2]


def test_real_tokenizer_on_random_cuts(data_root):
    """The same for a real BPE and prompts that stop anywhere, in the middle of words too."""
    tokenizer = llama2c_tokenizer(str(data_root / "stories260K" / "tok512.bin"))
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    generator = np.random.default_rng(0)
    moved = 0
    for _ in range(100):
        cut = int(generator.integers(1, len(text) - 8))
        responses = [text[cut:], text[cut : cut + 3] + "zap"]
        example = encode_example(tokenizer, text[:cut], responses, prompt_length=99, response_length=99)
        for response, tokens in zip(responses, example.responses, strict=True):
            assert [*example.prompt, *tokens] == [1, *tokenizer.encode(text[:cut] + response), 2]
        moved += len(example.prompt) - 1 < len(tokenizer.encode(text[:cut]))
    assert moved > 20  # otherwise this tested nothing


class TestTruncation:
    tokenizer = characters_tokenizer("abcdefgh")

    def encode(self, prompt, responses, **policy):
        example = encode_example(self.tokenizer, prompt, responses, **policy)
        if isinstance(example, Drop):
            return example.reason
        return self.tokenizer.decode(example.prompt), [list(r) for r in example.responses], example

    def test_prompt_start(self):
        prompt, _, example = self.encode("abcdef", ["g", "h"], prompt_length=4, response_length=9)
        assert prompt == "def"
        assert example.prompt[0] == 1  # BOS stays
        assert example.prompt_truncated

    def test_prompt_end(self):
        policy = {"prompt_length": 4, "response_length": 9, "truncate_prompt": "end"}
        assert self.encode("abcdef", ["g", "h"], **policy)[0] == "abc"

    def test_prompt_drop(self):
        policy = {"prompt_length": 4, "response_length": 9, "truncate_prompt": "drop"}
        assert self.encode("abcdef", ["g", "h"], **policy) == "prompt longer than the budget"
        assert self.encode("abc", ["g", "h"], **policy)[0] == "abc"

    def test_a_cut_response_gets_no_eos(self):
        _, responses, example = self.encode("a", ["bcdef", "gh"], prompt_length=9, response_length=3)
        assert responses == [self.tokenizer.encode("bcd"), [*self.tokenizer.encode("gh"), 2]]
        assert example.responses_truncated == 1
        assert not example.prompt_truncated

    def test_response_drop(self):
        policy = {"prompt_length": 9, "response_length": 3, "truncate_response": "drop"}
        assert self.encode("a", ["bcdef", "gh"], **policy) == "response longer than the budget"
        assert self.encode("a", ["bc", "gh"], **policy)[1] == [[4, 5, 2], [9, 10, 2]]

    def test_identical_once_cut(self):
        reason = self.encode("a", ["bcdef", "bcdeg"], prompt_length=9, response_length=4)
        assert reason == "identical responses after truncation"

    @pytest.mark.parametrize("length", range(1, 8))
    def test_never_empties_a_response(self, length):
        result = self.encode("abcdef", ["bcdefg", "hgf"], prompt_length=length, response_length=length)
        assert all(1 <= len(r) <= length for r in result[1])
        assert len(result[2].prompt) <= length


def test_drops():
    tokenizer = bytes_tokenizer()
    for responses, reason in [
        (["same", "same"], "identical responses"),
        (["same", " same "], "identical responses"),
        (["x", ""], "empty response"),
        (["x", " \n"], "empty response"),
        ([], "empty response"),
    ]:
        assert encode_example(tokenizer, "p", responses, **BUDGET) == Drop(reason)
    assert isinstance(encode_example(tokenizer, "p", ["only one"], **BUDGET), Example)


def test_nothing_predicts_the_first_token_of_an_empty_prompt():
    example = encode_example(bytes_tokenizer(), "", ["ab", "cd"], add_bos=False, **BUDGET)
    assert list(example.prompt) == []
    assert example.unscored == 1
    dropped = encode_example(bytes_tokenizer(), "", ["a", "c"], add_bos=False, add_eos=False, **BUDGET)
    assert dropped == Drop("no scored token left")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"prompt_length": 0, "response_length": 4}, "must hold at least BOS"),
        ({"prompt_length": 4, "response_length": 0}, "at least 1 token"),
        ({**BUDGET, "truncate_prompt": "middle"}, "truncate_prompt: expected one of"),
        ({**BUDGET, "truncate_response": "start"}, "truncate_response: expected one of"),
    ],
)
def test_bad_policy(policy, message):
    with pytest.raises(ValueError, match=message):
        encode_example(bytes_tokenizer(), "p", ["a", "b"], **policy)
