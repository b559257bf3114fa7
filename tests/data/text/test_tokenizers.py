"""Every tokenizer: round trips, ids from elsewhere, and errors that say what to do."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpref.data import (
    Tokenizer,
    bytes_tokenizer,
    characters_tokenizer,
    gguf_tokenizer,
    hf_template,
    hf_tokenizer,
    llama2c_tokenizer,
    sentencepiece_tokenizer,
    train_sentencepiece,
)
from jaxpref.data.text.tokenizers import gguf_tokenizer_files

TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\nHuman: hi\n\nAssistant: Hello — I am here.",
    "tabs\tand\r\nlines\n",
    "日本語 🙂 naïve",
    "<s> </s> <unk> <0x41> <0x0A>",
    "\x00\x01\x7f",
]


def random_texts(count: int) -> list[str]:
    """Any Unicode but surrogates, weighted towards ASCII, spaces and newlines."""
    generator = np.random.default_rng(0)
    texts = []
    for _ in range(count):
        ranges = [(32, 127), (32, 127), (32, 33), (10, 11), (0, 0xD800), (0xE000, 0x110000)]
        picks = generator.integers(len(ranges), size=generator.integers(0, 40))
        texts.append("".join(chr(generator.integers(*ranges[pick])) for pick in picks))
    return texts


@pytest.fixture(scope="module")
def llama2c(data_root):
    return llama2c_tokenizer(str(data_root / "stories260K" / "tok512.bin"))


def test_bytes_round_trip():
    tokenizer = bytes_tokenizer()
    for text in [*TEXTS, *random_texts(500)]:
        ids = tokenizer.encode(text)
        assert ids == [byte + 3 for byte in text.encode()]
        assert tokenizer.decode([1, *ids, 2, 0, 0]) == text


def test_bytes_decode_of_a_cut_character():
    tokenizer = bytes_tokenizer()
    assert tokenizer.decode(tokenizer.encode("aé")[:-1]) == "a\N{REPLACEMENT CHARACTER}"


def test_characters():
    tokenizer = characters_tokenizer("ab=")
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 2, 6)
    assert tokenizer.encode("b=a") == [4, 5, 3]
    assert tokenizer.decode([1, 4, 5, 3, 2, 0]) == "b=a"
    assert tokenizer.decode([3, 63]) == "a\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ValueError, match=r"'x' at position 1 of 'ax' is not in the alphabet 'ab='"):
        tokenizer.encode("ax")
    with pytest.raises(ValueError, match="repeats 'a'"):
        characters_tokenizer("aba")
    with pytest.raises(ValueError, match="is empty"):
        characters_tokenizer("")


def test_fingerprints_tell_tokenizers_apart():
    prints = [
        t.fingerprint for t in (bytes_tokenizer(), characters_tokenizer("ab"), characters_tokenizer("ba"))
    ]
    assert len(set(prints)) == 3
    assert characters_tokenizer("ab").fingerprint == prints[1]


class TestLlama2c:
    def test_known_ids(self, llama2c):
        # `run.c` gives these for its prompt "Once upon a time" with this tokenizer, after BOS.
        assert llama2c.encode("Once upon a time") == [403, 407, 261, 378]
        assert llama2c.decode([1, 403, 407, 261, 378]) == "Once upon a time"
        assert (llama2c.vocab_size, llama2c.bos_id, llama2c.eos_id) == (512, 1, 2)

    def test_round_trip(self, llama2c):
        for text in [*TEXTS, *random_texts(500)]:
            ids = llama2c.encode(text)
            assert llama2c.decode([1, *ids, 2]) == text
            assert all(3 <= i < 512 for i in ids)

    def test_byte_fallback(self, llama2c):
        assert llama2c.encode("日")[1:] == [byte + 3 for byte in "日".encode()]

    def test_merges_as_the_plain_rule_says(self, llama2c):
        """Against `run.c`'s own loop: join the best-scoring adjacent pair, leftmost first."""

        def plain(text):
            ids = []
            for character in " " + text if text else "":
                known = llama2c._ids.get(character.encode())
                ids += [known] if known is not None else [b + 3 for b in character.encode()]
            while True:
                best, at = -1e10, None
                for i in range(len(ids) - 1):
                    union = llama2c._ids.get(llama2c._pieces[ids[i]] + llama2c._pieces[ids[i + 1]])
                    if union is not None and llama2c._scores[union] > best:
                        best, at = llama2c._scores[union], (i, union)
                if at is None:
                    return ids
                ids[at[0] : at[0] + 2] = [at[1]]

        story = "Lily and Tom went to the little park. They were so happy!\nThe end,   she said. mmmmm theee"
        for text in [story, *TEXTS, *random_texts(50)]:
            assert llama2c.encode(text) == plain(text)

    def test_errors(self, tmp_path, data_root):
        good = (data_root / "stories260K" / "tok512.bin").read_bytes()
        path = tmp_path / "tok.bin"
        with pytest.raises(ValueError, match="no file"):
            llama2c_tokenizer(str(path))
        path.write_bytes(good[:-3])
        with pytest.raises(ValueError, match=r"ends inside piece 511 .* incomplete"):
            llama2c_tokenizer(str(path))
        path.write_bytes(struct.pack("<ifi", 1, 0.0, 1) + b"a")
        with pytest.raises(ValueError, match="holds 1 pieces"):
            llama2c_tokenizer(str(path))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    corpus = folder / "corpus.txt"
    corpus.write_text("the cat sat on the mat\nhello human, I am the assistant\n" * 50)
    return train_sentencepiece([str(corpus)], str(folder / "new" / "small.model"), vocab_size=320)


