"""Commands on model folders: written, converted, checked, and talked with."""

import dataclasses
import io
import json
import re
import sys
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest
from gguf_files import write_gguf
from launch import TINY, here
from model_folder import ENDS, SIZES, TEMPLATE, model_folder, params
from numpy_decoder import next_token_log_probs
from scipy.special import log_softmax

from jaxpref import cli, config
from jaxpref.commands import checking, speaking
from jaxpref.data import gguf_tokenizer, hf_tokenizer, llama2c_tokenizer
from jaxpref.models.hub import hf_end_ids, hf_sizes, hf_weights, write_folder
from jaxpref.models.hub.config import described
from jaxpref.models.hub.folder import open_folder
from jaxpref.models.hub.lazy import wrapped
from jaxpref.models.lora import LoRA
from jaxpref.models.scoring import quantities
from jaxpref.models.transformer import Transformer
from jaxpref.models.weights import shapes
from jaxpref.policies.adapted import adapted
from jaxpref.policies.transformer import transformer
from jaxpref.training.export import export_params
from jaxpref.training.run import open_run

pre_tokenizers = pytest.importorskip("tokenizers", reason="needs the optional package").pre_tokenizers


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    """What a folder's policy compiles is compiled once for all tests."""

    def known(options, **more):
        if options.file not in _KNOWN:
            _KNOWN[options.file] = _opened(options, **more)
        return _KNOWN[options.file]

    for module in (speaking, checking):
        monkeypatch.setattr(module, "model_of_folder", known)


_KNOWN, _opened = {}, speaking.model_of_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "tiny")


def _leaves(tree):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


def _equal(first, second):
    first, second = _leaves(first), _leaves(second)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_a_folder_is_copied_bit_for_bit_with_what_belongs_to_it(folder, tmp_path):
    output = here("convert", str(folder), "--to", str(tmp_path / "copy"))
    assert "wrote" in output
    assert "in 1 file," in output
    given, made = open_folder(folder), open_folder(tmp_path / "copy")
    assert given.keys() == made.keys()
    for name, array in given.items():
        assert (made[name].dtype, made[name][...].tobytes()) == (array.dtype, array[...].tobytes())
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    assert hf_end_ids(tmp_path / "copy") == ENDS


def test_a_folder_is_cast_and_cut_into_shards(folder, tmp_path):
    out = tmp_path / "cast"
    here("convert", str(folder), "--to", str(out), "--dtype", "bfloat16", "--shard-size", "5kB")
    assert len(list(out.glob("*.safetensors"))) > 2
    assert all(file.stat().st_size < 12_000 for file in out.glob("*.safetensors"))
    cast = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params())
    _equal(hf_weights(out), cast)


def test_a_run_is_exported_bit_for_bit(tmp_path, one_device):
    run = open_run(config.load(TINY), tmp_path / "run", log=lambda text: None)
    rng = np.random.default_rng(1)
    weights = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), run.abstract_params)
    export_params(run, weights, tmp_path / "model")
    _equal(hf_weights(tmp_path / "model"), weights)
    assert hf_sizes(tmp_path / "model") == run.policy.model.sizes
    assert hf_end_ids(tmp_path / "model") == run.policy.end_ids == (2,)
    for model, message in (
        (dataclasses.replace(run.policy.model, outputs=1), "reward model"),
        (None, "no transformer"),
    ):
        other = dataclasses.replace(run, policy=run.policy._replace(model=model))
        with pytest.raises(ValueError, match=message):
            export_params(other, weights, tmp_path / "other")


