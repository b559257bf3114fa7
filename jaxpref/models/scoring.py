"""Log-probs of responses under a transformer, each prompt computed once for all its responses."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.kernels.token_logps import linear_token_logps
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
from jaxpref.types import Completions, Params

__all__ = ["predicting_states", "token_logps"]


def predicting_states(model: Transformer, params: Params, batch: Completions) -> Float[Array, "b k r d"]:
    """Normalised hidden state that predicts each response token: the token before it, in one forward pass.

    Prompts are computed once: rows are `[prompt | response 1 | ... | response k]`, and responses read the
    prompt's keys but not each other (prefix sharing, arXiv:2410.20305, by shape instead of by mask). The
    positions of a response start at the length of its prompt, so padding of prompts changes nothing.
    """
    sizes = model.sizes
    b, k, r = batch.response_tokens.shape
    p = batch.prompt_tokens.shape[1]
    lengths = batch.prompt_mask.sum(-1, dtype=jnp.int32)
    after = lengths[:, None] + jnp.arange(r)[None]  # positions of response tokens, [b, r]
    tokens = jnp.concatenate([batch.prompt_tokens, batch.response_tokens.reshape(b, k * r)], 1)
    order = jnp.broadcast_to(jnp.arange(p)[None], (b, p))
    positions = jnp.concatenate([order, jnp.tile(after, (1, k))], 1)
    prompt_causal, own_causal = causal(sizes, p), causal(sizes, r)
    to_prompt = Window.of(batch.prompt_mask[:, None], after[:, :, None] - jnp.arange(p)[None, None], sizes)

    def attend_on(is_local: bool | Array, _: None) -> Attend:
        def read(q: Array, keys: Array, values: Array) -> tuple[Array, None]:
            def own(x: Array) -> Array:
                return x[:, p:].reshape(b, k, r, *x.shape[2:])

            def heads_first(x: Array) -> Array:
                return jnp.swapaxes(x, -3, -2)

            parts = [Keys(heads_first(own(keys)), heads_first(own(values)), own_causal.on(is_local))]
            if p:
                prompt_keys, prompt_values = heads_first(keys[:, :p]), heads_first(values[:, :p])
                parts.append(Keys(prompt_keys, prompt_values, to_prompt.on(is_local)))
            responses = heads(model, own(q), parts).reshape(b, k * r, *q.shape[2:])
            if not p:
                return responses, None
            prompt = Keys(prompt_keys[:, None], prompt_values[:, None], prompt_causal.on(is_local))
            prompts = heads(model, q[:, None, :p], [prompt])[:, 0]
            return jnp.concatenate([prompts, responses], 1), None

        return read

    x, _ = run_blocks(model, params, tokens, positions, attend_on)
    responses = x[:, p:].reshape(b, k, r, -1)
    first = last_of_prompt(x[:, :p], lengths) if p else jnp.zeros_like(x[:, 0])
    first = jnp.broadcast_to(first[:, None, None], (b, k, 1, x.shape[-1]))
    return final_norm(model, params, jnp.concatenate([first, responses[:, :, :-1]], 2))


def token_logps(model: Transformer, params: Params, batch: Completions) -> Float[Array, "b k r"]:
    """Log-prob of every scored response token given the prompt and the response before it, in nats.

    float32 (float64 if that is the compute dtype) and exactly 0 where `response_mask` is False. The mask only
    says what is scored: unscored tokens inside a response are still read by later ones. Position 0 after an
    empty prompt is not scored, since nothing predicts it.
    """
    states = predicting_states(model, params, batch)
    starts = jnp.arange(states.shape[2])[None, None] > 0
    predicted = starts | batch.prompt_mask.any(-1)[:, None, None]
    return linear_token_logps(
        states,
        unembedding(params),
        batch.response_tokens,
        soft_cap=model.sizes.logit_soft_cap,
        where=batch.response_mask & predicted,
        implementation=model.head,
    )