class TestSentencePiece:
    def test_round_trip(self, model):
        tokenizer = sentencepiece_tokenizer(model)
        assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (320, 0, 1, 2)
        # SentencePiece itself drops NUL, and writes spaces as "▁", which it therefore reads back as spaces.
        for text in [t for t in TEXTS if "\x00" not in t]:
            assert tokenizer.decode([1, *tokenizer.encode(text), 2]) == text
        assert tokenizer.decode([400]) == ""
        assert len(tokenizer.encode("the cat")) <= 3

    def test_fingerprint_is_the_content(self, model, tmp_path):
        copy = tmp_path / "copy.model"
        copy.write_bytes(Path(model).read_bytes())
        assert sentencepiece_tokenizer(str(copy)).fingerprint == sentencepiece_tokenizer(model).fingerprint

    def test_errors(self, tmp_path):
        with pytest.raises(ValueError, match="no file"):
            sentencepiece_tokenizer(str(tmp_path / "none.model"))
        (tmp_path / "bad.model").write_text("not a model")
        with pytest.raises(ValueError, match="is not a SentencePiece model"):
            sentencepiece_tokenizer(str(tmp_path / "bad.model"))
        with pytest.raises(ValueError, match="missing"):
            train_sentencepiece([str(tmp_path / "none.txt")], str(tmp_path / "m.model"), vocab_size=300)
        (tmp_path / "tiny.txt").write_text("a b\n")
        with pytest.raises(ValueError, match="vocab_size=9000 failed"):
            train_sentencepiece([str(tmp_path / "tiny.txt")], str(tmp_path / "m.model"), vocab_size=9000)
        assert not (tmp_path / "m.model").exists()


def _byte_level_parts():
    """A GPT-2-style vocabulary: three control tokens, 256 byte symbols, a few merges."""
    tokenizers = pytest.importorskip("tokenizers")
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("1", "2")]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *symbols, *(a + b for a, b in merges)]
    return tokens, merges


