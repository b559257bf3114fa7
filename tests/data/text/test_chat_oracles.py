"""Texts and token ids of chat templates are those of transformers, and texts of control tokens stay texts."""

import pytest
from chat_folders import chat_folder, oracle

from jaxpref.data import conversation_ids, hf_template, hf_tokenizer
from jaxpref.data.text.boundary import Unwritten
from jaxpref.data.text.tokenizers.base import encode_marked, marked

VALUES = [
    (kind, name)
    for kind, of_kind in oracle()["values"].items()
    for name in sorted({key.split(", ")[0] for key in of_kind})
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("chat")


@pytest.mark.parametrize(("kind", "name"), VALUES)
def test_texts_and_ids_are_those_of_transformers(root, kind, name):
    folder = chat_folder(root, name, kind)
    tokenizer = hf_tokenizer(folder)
    template = hf_template(folder, date="2026-12-01", tools=oracle()["tools"] if name == "calls" else None)
    for which, messages in oracle()["conversations"].items():
        expected = oracle()["values"][kind][f"{name}, {which}"]
        if "error" in expected:
            with pytest.raises(Unwritten, match="System role not supported"):
                template.render(messages, generation=False)
            continue
        prompt, whole = (template.render(messages[:i], generation=i == -1) for i in (-1, len(messages)))
        if kind == "byte_level":
            assert [prompt, whole] == [expected["prompt"], expected["whole"]], which
        assert [tokenizer.encode(text) for text in (prompt, whole)] == [
            expected["prompt_ids"],
            expected["whole_ids"],
        ], which
        if which != "controls":
            assert conversation_ids(tokenizer, template, messages[:-1]) == expected["prompt_ids"], which


def test_both_generations_agree():
    assert oracle()["different in 4.57.6"] == {"byte_level": {}, "metaspace": {}}


class TestControlTokens:
    """What a turn says never becomes a control token."""

    @pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
    def test_as_transformers_sanitizes(self, root, kind):
        folder = chat_folder(root, "plain", kind)
        tokenizer, template = hf_tokenizer(folder), hf_template(folder)
        messages = marked(oracle()["conversations"]["controls"], tokenizer)
        ids = encode_marked(tokenizer, template.render(messages, generation=False))
        assert ids == oracle()["sanitized"][kind]

    @pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
    def test_any_other_text_has_the_same_ids(self, root, kind):
        """The tokenizer whose control tokens have other names is the same tokenizer."""
        tokenizer = hf_tokenizer(chat_folder(root, "plain", kind))
        for of_kind in oracle()["values"]["byte_level"].values():
            if "whole" in of_kind:
                assert tokenizer.encode_marked(of_kind["whole"]) == tokenizer.encode(of_kind["whole"])

    def test_the_marks_themselves_are_refused(self, root):
        folder = chat_folder(root, "plain")
        tokenizer, template = hf_tokenizer(folder), hf_template(folder)
        message = {"role": "user", "content": "Hi \U000f0001"}
        with pytest.raises(ValueError, match=r"a private character of Unicode \(U\+F0000"):
            conversation_ids(tokenizer, template, [message])