def test_adapters_are_folded_in(tmp_path, one_device):
    """The exported model gives the log-probs of the base with its adapters."""
    base, lora = params(), LoRA(rank=2, targets=("query", "mlp.down"))
    policy = partial(transformer, sizes=SIZES, eos_id=2)
    built = dataclasses.replace(
        config.load(TINY), tokenizer=None, policy=partial(adapted, policy=policy, base=params, lora=lora)
    )
    run, rng = open_run(built, tmp_path / "run", log=lambda text: None), np.random.default_rng(3)
    trained = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), run.abstract_params)
    export_params(run, trained, tmp_path / "model")
    made = _numpy(hf_weights(tmp_path / "model"))
    for name in ("query", "key"):
        weight, found = (tree["blocks"]["attention"][name]["weight"] for tree in (base, made))
        factors = trained["blocks"]["attention"].get(name)
        added = 0 if factors is None else 16 * factors["lora_a"] @ factors["lora_b"]
        np.testing.assert_allclose(found, weight + added, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(made["embedding"], base["embedding"])


def test_llama2c_becomes_a_folder_with_its_tokenizer(data_root, tmp_path):
    source = data_root / "stories260K"
    given = ["--tokenizer", str(source / "tok512.bin"), "--to", str(tmp_path / "stories")]
    here("convert", str(source / "stories260K.bin"), *given)
    made, known = hf_tokenizer(str(tmp_path / "stories")), llama2c_tokenizer(str(source / "tok512.bin"))
    assert (made.bos_id, made.eos_id, made.pad_id) == (known.bos_id, known.eos_id, known.pad_id)
    for text in ("Once upon a time, Zoë said: 好 🙂\n\n  Bye  now .", " x", "aaaaaaaa the the", ""):
        assert made.encode(text) == known.encode(text)
        assert made.decode(made.encode(text)) == known.decode(known.encode(text))
    assert hf_end_ids(tmp_path / "stories") == (known.eos_id,)


def test_a_gguf_file_becomes_a_folder_that_computes_the_same(tmp_path):
    gguf = pytest.importorskip("gguf", reason="needs the optional package gguf")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "<|im_end|>", "<|endoftext|>"]
    sizes = dataclasses.replace(SIZES, vocab=len(tokens), rope_style="interleaved", kv_heads=1)
    rng = np.random.default_rng(2)
    given = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), shapes(sizes))
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 2)
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(258)
    writer.add_eot_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_context_length(77)
    writer.add_chat_template(TEMPLATE)
    write_gguf(writer, given, sizes)
    here("convert", str(tmp_path / "m.gguf"), "--to", str(tmp_path / "out"))
    row = [7, 3, 250, 9, 9, 100]
    found = next_token_log_probs(hf_sizes(tmp_path / "out"), _numpy(hf_weights(tmp_path / "out")), row)
    np.testing.assert_allclose(found, next_token_log_probs(sizes, given, row), atol=1e-6)
    assert hf_end_ids(tmp_path / "out") == (258, 257)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["max_position_embeddings"] == 77
    assert (written["rms_norm_eps"], written["rope_theta"]) == (1e-5, 10_000.0)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == TEMPLATE
    made, known = hf_tokenizer(str(tmp_path / "out")), gguf_tokenizer(str(tmp_path / "m.gguf"))
    assert made.encode("hello <|im_end|> é") == known.encode("hello <|im_end|> é")


def _numpy(tree):
    return jax.tree.map(np.asarray, tree)


class TestAnswers:
    def test_one_prompt_is_answered_as_it_is_among_others(self, folder, capsys, one_device):
        """Alone it is streamed, with others it is drawn at once."""
        given = ["sample", str(folder), "--max-tokens", "6", "--temperature", "1", "--prompt", "hello"]
        assert cli.main(given) == 0
        alone = capsys.readouterr().out
        assert cli.main([*given, "--prompt", "another one"]) == 0
        assert capsys.readouterr().out.startswith(alone)
        assert len(alone) > len("hello\n")

    def test_a_conversation_in_lines(self, folder, capsys, monkeypatch, one_device):
        monkeypatch.setattr(sys, "stdin", io.StringIO("h\no\n\n/reset\nh\n/exit\nnot said"))
        asked, ids = [], speaking.conversation_ids
        monkeypatch.setattr(speaking, "conversation_ids", lambda *a: asked.append(a[2]) or ids(*a))
        assert (
            cli.main(["chat", str(folder), "--system", "x", "--temperature", "0", "--max-tokens", "1"]) == 0
        )
        out = capsys.readouterr().out
        roles = [[turn["role"] for turn in messages] for messages in asked]
        assert roles == [["system", "user"], ["system", "user", "assistant", "user"], ["system", "user"]]
        assert asked[0] == asked[2]
        first = asked[1][2]["content"]
        assert first
        assert out.startswith(first + "\n")
        assert out.endswith(first + "\n"), "a new conversation begins as the first one did"


