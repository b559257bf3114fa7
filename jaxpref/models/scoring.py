"""Scores of responses under a transformer, each prompt computed once for all its responses."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.kernels.token_logps import (
    KL,
    STATISTICS,
    SummedLoss,
    linear_logits,
    linear_summed_loss,
    linear_token_logps,
)
from jaxpref.models.layers import Attend
from jaxpref.models.rows import prompts_reading, rows_reading
from jaxpref.models.transformer import (
    Transformer,
    check_length,
    final_norm,
    last_of_prompt,
    run_blocks,
    unembedding,
)
from jaxpref.types import Completions, Params, PRNGKey, Prompts

__all__ = ["predicting_states", "quantities", "sequence_logits", "summed_loss", "token_logps"]


def _residuals(
    model: Transformer, params: Params, batch: Completions
) -> tuple[Float[Array, "b d"], Float[Array, "b k r d"]]:
    """Residual stream of the last prompt token and of every response token, in one forward pass.

    Prompts are computed once: a sequence is `[prompt | response 1 | ... | response k]`, and responses read
    the prompt's keys but not each other (prefix sharing, arXiv:2410.20305, by shape and not by mask). The
    positions of a response start at the length of its prompt, so padding of prompts changes nothing.
    """
    sizes = model.sizes
    b, k, r = batch.response_tokens.shape
    p = batch.prompt_tokens.shape[1]
    check_length(sizes, p + r)
    lengths = batch.prompt_mask.sum(-1, dtype=jnp.int32)
    after = lengths[:, None] + jnp.arange(r)[None]  # positions of response tokens, [b, r]
    tokens = jnp.concatenate([batch.prompt_tokens, batch.response_tokens.reshape(b, k * r)], 1)
    order = jnp.broadcast_to(jnp.arange(p)[None], (b, p))
    positions = jnp.concatenate([order, jnp.tile(after, (1, k))], 1)
    reading = rows_reading(model, batch.prompt_mask, after, k)

    def attend_on(is_local: bool | Array, _: None) -> Attend:
        read = reading(is_local)
        return lambda q, keys, values: (read(q, keys, values), None)

    x, _ = run_blocks(model, params, tokens, positions, attend_on)
    responses = x[:, p:].reshape(b, k, r, -1)
    return (last_of_prompt(x[:, :p], lengths) if p else jnp.zeros_like(x[:, 0])), responses


def predicting_states(model: Transformer, params: Params, batch: Completions) -> Float[Array, "b k r d"]:
    """Normalised hidden state that predicts each response token: that of the token before it."""
    return _predicting(model, params, *_residuals(model, params, batch))


def _predicting(model: Transformer, params: Params, prompt: Array, responses: Array) -> Array:
    b, k, _, d = responses.shape
    first = jnp.broadcast_to(prompt[:, None, None], (b, k, 1, d))
    return final_norm(model, params, jnp.concatenate([first, responses[:, :, :-1]], 2))


def _last_states(model: Transformer, params: Params, responses: Array, batch: Completions) -> Array:
    """Normalised hidden state of the last scored token, [b, k, d]; of one without any, of the first token."""
    r = batch.response_mask.shape[-1]
    last = jnp.max(jnp.where(batch.response_mask, jnp.arange(r)[None, None], 0), -1)
    return final_norm(model, params, jnp.take_along_axis(responses, last[..., None, None], 2)[:, :, 0])


def _scored(batch: Completions) -> Bool[Array, "b k r"]:
    starts = jnp.arange(batch.response_tokens.shape[2])[None, None] > 0
    return batch.response_mask & (starts | batch.prompt_mask.any(-1)[:, None, None])


def token_logps(model: Transformer, params: Params, batch: Completions) -> Float[Array, "b k r"]:
    """Log-prob of every scored response token given the prompt and the response before it, in nats.

    float32 (float64 if that is the compute dtype) and exactly 0 where `response_mask` is False. The mask only
    says what is scored: unscored tokens inside a response are still read by later ones. Position 0 after an
    empty prompt is not scored, since nothing predicts it.
    """
    states = predicting_states(model, params, batch)
    return linear_token_logps(
        states,
        unembedding(params),
        batch.response_tokens,
        soft_cap=model.sizes.logit_soft_cap,
        where=_scored(batch),
        implementation=model.head,
    )


def sequence_logits(model: Transformer, params: Params, prompts: Prompts) -> Float[Array, "b p v"]:
    """Logits of the token after each token of `prompts`, float32 or wider; those of padding mean nothing.

    All of them at once, `b p v` numbers: for comparing models, not for training.
    """
    sizes = model.sizes
    b, p = prompts.prompt_tokens.shape
    check_length(sizes, p)
    reading = prompts_reading(model, prompts.prompt_mask)

    def attend_on(is_local: bool | Array, _: None) -> Attend:
        read = reading(is_local)
        return lambda q, keys, values: (read(q, keys, values), None)

    positions = jnp.broadcast_to(jnp.arange(p)[None], (b, p))
    x, _ = run_blocks(model, params, prompts.prompt_tokens, positions, attend_on)
    return linear_logits(final_norm(model, params, x), unembedding(params), soft_cap=sizes.logit_soft_cap)


def quantities(
    model: Transformer,
    params: Params,
    batch: Completions,
    names: tuple[str, ...],
    reference_params: Params | None = None,
    key: PRNGKey | None = None,
) -> dict[str, Array]:
    """What `names` asks for, in one forward pass: "token_logps" and statistics `[b, k, r]` (nats; KL to
    `reference_params`, which are constants), "hidden_states" `[b, k, r, d]` (normalised, that predict each
    response token), "embeddings" `[b, k, m]` (outputs of the head, float32 or better, at the last scored
    token), "values" `[b, k, r]` (the one output of the head before each scored token, 0 elsewhere)."""
    del key  # there is no noise in it
    prompt, responses = _residuals(model, params, batch)
    outputs: dict[str, Array] = {}
    statistics = tuple(n for n in names if n in STATISTICS)
    if statistics or "token_logps" in names:
        reference = None
        if set(statistics) & set(KL):
            if reference_params is None:
                raise ValueError(f"{statistics}: a KL needs the params of the reference")
            constants = jax.lax.stop_gradient(reference_params)
            reference = (predicting_states(model, constants, batch), unembedding(constants))
        scored: Any = linear_token_logps(
            _predicting(model, params, prompt, responses),
            unembedding(params),
            batch.response_tokens,
            soft_cap=model.sizes.logit_soft_cap,
            where=_scored(batch),
            statistics=statistics,
            reference=reference,
            implementation=model.head,
        )
        outputs = {"token_logps": scored[0], **scored[1]} if statistics else {"token_logps": scored}
    if "hidden_states" in names:
        outputs["hidden_states"] = _predicting(model, params, prompt, responses)
    if "values" in names:
        if model.outputs != 1:
            raise ValueError(f"values: a critic has one output, and this head has {model.outputs}")
        states = _predicting(model, params, prompt, responses)
        wide = jnp.promote_types(states.dtype, jnp.float32)
        critic = (states.astype(wide) @ params["head"].astype(wide))[..., 0]
        outputs["values"] = jnp.where(_scored(batch), critic, 0)
    if "embeddings" in names:
        states = _last_states(model, params, responses, batch)
        wide = jnp.promote_types(states.dtype, jnp.float32)
        outputs["embeddings"] = states.astype(wide) @ params["head"].astype(wide)
    return outputs


def summed_loss(
    model: Transformer, params: Params, batch: Completions, loss: SummedLoss, data: Any
) -> tuple[Float[Array, ""], Float[Array, "b k r"]]:
    """(`loss(token_logps, data)`, token_logps). The gradient of the unembedding is taken in the forward
    pass, a few examples at a time: see `kernels.token_logps.linear_summed_loss`."""
    return linear_summed_loss(
        loss,
        predicting_states(model, params, batch),
        unembedding(params),
        batch.response_tokens,
        data,
        where=_scored(batch),
        soft_cap=model.sizes.logit_soft_cap,
    )
