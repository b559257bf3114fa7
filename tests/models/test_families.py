"""Every family equals a slow numpy decoder and has the published number of weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import FAMILIES, ragged_batch, random_params, sequences
from numpy_decoder import next_token_log_probs
from x64 import enable_x64

from jaxpref.models import sizes as published
from jaxpref.models.decoding import decode_step, prefill
from jaxpref.models.scoring import sequence_logits, token_logps
from jaxpref.models.sizes import RopeScaling, TransformerSizes, tiny
from jaxpref.models.transformer import Transformer
from jaxpref.models.weights import parameter_count, shapes
from jaxpref.types import Prompts

# What the logits of transformers in `test_hub_parity` cover as well.
_COVERED = ("smollm2", "phi3", "smollm3", "longrope_long")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.exhaustive if n in _COVERED else ()) for n in FAMILIES]
)
def test_equals_the_numpy_decoder(name):
    sizes = FAMILIES[name]
    with enable_x64(True):
        params, batch = random_params(sizes, dtype="float64"), ragged_batch()
        model = Transformer(sizes, "float64", "float64")
        given = np.asarray(jax.jit(token_logps, static_argnums=0)(model, params, batch))
    assert given.dtype == np.float64
    host = jax.tree.map(np.asarray, params)
    for i, j, start, completion in sequences(batch):
        table = next_token_log_probs(sizes, host, completion)
        expected = [table[t - 1, completion[t]] for t in range(start, len(completion))]
        np.testing.assert_allclose(given[i, j, : len(expected)], expected, rtol=1e-10, atol=1e-10)
        assert (given[i, j, len(expected) :] == 0).all()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stories260k", 260_032),
        ("smollm2_135m", 134_515_008),
        ("smollm2_360m", 361_821_120),
        ("llama3_1_8b", 8_030_261_248),
        ("llama3_2_1b", 1_235_814_400),
        ("mistral_7b", 7_241_732_096),
        ("qwen2_5_0_5b", 494_032_768),
        ("qwen3_0_6b", 596_049_920),
        ("gemma_2b", 2_506_434_560),
        ("gemma2_2b", 2_614_341_888),
        ("gemma3_1b", 999_885_952),
        ("pythia_1_4b", 1_414_647_808),
        ("pythia_2_8b", 2_775_208_960),
        ("gpt2_small", 124_439_808),
        ("smollm3_3b", 3_075_098_624),
        ("olmo2_1b", 1_484_916_736),
        ("phi3_mini", 3_821_079_552),
    ],
)
def test_published_parameter_counts(name, count):
    assert parameter_count(getattr(published, name)()) == count


@pytest.mark.parametrize("name", FAMILIES)
def test_axis_names_fit_the_arrays(name):
    sizes = FAMILIES[name]
    width = {
        "layers": {sizes.layers},
        "vocab": {sizes.vocab, sizes.max_length},
        "embed": {sizes.embed},
        "heads": {sizes.heads * sizes.head_dim},
        "kv_heads": {sizes.kv_heads * sizes.head_dim},
        "mlp": {sizes.mlp},
        "norm": {width * sizes.head_dim for width in (1, sizes.heads, sizes.kv_heads)} | {sizes.embed},
    }
    axes = Transformer(sizes).axes()
    arrays = shapes(sizes)
    assert jax.tree.structure(axes, is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(arrays)
    for names, array in zip(
        jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple)), jax.tree.leaves(arrays), strict=True
    ):
        assert len(names) == len(array.shape)
        assert all(size in width[name] for name, size in zip(names, array.shape, strict=True))


@pytest.mark.parametrize("name", ["gpt2", "smollm3_windows"])
def test_one_token_at_a_time_gives_the_logits_of_all_at_once(name):
    """Where what a layer does depends on its number, and where positions are looked up."""
    sizes = FAMILIES[name]
    model, params = Transformer(sizes, unroll=1), random_params(sizes)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 61, (2, 9)))
    whole = Prompts(tokens, jnp.ones(tokens.shape, bool))
    expected = jax.jit(sequence_logits, static_argnums=0)(model, params, whole)
    start = Prompts(tokens[:, :4], jnp.ones((2, 4), bool))
    begin = jax.jit(functools.partial(prefill, num_samples=1, max_tokens=5), static_argnums=0)
    cache, logits = begin(model, params, start)
    step = jax.jit(decode_step, static_argnums=0)
    for i in range(5):
        np.testing.assert_allclose(logits.reshape(2, -1), expected[:, 3 + i], atol=2e-5, rtol=1e-5)
        cache, logits = step(model, params, cache, tokens[:, 4 + i, None], jnp.asarray(i))


def test_local_layers():
    assert published.gemma2_2b().local_layers[:4] == (True, False, True, False)
    gemma3 = published.gemma3_1b().local_layers
    assert [i for i, local in enumerate(gemma3) if not local] == [5, 11, 17, 23]
    assert all(published.mistral_7b().local_layers)
    assert not any(published.llama3_1_8b().local_layers)


def test_first_loss_is_near_log_vocab():
    sizes = tiny(vocab=512, embed=64, layers=4)
    params = Transformer(sizes).init(jax.random.key(0))
    batch = ragged_batch(b=8, p=16, r=16, vocab=512)
    logps = jax.jit(token_logps, static_argnums=0)(Transformer(sizes), params, batch)
    mean = float(logps.sum() / batch.response_mask.sum())
    assert abs(mean + np.log(512)) < 0.1


def test_bfloat16_compute_gives_float32_log_probs():
    sizes = FAMILIES["llama3"]
    params, batch = random_params(sizes), ragged_batch()
    score = jax.jit(token_logps, static_argnums=0)
    exact = score(Transformer(sizes), params, batch)
    rounded = score(Transformer(sizes, "float32", "bfloat16"), params, batch)
    assert rounded.dtype == jnp.float32
    error = np.abs(rounded - exact)
    assert 0 < error.max() < 0.3  # the spread of these log-probs is about 3 nats
    low = Transformer(sizes, "bfloat16", "bfloat16").init(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": 0}, "vocab.*positive int, got 0"),
        ({"embed": 12.0}, "embed.*positive int, got 12.0"),
        ({"kv_heads": 3}, r"kv_heads: must divide heads \(4\), got 3"),
        ({"norm": "batch"}, "norm: expected one of.*'batch'"),
        ({"rope_style": "halves"}, "rope_style"),
        ({"activation": "relu"}, "activation"),
        ({"norm_eps": 0.0}, "norm_eps: expected a positive number"),
        ({"head_dim": 7}, "rope_fraction: rotates 7 of head_dim=7"),
        ({"rope_fraction": 1.5}, "rope_fraction"),
        ({"global_every": 2}, "give sliding_window"),
        ({"norm": "layer", "qk_norm": "head"}, "norm='rms'"),
        ({"qk_norm": "heads"}, "qk_norm: expected one of"),
        ({"local_pattern": (True, False)}, "give sliding_window"),
        ({"sliding_window": 4, "global_every": 2, "local_pattern": (True, False)}, "exclude each other"),
        ({"rope_pattern": (True,)}, "rope_pattern: expected one bool for each of 2 layers, got 1"),
        ({"learned_positions": True}, "learned_positions: needs max_length"),
        ({"max_length": 0}, "max_length: expected a positive number"),
        ({"pre_norms": False}, "nothing is normalised"),
        (
            {"rope_scaling": RopeScaling("longrope", 2.0, short_factors=(1.0,), long_factors=(1.0,))},
            r"expected 4 short and long factors.*got \[1\]",
        ),
        ({"parallel_residual": True, "post_norms": True}, "exclude each other"),
    ],
)
def test_inconsistent_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FAMILIES["smollm2"], **changes)


@pytest.mark.parametrize(("name", "longest"), [("gpt2", 16), ("longrope", 16)])
def test_sequences_longer_than_the_model_knows(name, longest):
    sizes = FAMILIES[name]
    assert sizes.longest == longest
    params = shapes(sizes)
    jax.eval_shape(lambda params: token_logps(Transformer(sizes), params, ragged_batch(p=9, r=7)), params)
    message = f"room for 17 tokens together, the model for {longest}"
    with pytest.raises(ValueError, match=message):
        token_logps(Transformer(sizes), params, ragged_batch(p=10, r=7))
    prompts = ragged_batch(p=10, r=7)
    with pytest.raises(ValueError, match=message):
        prefill(Transformer(sizes), params, prompts, num_samples=1, max_tokens=7)


def test_longrope_with_long_factors_has_no_bound():
    assert FAMILIES["longrope_long"].longest is None


def test_other_bad_settings():
    with pytest.raises(ValueError, match=r"tiny.heads: must divide embed \(64\), got 5"):
        tiny(heads=5)
    with pytest.raises(ValueError, match="short_factors and long_factors are those of kind='longrope'"):
        RopeScaling("longrope", factor=2.0)
    with pytest.raises(ValueError, match="expected positive factors"):
        RopeScaling("longrope", factor=2.0, short_factors=(1.0,), long_factors=(0.0,))
    with pytest.raises(ValueError, match="expected 'linear', 'llama3' or 'longrope'"):
        RopeScaling("yarn", factor=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="low_frequency_factor < high_frequency_factor"):
        RopeScaling("llama3", factor=2.0, low_frequency_factor=4.0, high_frequency_factor=1.0)
    with pytest.raises(ValueError, match=r"remat.*'all'"):
        Transformer(tiny(), remat="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"compute_dtype.*'fp8'"):
        Transformer(tiny(), compute_dtype="fp8")
    with pytest.raises(TypeError):
        TransformerSizes(61)  # type: ignore[call-arg,misc]