class TestHuggingFace:
    @pytest.fixture
    def folder(self, tmp_path):
        tokens, merges = _byte_level_parts()
        import tokenizers

        model = tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.add_special_tokens(tokens[:3])
        tokenizer.enable_truncation(4)  # a file may carry this; it must not cut our texts
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return tmp_path

    def test_round_trip(self, folder):
        tokenizer = hf_tokenizer(str(folder))
        # BOS is named, and nothing puts it in front of a text.
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 2, 2)
        assert tokenizer.vocab_size == 3 + 256 + 6
        for text in ["hello hello 12", "日本語 🙂\n\n  x", ""]:
            assert tokenizer.decode([1, *tokenizer.encode(text), 2]) == text
        assert len(tokenizer.encode(" hello" * 9)) == 9

    def test_named_tokens(self, folder):
        tokenizer = hf_tokenizer(str(folder / "tokenizer.json"), eos_token="<|endoftext|>")
        assert tokenizer.eos_id == 0
        assert tokenizer.fingerprint != hf_tokenizer(str(folder)).fingerprint
        with pytest.raises(ValueError, match="'<end>' is not in the vocabulary"):
            hf_tokenizer(str(folder), eos_token="<end>")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": False}))
        assert hf_tokenizer(str(folder)).bos_id is None
        assert hf_tokenizer(str(folder), bos_token="<|im_start|>").bos_id == 1
        (folder / "tokenizer_config.json").unlink()
        with pytest.raises(ValueError, match="pass eos_token"):
            hf_tokenizer(str(folder))

    def test_bos_is_what_is_put_in_front(self, folder):
        """A name alone puts nothing there; a post-processor does."""
        import tokenizers

        assert hf_tokenizer(str(folder)).bos_id is None
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
        with pytest.raises(
            ValueError, match=r"does not put BOS in .* says add_bos_token=true; say which it is"
        ):
            hf_tokenizer(str(folder))
        generic = config | {"add_bos_token": True, "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(generic))
        assert hf_tokenizer(str(folder)).bos_id is None, (
            "no version of transformers reads the flag of this class"
        )
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        loaded.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
        loaded.save(str(folder / "tokenizer.json"))
        assert hf_tokenizer(str(folder)).bos_id == 0, "what is put there, whatever is named"
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
        with pytest.raises(
            ValueError, match=r"puts BOS in front .* says add_bos_token=false; say which it is"
        ):
            hf_tokenizer(str(folder))
        assert hf_tokenizer(str(folder), bos_token="").bos_id is None
        assert hf_tokenizer(str(folder), bos_token="<|im_start|>").bos_id == 1
        loaded.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|endoftext|> <|im_start|> $A",
            special_tokens=[("<|endoftext|>", 0), ("<|im_start|>", 1)],
        )
        loaded.save(str(folder / "tokenizer.json"))
        with pytest.raises(ValueError, match=r"puts 2 tokens in front of a text; say which one is BOS"):
            hf_tokenizer(str(folder))

    def test_names_in_the_forms_of_both_generations(self, folder):
        config = folder / "tokenizer_config.json"
        config.unlink()
        names = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": "<|endoftext|>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(names))
        tokenizer = hf_tokenizer(str(folder))
        assert (tokenizer.eos_id, tokenizer.pad_id) == (2, 0)
        config.write_text(json.dumps({"eos_token": "<|endoftext|>", "pad_token": None}))
        assert hf_tokenizer(str(folder)).eos_id == 2, "of two files, transformers goes by the older one"
        config.write_text(json.dumps({"eos_token": "<|endoftext|>", "added_tokens_decoder": {}}))
        assert hf_tokenizer(str(folder)).eos_id == 0, (
            "which it does not read where the newer one has this key"
        )
        config.write_text("[]")
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: expected a JSON object, got list"):
            hf_tokenizer(str(folder))

    def test_added_tokens(self, folder):
        """Tokens that only the configuration adds are read as transformers reads them."""
        size = 3 + 256 + 6
        config = json.loads((folder / "tokenizer_config.json").read_text())
        added = {
            str(size): {"content": "<think>", "special": False},
            "2": {"content": "<|im_end|>", "special": True},
        }
        before = hf_tokenizer(str(folder))
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
        tokenizer = hf_tokenizer(str(folder))
        assert tokenizer.vocab_size == size + 1
        assert tokenizer.encode("<think>") == [size]
        assert tokenizer.fingerprint != before.fingerprint
        assert (tokenizer.added[-1], tokenizer.controls) == ("<think>", before.controls)
        added = {str(size + 5): {"content": "<think>"}}
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
        with pytest.raises(
            ValueError, match=r"'<think>' is token 270, and with .* the files are of different"
        ):
            hf_tokenizer(str(folder))
        named = config | {
            "eos_token": "hello"
        }  # of the vocabulary, and no token of its own until it is named
        (folder / "tokenizer_config.json").write_text(json.dumps(named))
        assert before.encode(" hello") == [before.encode(" hello")[0]]
        assert hf_tokenizer(str(folder)).encode(" hello")[-1] == before.encode("hello")[0]
        assert "hello" in hf_tokenizer(str(folder)).controls
        further = config | {"extra_special_tokens": ["he", "<extra>"], "additional_special_tokens": None}
        (folder / "tokenizer_config.json").write_text(json.dumps(further))
        tokenizer = hf_tokenizer(str(folder))
        assert tokenizer.encode("<extra>he") == [size, before._tokenizer.token_to_id("he")]
        assert tokenizer.vocab_size == size + 1

    def test_ids_beyond_the_tokenizer_are_left_out_of_texts(self, folder):
        """A model may have more rows than its tokenizer has tokens, and may draw them."""
        tokenizer = hf_tokenizer(str(folder))
        assert tokenizer.decode([*tokenizer.encode("hello"), tokenizer.vocab_size, 10**6]) == "hello"

    def test_errors(self, tmp_path, monkeypatch):
        pytest.importorskip("tokenizers")
        with pytest.raises(ValueError, match="no file"):
            hf_tokenizer(str(tmp_path))
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
            hf_tokenizer(str(tmp_path))
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(ImportError, match=r"pip install 'jaxpref\[hf\]'"):
            hf_tokenizer(str(tmp_path))


