"""Small models of every family, random weights and ragged batches for the tests of models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.models import sizes as published
from jaxpref.models.sizes import RopeScaling
from jaxpref.models.transformer import Transformer
from jaxpref.types import Completions


def shrunk(sizes, **changes):
    """The same family with few, narrow layers and a window shorter than the test sequences."""
    small = {
        "vocab": 61,
        "embed": 12,
        "layers": 2 if sizes.global_every is None else sizes.global_every + 1,
        "heads": 4,
        "kv_heads": 4 if sizes.kv_heads == sizes.heads else 2,
        "head_dim": 8,
        "mlp": 20,
        "sliding_window": None if sizes.sliding_window is None else 4,
        "rope_pattern": None if sizes.rope_pattern is None else (True, False),
        "max_length": None if sizes.max_length is None else 16,
    }
    return dataclasses.replace(sizes, **(small | changes))


# A window of original tokens so short that all three regimes of llama3 scaling occur in a head of 8.
_SCALED = RopeScaling("llama3", factor=8.0, original_length=64)
_LONG = RopeScaling(
    "longrope",
    factor=2.0,
    original_length=16,
    short_factors=(1.0, 1.5, 2.0),
    long_factors=(2.0, 3.0, 4.0),
    attention_factor=1.2,
)
_LONGER = dataclasses.replace(
    _LONG, original_length=4, short_factors=(1.0,) * 4, long_factors=(2.0, 3.0, 4.0, 5.0), long=True
)

FAMILIES = {
    "stories": shrunk(published.stories260k()),
    "smollm2": shrunk(published.smollm2_135m()),
    "llama3": shrunk(published.llama3_1_8b(), rope_base=500.0, rope_scaling=_SCALED),
    "linear_scaling": shrunk(published.smollm2_135m(), rope_scaling=RopeScaling("linear", factor=4.0)),
    "mistral": shrunk(published.mistral_7b()),
    "qwen2.5": shrunk(published.qwen2_5_0_5b()),
    "qwen3": shrunk(published.qwen3_0_6b()),
    "gemma2": shrunk(published.gemma2_2b(), query_scale=0.2, attention_soft_cap=1.5, logit_soft_cap=2.0),
    "gemma3": shrunk(published.gemma3_1b(), kv_heads=1),
    "pythia": shrunk(published.pythia_2_8b(), rope_fraction=0.5),
    "gpt2": shrunk(published.gpt2_small()),
    "smollm3": shrunk(published.smollm3_3b()),
    "smollm3_windows": shrunk(
        published.smollm3_3b(),
        layers=3,
        sliding_window=4,
        local_pattern=(False, True, False),
        rope_pattern=(True, False, True),
    ),
    "olmo2": shrunk(published.olmo2_1b(), kv_heads=2),
    "phi3": shrunk(published.phi3_mini()),
    "longrope": shrunk(published.phi3_mini(), rope_fraction=0.75, rope_scaling=_LONG),
    "longrope_long": shrunk(published.phi3_mini(), rope_scaling=_LONGER),
}


def random_params(sizes, seed=0, dtype="float32"):
    """Weights away from their start, so that norm scales, offsets and biases matter."""
    params = Transformer(sizes, param_dtype=dtype).init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), params)


def ragged_batch(b=3, k=2, p=6, r=7, vocab=61, seed=0):
    """Prompts of at least one token and responses of different lengths."""
    rng = np.random.default_rng(seed)
    prompt_lengths = rng.integers(1, p + 1, b)
    response_lengths = rng.integers(1, r + 1, (b, k))
    prompt_lengths[0], response_lengths[0, 0] = p, r
    return Completions(
        jnp.asarray(rng.integers(0, vocab, (b, p))),
        jnp.asarray(np.arange(p) < prompt_lengths[:, None]),
        jnp.asarray(rng.integers(0, vocab, (b, k, r))),
        jnp.asarray(np.arange(r) < response_lengths[..., None]),
    )


def sequences(batch):
    """(row, response, prompt length, completion without padding) of every response."""
    for i, j in np.ndindex(*batch.response_tokens.shape[:2]):
        prompt = np.asarray(batch.prompt_tokens[i])[np.asarray(batch.prompt_mask[i])]
        response = np.asarray(batch.response_tokens[i, j])[np.asarray(batch.response_mask[i, j])]
        yield i, j, len(prompt), np.concatenate([prompt, response])


def unshared(batch):
    """The same responses, one to a row after its own prompt.

    The prompt's first token is the new prompt; the rest of the prompt and the response are one response of
    which the prompt's part is not scored.
    """
    b, k, r = batch.response_tokens.shape
    p = batch.prompt_tokens.shape[1]
    tokens, mask = np.zeros((b * k, p + r), int), np.zeros((b * k, p + r), bool)
    for i, j, start, completion in sequences(batch):
        tokens[i * k + j, : len(completion)] = completion
        mask[i * k + j, start : len(completion)] = True
    return Completions(
        jnp.asarray(tokens[:, :1]),
        jnp.ones((b * k, 1), bool),
        jnp.asarray(tokens[:, None, 1:]),
        jnp.asarray(mask[:, None, 1:]),
    )
