"""Drawing responses: one decode loop over anything that gives next-token logits, and over mixtures of it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = [
    "Decoder",
    "check_sampling",
    "decode",
    "drawn_index",
    "mixed_logits",
    "sampler",
    "truncated_logits",
]


class Decoder(NamedTuple):
    """Next-token logits, incrementally.

    `prefill(params, prompts, num_samples=, max_tokens=)` reads the prompts and returns a cache and the
    logits `[b, v]` of the first token; `step(params, cache, tokens [b, k], index)` appends token number
    `index` of every response and returns the new cache and the logits `[b, k, v]` of the next.
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
    params: Params = None,
    weights: Any = None,
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
    if weights is None:
        return
    members = len(params) if isinstance(params, tuple) else None
    b, shape = prompts.prompt_tokens.shape[0], np.shape(weights)
    wanted = ((1, b), (1, num_samples), (members,))
    if len(shape) != 3 or any(n not in allowed for n, allowed in zip(shape, wanted, strict=True)):
        raise ValueError(
            f"sample: weights are [1 or {b} prompts, 1 or {num_samples} samples, members] and params a tuple "
            f"of members; got weights {shape} and "
            f"{'no tuple' if members is None else f'{members} members'}"
        )


def mixed_logits(
    members: Sequence[Float[Array, "b #k v"]], weights: Float[Array, "#b #k m"] | None
) -> Float[Array, "b k v"]:
    """`sum_m weights_m logits_m`, the logits of a mixture; the one member's own where `weights` is None.

    A weight of 0 takes a member out, even where its logits are infinite. A token with a logit of -inf under a
    member of positive weight has probability 0, whatever the others say; one with -inf under a member of
    negative weight alone has no meaning, and the log-probs of its response are NaN.
    """
    if weights is None:
        (only,) = members
        return only
    total, excluded = 0.0, False
    for index, logits in enumerate(members):
        weight = weights[..., index, None].astype(logits.dtype)
        total += jnp.where(weight == 0, 0, weight * logits)
        excluded |= (weight > 0) & (logits == -jnp.inf)
    return jnp.where(excluded, -jnp.inf, total)


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


def _picked(values: Float[Array, "*rows v"], index: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    return jnp.take_along_axis(values, index[..., None], -1)[..., 0]


def _logps(logits: Float[Array, "*rows v"], index: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    return _picked(logits, index) - jax.nn.logsumexp(logits, -1)


def drawn_index(
    logits: Float[Array, "*rows v"], uniforms: Float[Array, "*rows 2"]
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"]]:
    """An index of each row drawn from `softmax(logits)`, given two numbers in [0, 1), and its log-prob.

    By inversion of the cumulative distribution, first of blocks, then within the block: two random numbers
    and one exponential pass, where the maximum of logits plus Gumbel noise takes a random number for each
    token of the vocabulary (what that costs: BENCHMARKS, Decoding). A token with a logit of -inf is never
    drawn; one below 2^-23 of the probability by what rounding leaves of it.
    """
    rows, size = logits.shape[:-1], logits.shape[-1]
    block = min(size, 128)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    padded = jnp.pad(logits, [(0, 0)] * len(rows) + [(0, -size % block)], constant_values=-jnp.inf)
    largest = logits.max(-1)
    masses = jnp.exp(padded - largest[..., None]).reshape(*rows, -1, block)
    of_blocks = masses.sum(-1)
    which = _first_beyond(of_blocks, uniforms[..., 0])
    inside = jnp.take_along_axis(masses, which[..., None, None], -2)[..., 0, :]
    index = which * block + _first_beyond(inside, uniforms[..., 1])
    return index, _picked(logits, index) - largest - jnp.log(of_blocks.sum(-1))


def _first_beyond(masses: Float[Array, "*rows n"], uniform: Float[Array, "*rows"]) -> Int[Array, "*rows"]:
    """The first index whose cumulative mass exceeds that share of the whole."""
    # A parallel sum of floats need not rise everywhere, so what has no mass is taken out by name.
    cumulative = jnp.where(masses > 0, jnp.cumsum(masses, -1), -jnp.inf)
    return jnp.argmax(cumulative > (uniform * cumulative.max(-1))[..., None], -1)


def _draw(
    logits: Float[Array, "b k v"],
    keys: PRNGKey,
    step: Int[Array, ""],
    *,
    temperature: Array | None,
    top_k: int | None,
    top_p: Array | None,
) -> tuple[Int[Array, "b k"], Float[Array, "b k"]]:
    """Tokens, and their log-probs under the distribution drawn from."""
    if temperature is None:  # greedy: a distribution with all its mass on one token
        token = jnp.argmax(logits, -1).astype(jnp.int32)
        return token, jnp.zeros(token.shape, logits.dtype)
    scaled = logits / temperature.astype(logits.dtype)
    values, tokens = truncated_logits(scaled, top_k=top_k, top_p=top_p)
    uniforms = jax.vmap(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step), (2,))))(keys)
    choice, drawn = drawn_index(values, uniforms)
    token = choice if tokens is None else jnp.take_along_axis(tokens, choice[..., None], -1)[..., 0]
    return token.astype(jnp.int32), drawn


class _Loop(NamedTuple):
    step: Int[Array, ""]  # tokens already drawn
    caches: tuple  # of the members
    done: Bool[Array, "b k"]
    tokens: Int[Array, "b k r"]
    mask: Bool[Array, "b k r"]
    token_logps: Float[Array, "b k r"]
    sampling_token_logps: Float[Array, "b k r"]
    member_token_logps: Float[Array, "m b k r"] | None  # None: no mixture


