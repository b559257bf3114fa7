"""Token-by-token decoding of a transformer with a cache whose prompt part is shared by all samples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.kernels.token_logps import linear_logits
from jaxpref.models.attention import Keys
from jaxpref.models.layers import Attend
from jaxpref.models.transformer import (
    Transformer,
    Window,
    causal,
    final_norm,
    heads,
    last_of_prompt,
    run_blocks,
    unembedding,
)
from jaxpref.types import Params, Prompts

__all__ = ["Cache", "decode_step", "prefill"]

Cache = dict[str, Array]  # see `prefill`


def _logits(model: Transformer, params: Params, x: Float[Array, "*rows d"]) -> Float[Array, "*rows v"]:
    states = final_norm(model, params, x)
    return linear_logits(states, unembedding(params), soft_cap=model.sizes.logit_soft_cap)


def prefill(
    model: Transformer, params: Params, prompts: Prompts, *, num_samples: int, max_tokens: int
) -> tuple[Cache, Float[Array, "b v"]]:
    """Cache for `num_samples` responses of up to `max_tokens`, and logits of the first token.

    The cache: keys and values of prompts `[layers, b, kv_heads, p, head_dim]`, once per prompt, of responses
    `[layers, b, num_samples, kv_heads, max_tokens, head_dim]`, and the prompts' lengths `[b]`.
    """
    sizes = model.sizes
    b, p = prompts.prompt_tokens.shape
    mask = causal(sizes, p)

    def attend_on(is_local: bool | Array, _: None) -> Attend:
        def read(q: Array, keys: Array, values: Array) -> tuple[Array, tuple[Array, Array]]:
            keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)
            part = Keys(keys[:, None], values[:, None], mask.on(is_local))
            return heads(model, q[:, None], [part])[:, 0], (keys, values)

        return read

    positions = jnp.broadcast_to(jnp.arange(p)[None], (b, p))
    x, (keys, values) = run_blocks(model, params, prompts.prompt_tokens, positions, attend_on)
    lengths = prompts.prompt_mask.sum(-1, dtype=jnp.int32)
    room = (sizes.layers, b, num_samples, sizes.kv_heads, max_tokens, sizes.head_dim)
    empty = jnp.zeros(room, keys.dtype)
    cache = {
        "prompt_keys": keys,
        "prompt_values": values,
        "keys": empty,
        "values": empty,
        "lengths": lengths,
    }
    return cache, _logits(model, params, last_of_prompt(x, lengths))


def decode_step(
    model: Transformer, params: Params, cache: Cache, tokens: Int[Array, "b k"], step: Int[Array, ""]
) -> tuple[Cache, Float[Array, "b k v"]]:
    """Appends `tokens`, number `step` (from 0) of each response; returns the logits of the next ones."""
    sizes, lengths = model.sizes, cache["lengths"]
    p, room = cache["prompt_keys"].shape[3], cache["keys"].shape[4]
    now = lengths + step
    prompt_order, order = jnp.arange(p)[None, None], jnp.arange(room)[None, None]
    to_prompt = Window.of(prompt_order < lengths[:, None, None], now[:, None, None] - prompt_order, sizes)
    to_past = Window.of(order < step, step - order, sizes)

    def attend_on(is_local: bool | Array, layer: tuple[Array, Array, Array, Array]) -> Attend:
        def read(q: Array, keys: Array, values: Array) -> tuple[Array, tuple[Array, Array]]:
            prompt_keys, prompt_values, past_keys, past_values = layer
            parts = [
                # The new token reads itself from here, so that the scan need not rewrite the cache.
                Keys(keys[:, :, :, None], values[:, :, :, None], None),
                Keys(past_keys, past_values, to_past.on(is_local)),
                Keys(prompt_keys, prompt_values, to_prompt.on(is_local)),
            ]
            return heads(model, q[:, :, None], parts)[:, :, 0], (keys, values)

        return read

    per_layer = tuple(cache[name] for name in ("prompt_keys", "prompt_values", "keys", "values"))
    positions = jnp.broadcast_to(now[:, None], tokens.shape)
    x, new = run_blocks(model, params, tokens, positions, attend_on, per_layer)
    # Every read of the cache comes before the write, so that XLA writes in place instead of copying it.
    x, new = jax.lax.optimization_barrier((x, new))
    written = {
        name: jax.lax.dynamic_update_slice_in_dim(cache[name], fresh[:, :, :, :, None], step, 4)
        for name, fresh in zip(("keys", "values"), new, strict=True)
    }
    return cache | written, _logits(model, params, x)
