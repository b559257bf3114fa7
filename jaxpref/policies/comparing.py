"""A policy whose head reads two responses at once: the body of a pairwise preference model."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params

__all__ = ["comparing", "ordered_pairs"]


def comparing(*, policy: Callable[[], Policy] | Policy, separator_id: int) -> Policy:
    """`policy` with a head that reads `first <separator> second` after the prompt, for both orders of a pair.

    Its head outputs `[b, k, m]` are those of `ordered_pairs`: of two responses, output 0 is s(x, y_0, y_1)
    and output 1 is s(x, y_1, y_0), so that any loss of two rewards trains it, antisymmetrically. More
    responses than two give `k (k - 1)` outputs, as `judges.pair_judge` reads them. Log-probs and samples
    are those of `policy`.
    """
    inner = policy() if callable(policy) else policy
    if inner.quantities is None or not inner.outputs:
        raise ValueError("comparing: the policy has no head; build it with outputs=1")
    if inner.members is not None:
        raise ValueError("comparing: give it one member, and build the ensemble around it")
    if not 0 <= separator_id < inner.vocab_size:
        raise ValueError(
            f"comparing.separator_id: expected an id below {inner.vocab_size}, got {separator_id}"
        )
    read = inner.quantities

    def quantities(
        params: Params, batch: Completions, names: tuple[str, ...], *more: Any
    ) -> dict[str, Array]:
        outputs = {}
        if "embeddings" in names:
            outputs = read(params, ordered_pairs(batch, separator_id), ("embeddings",), *more)
        rest = tuple(n for n in names if n != "embeddings")
        return outputs | read(params, batch, rest, *more) if rest else outputs

    pairs = partial(ordered_pairs, separator_id=separator_id)
    return inner._replace(
        quantities=quantities, flops=lambda batch: inner.flops(jax.eval_shape(pairs, batch))
    )


def ordered_pairs(batch: Completions, separator_id: int) -> Completions:
    """All ordered pairs (i, j), i != j, as responses `y_i <separator> y_j`, lexicographic: `[b, k (k - 1)]`.

    The tokens of a pair are packed to the left; its mask is True on all of them where both responses exist.
    """
    k, r = batch.response_tokens.shape[1:]
    order = np.array([(i, j) for i in range(k) for j in range(k) if i != j])
    lengths = jnp.where(batch.response_mask, jnp.arange(r)[None, None] + 1, 0).max(
        -1
    )  # unscored tokens inside count
    first, second = lengths[:, order[:, 0]], lengths[:, order[:, 1]]
    at = jnp.arange(2 * r + 1)[None, None]
    tokens = jnp.where(
        at < first[..., None],
        _at(batch.response_tokens[:, order[:, 0]], at),
        jnp.where(
            at == first[..., None],
            separator_id,
            _at(batch.response_tokens[:, order[:, 1]], at - first[..., None] - 1),
        ),
    )
    exist = (first > 0) & (second > 0)
    mask = (at < (first + second + 1)[..., None]) & exist[..., None]
    return dataclasses.replace(
        batch, response_tokens=tokens, response_mask=mask, reference_logps=None, preferences=None, columns={}
    )


def _at(tokens: Int[Array, "b n r"], index: Int[Array, "..."]) -> Int[Array, "b n t"]:
    """Tokens at the given places, clipped to those there are."""
    index = jnp.clip(jnp.broadcast_to(index, (*tokens.shape[:2], index.shape[-1])), 0, tokens.shape[-1] - 1)
    return jnp.take_along_axis(tokens, index, 2)
