"""Drawing responses: one decode loop over anything that gives next-token logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = ["Decoder", "check_sampling", "decode", "truncated_logits"]


class Decoder(NamedTuple):
    """Next-token logits, incrementally.

    `prefill(params, prompts, num_samples=, max_tokens=)` reads the prompts and returns a cache and the
    logits `[b, v]` of the first token; `step(params, cache, tokens [b, k], index)` appends token number
    `index` of every response and returns the new cache and the logits `[b, k, v]` of the next. A mixture of
    policies is a decoder whose params and caches are tuples.
    """

    prefill: Callable[..., tuple[Any, Float[Array, "b v"]]]
    step: Callable[[Params, Any, Array, Array], tuple[Any, Float[Array, "b k v"]]]


def check_sampling(
    prompts: Prompts,
    *,
    num_samples: int,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    """Raises ValueError for settings that have no meaning."""
    if num_samples < 1 or max_tokens < 1:
        raise ValueError(
            f"sample: num_samples and max_tokens must be at least 1, got {num_samples} and {max_tokens}"
        )
    if not isinstance(temperature, jax.Array) and not temperature >= 0:
        raise ValueError(f"sample: temperature must be at least 0 (0 is greedy), got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"sample: top_k must be at least 1, or None for no limit, got {top_k}")
    if top_p is not None and not isinstance(top_p, jax.Array) and not 0 < top_p <= 1:
        raise ValueError(f"sample: top_p must be in (0, 1], or None for no limit, got {top_p}")
    if prompts.prompt_tokens.shape[1] == 0:
        raise ValueError("sample: prompts have no room for a token; nothing predicts the first one, give BOS")


def truncated_logits(
    logits: Float[Array, "*rows v"], *, top_k: int | None, top_p: Float[Array, ""] | None
) -> tuple[Float[Array, "*rows c"], Int[Array, "*rows c"] | None]:
    """Logits of the tokens that may be drawn (-inf where not), and their ids (None: all, in order).

    First the `top_k` largest, exactly `top_k` even among ties (the lower id wins); then, of their
    renormalised distribution, the smallest set of largest ones with at least `top_p` of the
    probability (arXiv:1904.09751 eq. 2-3).
    """
    vocab = logits.shape[-1]
    if top_p is None and (top_k is None or top_k >= vocab):
        return logits, None
    values, tokens = jax.lax.top_k(logits, min(top_k or vocab, vocab))
    if top_p is not None:
        probs = jax.nn.softmax(values, -1)
        before = jnp.cumsum(probs, -1) - probs
        values = jnp.where(before < top_p, values, -jnp.inf).at[..., 0].set(values[..., 0])
    return values, tokens


def _draw(
    logits: Float[Array, "b k v"],
    keys: PRNGKey,
    step: Int[Array, ""],
    *,
    temperature: Array | None,
    top_k: int | None,
    top_p: Array | None,
) -> tuple[Int[Array, "b k"], Float[Array, "b k"], Float[Array, "b k"]]:
    """Tokens, their raw log-probs and their log-probs under the distribution drawn from."""

    def picked(values: Array, index: Array) -> Array:
        return jnp.take_along_axis(values, index[..., None], -1)[..., 0]

    raw = jax.nn.log_softmax(logits, -1)
    if temperature is None:  # greedy: a distribution with all its mass on one token
        token = jnp.argmax(logits, -1).astype(jnp.int32)
        return token, picked(raw, token), jnp.zeros(token.shape, raw.dtype)
    values, tokens = truncated_logits(logits / temperature, top_k=top_k, top_p=top_p)
    noise = jax.vmap(
        jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, step), values.shape[-1:]))
    )
    choice = jnp.argmax(values + noise(keys).astype(values.dtype), -1)
    token = (choice if tokens is None else picked(tokens, choice)).astype(jnp.int32)
    return token, picked(raw, token), picked(jax.nn.log_softmax(values, -1), choice)


class _Loop(NamedTuple):
    step: Int[Array, ""]  # tokens already drawn
    cache: Any
    done: Bool[Array, "b k"]
    tokens: Int[Array, "b k r"]
    mask: Bool[Array, "b k r"]
    token_logps: Float[Array, "b k r"]
    sampling_token_logps: Float[Array, "b k r"]


def decode(
    decoder: Decoder,
    params: Params,
    prompts: Prompts,
    key: PRNGKey,
    row_ids: Int[Array, " b"] | None = None,
    temperature: Array | None = None,
    top_p: Array | None = None,
    *,
    num_samples: int,
    max_tokens: int,
    top_k: int | None = None,
    eos_id: int,
    pad_id: int = 0,
) -> Samples:
    """`num_samples` responses to each prompt, until EOS (kept and scored) or `max_tokens`.

    `temperature=None` is greedy. The randomness of a token depends on `key`, the id of its row (its index
    if `row_ids` is None), its sample and its place, so a row's responses do not depend on the rest of the
    batch, on padding or on how many samples are drawn. Every prompt needs at least one token. Stops early
    when all responses are done.
    """
    b = prompts.prompt_tokens.shape[0]
    ids = jnp.arange(b) if row_ids is None else row_ids
    shape = (b, num_samples, max_tokens)

    def sample_keys(row: Array) -> Array:
        return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, row), i))(
            jnp.arange(num_samples)
        )

    keys = jax.vmap(sample_keys)(ids)

    def record(loop: _Loop, logits: Array) -> _Loop:
        token, raw, drawn = _draw(logits, keys, loop.step, temperature=temperature, top_k=top_k, top_p=top_p)
        alive = ~loop.done

        def write(array: Array, values: Array, otherwise: float) -> Array:
            column = jnp.where(alive, values, otherwise).astype(array.dtype)[..., None]
            return jax.lax.dynamic_update_slice_in_dim(array, column, loop.step, 2)

        return _Loop(
            loop.step + 1,
            loop.cache,
            loop.done | (token == eos_id),
            write(loop.tokens, token, pad_id),
            write(loop.mask, alive, False),
            write(loop.token_logps, raw, 0),
            write(loop.sampling_token_logps, drawn, 0),
        )

    def advance(loop: _Loop) -> _Loop:
        last = loop.step - 1
        token = jax.lax.dynamic_index_in_dim(loop.tokens, last, 2, keepdims=False)
        cache, logits = decoder.step(params, loop.cache, token, last)
        return record(loop._replace(cache=cache), logits)

    cache, logits = decoder.prefill(params, prompts, num_samples=num_samples, max_tokens=max_tokens)
    start = _Loop(
        jnp.int32(0),
        cache,
        jnp.zeros(shape[:2], bool),
        jnp.full(shape, pad_id, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, logits.dtype),
        jnp.zeros(shape, logits.dtype),
    )
    start = record(start, jnp.broadcast_to(logits[:, None], (*shape[:2], logits.shape[-1])))
    loop = jax.lax.while_loop(lambda loop: (loop.step < max_tokens) & ~loop.done.all(), advance, start)
    completions = Completions(
        prompts.prompt_tokens,
        prompts.prompt_mask,
        loop.tokens,
        loop.mask,
        reference_logps=loop.token_logps.sum(-1),
    )
    return Samples(completions, loop.token_logps, loop.sampling_token_logps)
