"""Token-by-token decoding of a transformer with a cache whose prompt part is shared by all samples."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.kernels.token_logps import linear_logits
from jaxpref.models.attention import Keys
from jaxpref.models.layers import Attend
from jaxpref.models.rows import prompts_reading
from jaxpref.models.transformer import (
    Transformer,
    Window,
    check_length,
    final_norm,
    heads,
    last_of_prompt,
    run_blocks,
    unembedding,
    unstacked,
)
from jaxpref.types import Params, Prompts

__all__ = ["Cache", "decode_step", "prefill"]

Cache = dict[str, Any]  # see `prefill`


def _logits(model: Transformer, params: Params, x: Float[Array, "*rows d"]) -> Float[Array, "*rows v"]:
    states = final_norm(model, params, x)
    return linear_logits(states, unembedding(params), soft_cap=model.sizes.logit_soft_cap)


def prefill(
    model: Transformer, params: Params, prompts: Prompts, *, num_samples: int, max_tokens: int
) -> tuple[Cache, Float[Array, "b v"]]:
    """Cache for `num_samples` responses of up to `max_tokens`, and logits of the first token.

    The cache: keys and values of prompts `[layers, b, kv_heads, p, head_dim]`, once per prompt, and of
    responses `[layers, b, num_samples, kv_heads, max_tokens, head_dim]`, and the prompts' lengths `[b]`; of a
    model that unrolls its layers these are `unstacked`, and the blocks' weights are there, too.
    """
    sizes = model.sizes
    b, p = prompts.prompt_tokens.shape
    check_length(sizes, p + max_tokens)
    reading = prompts_reading(model, prompts.prompt_mask)

    def attend_on(is_local: bool | Array, _: None) -> Attend:
        attend = reading(is_local)

        def read(q: Array, keys: Array, values: Array) -> tuple[Array, dict[str, Array]]:
            kept = {"keys": jnp.swapaxes(keys, 1, 2), "values": jnp.swapaxes(values, 1, 2)}
            return attend(q, keys, values), kept

        return read

    positions = jnp.broadcast_to(jnp.arange(p)[None], (b, p))
    x, of_prompts = run_blocks(model, params, prompts.prompt_tokens, positions, attend_on)
    lengths = prompts.prompt_mask.sum(-1, dtype=jnp.int32)
    room = (sizes.layers, b, num_samples, sizes.kv_heads, max_tokens, sizes.head_dim)
    cache = {
        "prompts": unstacked(model, of_prompts),
        "responses": unstacked(model, jax.tree.map(lambda x: jnp.zeros(room, x.dtype), of_prompts)),
        "lengths": lengths,
    }
    blocks = unstacked(model, params["blocks"])
    if isinstance(blocks, list):
        cache["blocks"] = blocks
    return cache, _logits(model, params, last_of_prompt(x, lengths))


def decode_step(
    model: Transformer, params: Params, cache: Cache, tokens: Int[Array, "b k"], step: Int[Array, ""]
) -> tuple[Cache, Float[Array, "b k v"]]:
    """Appends `tokens`, number `step` (from 0) of each response; returns the logits of the next ones."""
    sizes, lengths = model.sizes, cache["lengths"]
    p, room = (jax.tree.leaves(cache[name])[0].shape[-2] for name in ("prompts", "responses"))
    now = lengths + step
    prompt_order, order = jnp.arange(p)[None, None], jnp.arange(room)[None, None]
    to_prompt = Window.of(prompt_order < lengths[:, None, None], now[:, None, None] - prompt_order, sizes)
    to_past = Window.of(order < step, step - order, sizes)

    def attend_on(is_local: bool | Array, layer: tuple[dict[str, Array], dict[str, Array]]) -> Attend:
        def read(q: Array, keys: Array, values: Array) -> tuple[Array, dict[str, Array]]:
            prompt, past = layer
            parts = [
                # The new token reads itself from here, so that nothing is written before all is read.
                Keys(keys[:, :, :, None], values[:, :, :, None], None),
                Keys(past["keys"], past["values"], to_past.on(is_local)),
                Keys(prompt["keys"], prompt["values"], to_prompt.on(is_local)),
            ]
            return heads(model, q[:, :, None], parts)[:, :, 0], {"keys": keys, "values": values}

        return read

    per_layer: Any = (cache["prompts"], cache["responses"])
    blocks = cache.get("blocks", params["blocks"])
    if isinstance(blocks, list):
        per_layer = list(zip(*per_layer, strict=True))
    positions = jnp.broadcast_to(now[:, None], tokens.shape)
    x, new = run_blocks(model, params | {"blocks": blocks}, tokens, positions, attend_on, per_layer)

    def written(old: Array, fresh: Array) -> Array:
        # What is written depends on all that was read, if only by a 0, so that XLA writes in place instead
        # of copying the cache. (On CPU it drops an `optimization_barrier` before it decides on copies.)
        fresh, nothing = fresh[..., None, :], 0 * x[..., None, None, :1]
        fresh += jnp.expand_dims(nothing, tuple(range(fresh.ndim - nothing.ndim)))  # layers, where stacked
        return jax.lax.dynamic_update_slice_in_dim(old, fresh, step, old.ndim - 2)

    responses = jax.tree.map(written, cache["responses"], new)
    return cache | {"responses": responses}, _logits(model, params, x)