class TestCheck:
    def test_a_right_folder(self, folder):
        output = here("check-model", str(folder), "--prompt", "h", "--max-tokens", "1")
        for words in (
            "family               llama",
            "264 rows, 259 ids, 5 padded",
            "the same",
            "257, 258; BOS None",
            "a first turn is",
            "mean log-prob",
            "greedy text",
            f"{folder}: right",
        ):
            assert words in output, output

    def test_a_round_trip_that_is_none(self, folder, monkeypatch):
        read = described(folder)
        assert checking._round_trip(str(folder), read).right
        name, made = "model.norm.weight", checking.file_tensors
        for changed in (
            lambda x: np.asarray(x).view(np.int32),
            lambda x: np.nextafter(np.asarray(x), np.float32(9)),
        ):
            monkeypatch.setattr(
                checking,
                "file_tensors",
                lambda *a, changed=changed: [
                    (n, wrapped(changed(x)) if n == name else x) for n, x in made(*a)
                ],
            )
            line = checking._round_trip(str(folder), read)
            assert (line.right, line.found) == (False, f"1 tensors differ, such as {name}")

    def test_weights_that_are_not_finite(self, tmp_path):
        broken = params()
        broken["blocks"]["mlp"]["up"]["weight"] = np.full_like(
            broken["blocks"]["mlp"]["up"]["weight"], np.nan
        )
        write_folder(broken, SIZES, tmp_path / "broken")
        (tmp_path / "broken" / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
        output = here("check-model", str(tmp_path / "broken"), expect=1)
        assert "WRONG mean log-prob" in output
        assert "NOT right" in output

    def test_a_reward_model(self, folder, tmp_path, capsys):
        """Its head is looked at, and what writes text says that it does not."""
        head = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
        path = str(tmp_path / "rm")
        write_folder(params() | {"head": head}, SIZES, path, like=folder)
        output = here("check-model", path)
        for words in (
            "scores, 2 of the last token",
            "the same",
            "a reward model writes none",
            f"{path}: right",
        ):
            assert words in output, output
        ids = np.array(hf_tokenizer(path).encode(checking._TEXT))[: hf_sizes(path).longest]
        model = Transformer(hf_sizes(path), outputs=2)
        batch = checking._row(ids[None])
        expected = quantities(model, params() | {"head": head}, batch, ("embeddings",))["embeddings"][0, 0]
        found = re.search(r"scores +(\S+), (\S+) at the end", output)
        np.testing.assert_allclose([float(found[1]), float(found[2])], expected, atol=1e-3)
        for command in (["chat", path], ["sample", path, "--prompt", "h"]):
            assert cli.main(command) == 2
            assert "is a reward model (2 scores) and writes no text" in capsys.readouterr().err
        broken = np.full_like(head, np.inf)
        write_folder(params() | {"head": broken}, SIZES, tmp_path / "broken", like=folder)
        assert "WRONG scores" in here("check-model", str(tmp_path / "broken"), expect=1)

    def test_against_another_library(self, folder, monkeypatch):
        """Which gives what we give for the text, and other logits for random ids."""
        seen = []

        def logits(path, tokens, *, keep):
            ours = checking._logits(Transformer(SIZES), params(), _KNOWN[path][2], tokens, keep)
            logps = next_token_log_probs(SIZES, params(), tokens[0])[-1 - keep : -1]
            np.testing.assert_allclose(log_softmax(ours[0], -1), logps, atol=1e-4)
            seen.append(tokens)
            return "6.0", ours + (0.99e-4 if len(seen) == 1 else 1.01e-4) * np.abs(ours).max()

        ids = hf_tokenizer(str(folder)).encode("no text")
        for name, value in {
            "_TEXT": "no text",
            "_LENGTH": len(ids),
            "check_transformers": lambda: None,
            "transformers_logits": logits,
            "transformers_ids": lambda path, text: (ids, ids),
        }.items():
            monkeypatch.setattr(checking, name, value)
        given = ("--against-transformers", "--prompt", "h", "--max-tokens", "1")
        output = here("check-model", str(folder), *given, expect=1)
        assert re.findall("^(.*)transformers 6.0", output, re.MULTILINE) == ["", "WRONG "]
        assert "WRONG its template" in output, "a turn is more than its text"
        assert "WRONG its tokens" not in output

    def test_without_the_other_library(self, folder, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "torch", None)
        assert cli.main(["check-model", str(folder), "--against-transformers"]) == 2
        assert "needs torch and transformers" in capsys.readouterr().err