class TestGguf:
    @pytest.fixture
    def write(self, tmp_path):
        gguf = pytest.importorskip("gguf")

        def write(pre="smollm", model="gpt2", add_bos=None):
            tokens, merges = _byte_level_parts()
            writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
            writer.add_tokenizer_model(model)
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(tokens)
            writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
            writer.add_token_merges([f"{a} {b}" for a, b in merges])
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            if add_bos is not None:
                writer.add_add_bos_token(add_bos)
            writer.add_chat_template("{{ bos_token }}{{ messages[0].content }}")
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return str(tmp_path / "model.gguf")

        return write

    def test_ids(self, write):
        tokenizer = gguf_tokenizer(write())
        tokens, _ = _byte_level_parts()
        ids = tokenizer.encode("<|im_start|>hello hello 12")
        # "12" has a merge, which splitting digits must keep from happening.
        assert [tokens[i] for i in ids] == ["<|im_start|>", "hello", "Ġhello", "Ġ", "1", "2"]
        assert tokenizer.decode(ids) == "hello hello 12"
        assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (265, 1, 2, 2)

    def test_a_file_can_refuse_bos(self, write):
        assert gguf_tokenizer(write(add_bos=False)).bos_id is None
        assert gguf_tokenizer(write(add_bos=True)).bos_id == 1

    @pytest.mark.parametrize("add_bos", [False, True])
    def test_as_files_of_a_folder(self, write, tmp_path, add_bos):
        path = write(add_bos=add_bos)
        for name, text in gguf_tokenizer_files(path).items():
            (tmp_path / name).write_text(text)
        ours, theirs = gguf_tokenizer(path), hf_tokenizer(str(tmp_path))
        for text in [*TEXTS, "<|im_start|>hello hello 12<|im_end|>\n"]:
            assert ours.encode(text) == theirs.encode(text)
        for name in ("bos_id", "eos_id", "pad_id", "vocab_size", "controls"):
            assert getattr(ours, name) == getattr(theirs, name), name
        named = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert (named["bos_token"], named["eos_token"], "pad_token" in named) == (
            "<|im_start|>",
            "<|im_end|>",
            False,
        )
        assert hf_template(str(tmp_path)).fingerprint == hf_template(path).fingerprint
        assert hf_template(path).render([{"content": "Hi"}], generation=True) == "<|im_start|>Hi"

    def test_plain_gpt2_keeps_digits_together(self, write):
        tokenizer = gguf_tokenizer(write(pre="gpt-2"))
        assert tokenizer.decode([tokenizer.encode("12")[0]]) == "12"

    def test_errors(self, write, tmp_path):
        with pytest.raises(ValueError, match="no file"):
            gguf_tokenizer(str(tmp_path / "none.gguf"))
        with pytest.raises(ValueError, match=r"pre-tokenization 'qwen2'.*tokenizer\.json"):
            gguf_tokenizer(write(pre="qwen2"))
        with pytest.raises(ValueError, match="holds a 'llama' tokenizer"):
            gguf_tokenizer(write(model="llama"))
