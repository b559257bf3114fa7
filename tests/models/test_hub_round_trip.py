"""Folder -> params -> folder: the same tensors byte for byte, and a configuration of the same sizes."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_folders import cases, folder, tensors
from model_cases import shrunk

from jaxpref.models import sizes as published
from jaxpref.models.hub import hf_end_ids, hf_outputs, hf_sizes, hf_weights, write_folder
from jaxpref.models.hub.export import family_of
from jaxpref.models.hub.folder import open_folder
from jaxpref.models.scoring import sequence_logits
from jaxpref.models.sizes import tiny
from jaxpref.models.transformer import Transformer
from jaxpref.models.weights import shapes
from jaxpref.types import Prompts


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes(), name


def drawn_params(sizes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes(sizes))


@pytest.mark.parametrize("name", cases())
def test_round_trip(name, tmp_path):
    dtype, form = ("float32", "bfloat16", "float16")[len(name) % 3], 4 + len(name) % 2
    path = folder(name, tmp_path / "in", dtype=dtype, form=form)
    long = name.endswith("_long")
    sizes = hf_sizes(path, long_context=long)
    write_folder(hf_weights(path), sizes, tmp_path / "out", like=path)
    same(open_folder(tmp_path / "out"), tensors(name, dtype))
    assert hf_sizes(tmp_path / "out", long_context=long) == sizes
    assert hf_end_ids(tmp_path / "out") == (2,)


@pytest.mark.parametrize("name", cases())
def test_both_generations_say_the_same_and_so_does_each_half_of_what_is_written(name, tmp_path):
    long = name.endswith("_long")
    newer, older = (
        hf_sizes(folder(name, tmp_path / str(form), form=form), long_context=long) for form in (5, 4)
    )
    assert newer == older
    write_folder(hf_weights(tmp_path / "5"), newer, tmp_path / "out")  # without `like`
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    halves = (
        {"rope_parameters"},
        {"rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_emb_base"}
        | {"rope_local_base_freq"},
    )
    for removed in halves:
        rest = {key: value for key, value in written.items() if key not in removed}
        (tmp_path / "out" / "config.json").write_text(json.dumps(rest))
        assert hf_sizes(tmp_path / "out", long_context=long) == newer


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("smollm2_135m", "llama"),
        ("llama3_1_8b", "llama"),
        ("mistral_7b", "mistral"),
        ("qwen2_5_0_5b", "qwen2"),
        ("qwen3_0_6b", "qwen3"),
        ("gemma_2b", "gemma"),
        ("gemma2_2b", "gemma2"),
        ("gemma3_1b", "gemma3_text"),
        ("smollm3_3b", "smollm3"),
        ("olmo2_1b", "olmo2"),
        ("phi3_mini", "mistral"),  # the same computation, in projections of their own
        ("pythia_2_8b", "gpt_neox"),
        ("gpt2_small", "gpt2"),
        ("stories260k", "llama"),
        ("tiny", "llama"),
    ],
)
def test_the_family_follows_from_sizes(name, family):
    assert family_of(getattr(published, name)(), {}).model_type == family


def test_no_family(tmp_path):
    sizes = dataclasses.replace(tiny(), logit_soft_cap=30.0)
    nearest = r"no family of llama, .* computes what these sizes describe: a llama lacks logit_soft_cap=30.0$"
    with pytest.raises(ValueError, match=nearest):
        family_of(sizes, {})
    with pytest.raises(
        ValueError, match=r"^a qwen3 does not compute .*: a qwen3 lacks .*logit_soft_cap=30.0"
    ):
        family_of(sizes, {"model_type": "qwen3"})
    with pytest.raises(ValueError, match=r"a gpt2 lacks .*learned_positions=False"):
        family_of(tiny(), {}, "gpt2")
    with pytest.raises(ValueError, match="family='bert': expected one of llama"):
        family_of(tiny(), {}, "bert")
    with pytest.raises(ValueError, match=r"write_folder: params.*should have shape"):
        write_folder(drawn_params(tiny()), tiny(vocab=8), tmp_path / "out")


def test_neighbours_that_rotate_together_become_halves(tmp_path):
    """Weights of GGUF and llama2.c files compute the same in a folder."""
    sizes = shrunk(published.stories260k())
    params = drawn_params(sizes)
    write_folder(params, sizes, tmp_path / "out", end_ids=(1,))
    halves = dataclasses.replace(sizes, rope_style="half")
    assert hf_sizes(tmp_path / "out") == halves
    assert hf_end_ids(tmp_path / "out") == (1,)
    prompts = Prompts(jnp.asarray(np.arange(12)[None]), jnp.ones((1, 12), bool))
    logits = jax.jit(sequence_logits, static_argnums=0)
    given = logits(
        Transformer(halves, unroll=1), jax.tree.map(np.asarray, hf_weights(tmp_path / "out")), prompts
    )
    np.testing.assert_allclose(
        given, logits(Transformer(sizes, unroll=1), params, prompts), rtol=0, atol=1e-5
    )


def test_what_goes_with_the_weights(tmp_path, caplog):
    path = folder("qwen2", tmp_path / "in", form=4, config={"attention_dropout": 0.25})
    for name in ("tokenizer.json", "chat_template.jinja", "README.md"):
        (path / name).write_text(f"that of {name}")
    (path / "generation_config.json").write_text('{"eos_token_id": 2, "top_k": 20}')
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    params = hf_weights(path, vocab=31)
    with caplog.at_level(logging.INFO, "jaxpref.models"):
        write_folder(
            params,
            hf_sizes(path, vocab=31),
            tmp_path / "out",
            like=path,
            dtype="bfloat16",
            end_ids=(2, 5),
            max_shard_bytes=2000,
        )
    out = tmp_path / "out"
    assert "not carried along: README.md" in caplog.text
    assert (out / "tokenizer.json").read_text() == "that of tokenizer.json"
    assert (out / "chat_template.jinja").read_text() == "that of chat_template.jinja"
    assert (out / "additional_chat_templates" / "tool_use.jinja").read_text() == "tools"
    config = json.loads((out / "config.json").read_text())
    assert {
        "attention_dropout": 0.25,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }.items() <= config.items()
    assert {"vocab_size": 31, "eos_token_id": [2, 5], "max_position_embeddings": 64}.items() <= config.items()
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [2, 5], "top_k": 20}
    assert len(list(out.glob("*.safetensors"))) > 2
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        hf_weights(out),
        jax.tree.map(lambda x: x.astype("bfloat16"), params),
    )
    with pytest.raises(ValueError, match="nothing is written over"):
        write_folder(params, hf_sizes(out), out)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_reward_models(name, tmp_path):
    """Of an untied and of a tied model: a head over the body, and no language head."""
    path = folder(name, tmp_path / "in")
    head = np.random.default_rng(0).normal(size=(16, 1)).astype(np.float32)
    write_folder(hf_weights(path) | {"head": head}, hf_sizes(path), tmp_path / "out", like=path)
    written, tied = open_folder(tmp_path / "out"), dataclasses.replace(hf_sizes(path), tied=True)
    same(
        written, {k: x for k, x in tensors(name).items() if k != "lm_head.weight"} | {"score.weight": head.T}
    )
    assert (hf_sizes(tmp_path / "out"), hf_outputs(tmp_path / "out"), hf_outputs(path)) == (tied, 1, 0)
    params = hf_weights(tmp_path / "out", dtype="float32")
    np.testing.assert_array_equal(params["head"], head)
    write_folder(params, tied, tmp_path / "again", like=tmp_path / "out")
    same(open_folder(tmp_path / "again"), written)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert config["id2label"] == {"0": "LABEL_0"}
