"""Responses a few tokens at a time, for those who read along."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxpref.sampling.compiled import check_sampling
from jaxpref.sampling.decoding import Decoder, Loop, Rule, response_keys
from jaxpref.sampling.ends import EndIds, end_ids
from jaxpref.types import Params, PRNGKey, Prompts

__all__ = ["Arrived", "streamer"]


class Arrived(NamedTuple):
    """The next tokens of one response to each prompt, as numpy arrays."""

    tokens: Int[np.ndarray, "b n"]
    mask: Bool[np.ndarray, "b n"]  # False after a response has ended
    ended: Bool[np.ndarray, " b"]  # by an end token, here or before


_How = tuple[Array | None, Array | None]  # temperature, top-p


def streamer(decoder: Decoder, *, eos_id: EndIds, pad_id: int) -> Callable[..., Iterator[Arrived]]:
    """`Policy.stream`: what `sampler` draws with the same key and settings, as it is drawn.

    Two programs are compiled for each shape of the prompts and each `max_tokens`. The tokens that come next
    are drawn while those that have come are looked at.
    """
    ends = end_ids(eos_id)

    def rule(params: Params, key: PRNGKey, rows: int, how: _How, top_k: int | None) -> Rule:
        keys = response_keys(key, jnp.arange(rows), 1)
        return Rule(decoder, (params,), None, keys, how[0], top_k, how[1], ends, pad_id)

    def begin(
        max_tokens: int, top_k: int | None, prompts: Prompts, params: Params, key: PRNGKey, how: _How
    ) -> Loop:
        return rule(params, key, prompts.prompt_tokens.shape[0], how, top_k).begin(prompts, max_tokens)

    def go_on(top_k: int | None, loop: Loop, step: Array, params: Params, key: PRNGKey, how: _How) -> Loop:
        return rule(params, key, loop.done.shape[0], how, top_k).until(step, loop)

    first = jax.jit(begin, static_argnums=(0, 1))
    more = jax.jit(go_on, static_argnums=0, donate_argnums=1)

    def stream(
        params: Params,
        prompts: Prompts,
        key: PRNGKey,
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        at_once: int = 4,
    ) -> Iterator[Arrived]:
        check_sampling(
            prompts, num_samples=1, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p
        )
        greedy = temperature == 0
        top_k = None if greedy else top_k
        how = (
            None if greedy else jnp.asarray(temperature, float),
            None if top_p is None or greedy else jnp.asarray(top_p, float),
        )
        loop, shown = first(max_tokens, top_k, prompts, params, key, how), 0
        while True:
            # Copies: on CPU they would be views of arrays that the next call takes over.
            seen = (loop.step, loop.tokens, loop.mask, loop.done)
            step, tokens, mask, done = (np.array(x) for x in seen)
            last = step >= max_tokens or done.all()
            if not last:
                until = jnp.int32(min(step + at_once, max_tokens))
                loop = more(top_k, loop, until, params, key, how)
            yield Arrived(tokens[:, 0, shown:step], mask[:, 0, shown:step], done[:, 0])
            if last:
                return
            shown = int(step)

    return stream