def decode(
    decoder: Decoder,
    params: Params,
    prompts: Prompts,
    key: PRNGKey,
    row_ids: Int[Array, " b"] | None = None,
    temperature: Array | None = None,
    top_p: Array | None = None,
    weights: Float[Array, "#b #k m"] | None = None,
    *,
    num_samples: int,
    max_tokens: int,
    top_k: int | None = None,
    eos_id: int | None,
    pad_id: int = 0,
) -> Samples:
    """`num_samples` responses to each prompt, until EOS (kept and scored) or `max_tokens`.

    With `weights`, `params` is a tuple of members and each token is drawn from `softmax(sum_m w_m logits_m)`,
    normalised again at every token: not the mixture of whole responses, whose normaliser is one for all
    paths (Nash-MD, arXiv:2312.00886, and PILAF, arXiv:2502.04270, both mix so; weights may be negative).
    Temperature, top-k and top-p act on the mixture.

    `temperature=None` is greedy, `eos_id=None` never ends a response. The randomness of a token depends on
    `key`, the id of its row (its index if `row_ids` is None), its sample and its place, so a row's responses
    do not depend on the rest of the batch, on padding or on how many samples are drawn. Every prompt needs
    at least one token. Stops early when all responses are done.
    """
    b = prompts.prompt_tokens.shape[0]
    ids = jnp.arange(b) if row_ids is None else row_ids
    shape = (b, num_samples, max_tokens)

    def sample_keys(row: Array) -> Array:
        return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, row), i))(
            jnp.arange(num_samples)
        )

    keys = jax.vmap(sample_keys)(ids)
    members = (params,) if weights is None else params

    def record(loop: _Loop, member_logits: list[Array]) -> _Loop:
        logits = jnp.broadcast_to(mixed_logits(member_logits, weights), (*shape[:2], vocab))
        token, drawn = _draw(logits, keys, loop.step, temperature=temperature, top_k=top_k, top_p=top_p)
        alive = ~loop.done

        def write(array: Array, values: Array, otherwise: float) -> Array:
            column = jnp.where(alive, values, otherwise).astype(array.dtype)[..., None]
            return jax.lax.dynamic_update_slice_in_dim(array, column, loop.step, array.ndim - 1)

        of_members = loop.member_token_logps
        if of_members is not None:
            of_members = write(of_members, jnp.stack([_logps(m, token) for m in member_logits]), 0)
        return _Loop(
            loop.step + 1,
            loop.caches,
            loop.done if eos_id is None else loop.done | (token == eos_id),
            write(loop.tokens, token, pad_id),
            write(loop.mask, alive, False),
            write(loop.token_logps, _logps(logits, token), 0),
            write(loop.sampling_token_logps, drawn, 0),
            of_members,
        )

    def advance(loop: _Loop) -> _Loop:
        last = loop.step - 1
        token = jax.lax.dynamic_index_in_dim(loop.tokens, last, 2, keepdims=False)
        caches, logits = _unzipped(
            decoder.step(member, cache, token, last)
            for member, cache in zip(members, loop.caches, strict=True)
        )
        return record(loop._replace(caches=caches), logits)

    caches, first = _unzipped(
        decoder.prefill(member, prompts, num_samples=num_samples, max_tokens=max_tokens) for member in members
    )
    vocab, dtype = first[0].shape[-1], jnp.result_type(*first)
    start = _Loop(
        jnp.int32(0),
        caches,
        jnp.zeros(shape[:2], bool),
        jnp.full(shape, pad_id, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, dtype),
        jnp.zeros(shape, dtype),
        None if weights is None else jnp.zeros((len(members), *shape), dtype),
    )
    start = record(start, [jnp.broadcast_to(x[:, None], (*shape[:2], vocab)) for x in first])
    loop = jax.lax.while_loop(lambda loop: (loop.step < max_tokens) & ~loop.done.all(), advance, start)
    completions = Completions(
        prompts.prompt_tokens,
        prompts.prompt_mask,
        loop.tokens,
        loop.mask,
        reference_logps=loop.token_logps.sum(-1),
    )
    of_members = loop.token_logps[None] if loop.member_token_logps is None else loop.member_token_logps
    return Samples(completions, loop.token_logps, loop.sampling_token_logps, of_members, loop.done)


def _unzipped(pairs: Iterable[tuple[Any, Array]]) -> tuple[tuple, list[Array]]:
    caches, logits = zip(*pairs, strict=True)
    return caches, list(logits)


def sampler(decoder: Decoder, *, eos_id: int | None, pad_id: int) -> Callable[..., Samples]:
    """`Policy.sample` of whatever `decoder` decodes, compiled once for each shape."""
    # Temperature, top-p and weights are traced, so that sweeping them compiles nothing again.
    compiled = jax.jit(
        partial(decode, decoder, eos_id=eos_id, pad_id=pad_id),
        static_argnames=("num_samples", "max_tokens", "top_k"),
    )

    def sample(
        params: Params,
        prompts: Prompts,
        key: PRNGKey,
        *,
        num_samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        row_ids: Int[Array, " b"] | None = None,
        weights: Float[Array, "#b #k m"] | None = None,
    ) -> Samples:
        check_sampling(
            prompts,
            num_samples=num_samples,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            params=params,
            weights=weights,
        )
        greedy = not isinstance(temperature, jax.Array) and temperature == 0
        return compiled(
            params,
            prompts,
            key,
            row_ids,
            None if greedy else jnp.asarray(temperature, float),
            None if top_p is None or greedy else jnp.asarray(top_p, float),
            None if weights is None else jnp.asarray(weights, float),
            num_samples=num_samples,
            max_tokens=max_tokens,
            top_k=None if greedy else top_k,
        )

    return sample
