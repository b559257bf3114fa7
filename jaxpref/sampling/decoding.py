"""The decode loop: a token of every response in each step, until all have ended."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.sampling.draws import drawn_tokens, index_logps, mixed_logits
from jaxpref.sampling.ends import EndIds, is_end
from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = ["Decoder", "Loop", "Rule", "decode", "response_keys"]


class Decoder(NamedTuple):
    """Next-token logits, incrementally.

    `prefill(params, prompts, num_samples=, max_tokens=)` reads the prompts and returns a cache and the
    logits `[b, v]` of the first token; `step(params, cache, tokens [b, k], index)` appends token number
    `index` of every response and returns the new cache and the logits `[b, k, v]` of the next.
    """

    prefill: Callable[..., tuple[Any, Float[Array, "b v"]]]
    step: Callable[[Params, Any, Array, Array], tuple[Any, Float[Array, "b k v"]]]


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
    eos_id: EndIds,
    pad_id: int = 0,
) -> Samples:
    """`num_samples` responses to each prompt, until a token of `eos_id` (kept and scored) or `max_tokens`.

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
    keys = response_keys(key, jnp.arange(b) if row_ids is None else row_ids, num_samples)
    members = (params,) if weights is None else params
    rule = Rule(decoder, members, weights, keys, temperature, top_k, top_p, eos_id, pad_id)
    return _samples(prompts, rule.until(max_tokens, rule.begin(prompts, max_tokens)))


class Loop(NamedTuple):
    step: Int[Array, ""]  # tokens already drawn
    caches: tuple  # of the members
    done: Bool[Array, "b k"]
    tokens: Int[Array, "b k r"]
    mask: Bool[Array, "b k r"]
    token_logps: Float[Array, "b k r"]
    sampling_token_logps: Float[Array, "b k r"]
    member_token_logps: Float[Array, "m b k r"] | None  # None: no mixture


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """What is the same in every step of a decode loop, and the step."""

    decoder: Decoder
    members: tuple[Params, ...]
    weights: Float[Array, "#b #k m"] | None
    keys: PRNGKey  # [b, k], of responses
    temperature: Array | None
    top_k: int | None
    top_p: Array | None
    eos_id: EndIds
    pad_id: int

    def begin(self, prompts: Prompts, max_tokens: int) -> Loop:
        """Reads the prompts and draws the first token of every response."""
        caches, first = _unzipped(
            self.decoder.prefill(member, prompts, num_samples=self.keys.shape[1], max_tokens=max_tokens)
            for member in self.members
        )
        members = None if self.weights is None else len(self.members)
        dtype = jnp.result_type(*first)
        b, k = self.keys.shape
        start = _empty((b, k, max_tokens), caches, dtype, self.pad_id, members)
        return self.record(start, [jnp.broadcast_to(x[:, None], (b, k, x.shape[-1])) for x in first])

    def until(self, step: int | Array, loop: Loop) -> Loop:
        """Goes on until `step` tokens of each response are drawn, or all have ended."""
        return jax.lax.while_loop(lambda loop: (loop.step < step) & ~loop.done.all(), self.advance, loop)

    def advance(self, loop: Loop) -> Loop:
        """The next token of every response, after those that `loop` holds (one at least)."""
        last = loop.step - 1
        token = jax.lax.dynamic_index_in_dim(loop.tokens, last, 2, keepdims=False)
        caches, logits = _unzipped(
            self.decoder.step(member, cache, token, last)
            for member, cache in zip(self.members, loop.caches, strict=True)
        )
        return self.record(loop._replace(caches=caches), logits)

    def record(self, loop: Loop, member_logits: list[Float[Array, "b k v"]]) -> Loop:
        """Draws a token of every response from these logits and writes it down, padding where it is
        done."""
        logits = mixed_logits(member_logits, self.weights)
        logits = jnp.broadcast_to(logits, (*loop.done.shape, logits.shape[-1]))
        token, drawn = drawn_tokens(
            logits, self.keys, loop.step, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )
        alive = ~loop.done

        def write(array: Array, values: Array, otherwise: float) -> Array:
            column = jnp.where(alive, values, otherwise).astype(array.dtype)[..., None]
            return jax.lax.dynamic_update_slice_in_dim(array, column, loop.step, array.ndim - 1)

        of_members = loop.member_token_logps
        if of_members is not None:
            of_members = write(of_members, jnp.stack([index_logps(m, token) for m in member_logits]), 0)
        return Loop(
            loop.step + 1,
            loop.caches,
            loop.done | is_end(token, self.eos_id),
            write(loop.tokens, token, self.pad_id),
            write(loop.mask, alive, False),
            write(loop.token_logps, index_logps(logits, token), 0),
            write(loop.sampling_token_logps, drawn, 0),
            of_members,
        )


def response_keys(key: PRNGKey, rows: Int[Array, " b"], num_samples: int) -> PRNGKey:
    """`[b, k]`: of the row's id and the sample's number, so that the rest of a batch does not matter."""

    def of_row(row: Array) -> Array:
        return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, row), i))(
            jnp.arange(num_samples)
        )

    return jax.vmap(of_row)(rows)


def _empty(shape: tuple[int, int, int], caches: tuple, dtype: Any, pad_id: int, members: int | None) -> Loop:
    return Loop(
        jnp.int32(0),
        caches,
        jnp.zeros(shape[:2], bool),
        jnp.full(shape, pad_id, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, dtype),
        jnp.zeros(shape, dtype),
        None if members is None else jnp.zeros((members, *shape), dtype),
    )


def _samples(prompts: Prompts, loop: Loop) -> Samples:
    completions = Completions(
        prompts.prompt_tokens,
        prompts.prompt_mask,
        loop.tokens,
        loop.mask,
        reference_logps=loop.token_logps.sum(-1),
        columns=prompts.columns,
        column_axes=prompts.column_axes,
    )
    of_members = loop.token_logps[None] if loop.member_token_logps is None else loop.member_token_logps
    return Samples(completions, loop.token_logps, loop.sampling_token_logps, of_members, loop.done)


def _unzipped(pairs: Iterable[tuple[Any, Array]]) -> tuple[tuple, list[Array]]:
    caches, logits = zip(*pairs, strict=True)
    return caches, list(logits)
