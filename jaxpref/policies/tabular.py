"""A softmax table over short sequences: a policy small enough to list all that it may say."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.kernels.token_logps.api import Rows
from jaxpref.kernels.token_logps.fold import KL, STATISTICS
from jaxpref.kernels.token_logps.reference import logits_scores
from jaxpref.policies.base import Policy
from jaxpref.sampling import Decoder, sampler
from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = ["enumerated", "tabular"]

_MOST_ENTRIES = 10_000_000


def tabular(
    *,
    prompts: int,
    vocab: int,
    length: int = 1,
    eos_id: int | None = None,
    pad_id: int = 0,
    initial: Any = None,
    features: Any = None,
    param_dtype: str = "float32",
) -> Policy:
    """Free logits for each next token, given the prompt and all response tokens before it.

    Params are `{"logits": [prompts, prefixes, vocab]}`, or `[prompts, vocab]` if `length` is 1. Prefixes are
    ordered by their length, then as numbers in base `vocab`: the empty one, `0`, `1`, ..., `00`, `01`, ...
    The last real token of a prompt says which prompt it is, from 0 to `prompts - 1`. A row of log-probs is as
    good as any logits with the same softmax, so a known distribution is given as its logarithm.

    Args:
      prompts: number of prompts.
      vocab: number of tokens a response may hold, EOS included.
      length: most tokens of a response. Sampling stops there, whatever `max_tokens` is.
      eos_id: the token that ends a response and counts as part of it; None: all have `length` tokens.
      pad_id: fills what comes after EOS.
      initial: logits that `init` returns, nested sequences or an array; None: standard normal ones. With
        `features`, weights.
      features: one feature vector for each logit, `[vocab, features]` (the same for all prompts) or
        `[prompts, vocab, features]`, for responses of one token: the policy is log-linear, its logits are
        `features @ weights`, and its params are `{"weights": [features]}`. What responses share, they
        learn together. None: every logit is a parameter.
      param_dtype: "float32", or "float64" where 64-bit types are on.
    """
    if prompts < 1 or vocab < 1 or length < 1:
        raise ValueError(
            f"tabular: prompts, vocab and length must be at least 1, got {prompts}, {vocab} and {length}"
        )
    if eos_id is not None and not 0 <= eos_id < vocab:
        raise ValueError(f"tabular.eos_id: expected None or an id below {vocab}, got {eos_id}")
    if param_dtype not in ("float32", "float64"):
        raise ValueError(f"tabular.param_dtype: expected 'float32' or 'float64', got {param_dtype!r}")
    prefixes = sum(vocab**n for n in range(length))
    if prompts * prefixes * vocab > _MOST_ENTRIES:
        raise ValueError(
            f"tabular: {prompts} prompts and responses of up to {length} of {vocab} tokens need "
            f"{prompts * prefixes * vocab:.1e} logits, more than {_MOST_ENTRIES:.0e}; make one smaller"
        )
    known = _known_features(features, prompts, vocab, length)
    name, shape = "logits", ((prompts, vocab) if length == 1 else (prompts, prefixes, vocab))
    if known is not None:
        name, shape = "weights", known.shape[-1:]
    given = None if initial is None else np.asarray(initial, np.float64)
    if given is not None and given.shape != shape:
        raise ValueError(f"tabular.initial: expected {name} of shape {shape}, got {given.shape}")

    def init(key: PRNGKey) -> Params:
        dtype = jax.dtypes.canonicalize_dtype(param_dtype)
        if dtype.name != param_dtype:
            raise ValueError("tabular.param_dtype: float64 needs 64-bit types; set JAX_ENABLE_X64=1")
        drawn = jax.random.normal(key, shape, dtype) if given is None else jnp.asarray(given, dtype)
        return {name: drawn}

    def table(params: Params) -> Float[Array, "x n v"]:
        free = params[name]
        logits = free if known is None else jnp.asarray(known, free.dtype) @ free
        return logits.reshape(prompts, prefixes, vocab)

    def rows(params: Params, batch: Completions) -> Float[Array, "b k r v"]:
        r = batch.response_tokens.shape[-1]
        if r > length:
            raise ValueError(f"tabular: responses of up to {r} tokens, but the table has length={length}")
        node = jnp.zeros(batch.response_tokens.shape[:2], jnp.int32)
        before = [node]
        for place in range(r - 1):
            before.append(_child(before[-1], batch.response_tokens[..., place], vocab))
        return table(params)[_which(batch)[:, None, None], jnp.stack(before, -1)]

    def quantities(
        params: Params, batch: Completions, names: tuple[str, ...], reference_params: Params | None = None
    ) -> dict[str, Array]:
        statistics = tuple(n for n in names if n != "token_logps")
        unknown = [n for n in statistics if n not in STATISTICS]
        if unknown:
            raise ValueError(f"tabular: no {', '.join(unknown)}; there are {', '.join(STATISTICS)}")
        kept, held = Rows(batch.response_tokens, batch.response_mask, vocab), None
        if set(statistics) & set(KL):
            if reference_params is None:
                raise ValueError(f"{statistics}: a KL needs the params of the reference")
            held = kept.flat(jax.lax.stop_gradient(rows(reference_params, batch)))
        found = logits_scores(statistics, kept.flat(rows(params, batch)), kept.targets, held)
        scored: Any = kept.results(found, statistics)
        return {"token_logps": scored[0], **scored[1]} if statistics else {"token_logps": scored}

    def prefill(
        params: Params, asked: Prompts, *, num_samples: int, max_tokens: int
    ) -> tuple[Any, Float[Array, "b v"]]:
        which = _which(asked)
        node = jnp.zeros((*which.shape, num_samples), jnp.int32)
        return (which, node), table(params)[which, 0]

    def step(params: Params, cache: Any, tokens: Array, index: Array) -> tuple[Any, Float[Array, "b k v"]]:
        which, node = cache
        node = _child(node, tokens, vocab)
        return (which, node), table(params)[which[:, None], node]

    drawn = sampler(Decoder(prefill, step), eos_id=eos_id, pad_id=pad_id)

    def sample(
        params: Params, prompts: Prompts, key: PRNGKey, *, max_tokens: int = length, **settings: Any
    ) -> Samples:
        return drawn(params, prompts, key, max_tokens=min(max_tokens, length), **settings)

    return Policy(
        init=init,
        token_logps=lambda params, batch: quantities(params, batch, ("token_logps",))["token_logps"],
        sample=sample,
        axes=lambda: {name: (None,) * len(shape)},
        flops=lambda batch: float(batch.response_tokens.size * vocab),
        vocab_size=max(prompts, vocab),
        quantities=quantities,
        enumerate=partial(_all_responses, vocab, length, eos_id, pad_id),
    )


def enumerated(policy: Policy, prompts: Prompts) -> Completions:
    """All responses of a policy to each prompt, `k` of them: their probabilities sum to 1.

    For exact expectations: `(jnp.exp(policy.token_logps(params, batch).sum(-1)) * f).sum(-1)`. In
    lexicographic order of their tokens.
    """
    if policy.enumerate is None:
        raise ValueError("enumerated: this policy has too many responses to list; a tabular policy has few")
    return policy.enumerate(prompts)


def _known_features(features: Any, prompts: int, vocab: int, length: int) -> np.ndarray | None:
    """`[prompts, vocab, features]`, or None."""
    if features is None:
        return None
    given = np.asarray(features, np.float64)
    if length != 1 or given.ndim not in (2, 3) or given.shape[:-1] not in ((vocab,), (prompts, vocab)):
        raise ValueError(
            f"tabular.features: expected [{vocab}, features] or [{prompts}, {vocab}, features] for responses "
            f"of one token, got shape {given.shape} and length={length}"
        )
    return np.broadcast_to(given, (prompts, vocab, given.shape[-1]))


def _which(batch: Prompts | Completions) -> Int[Array, " b"]:
    """The last real token of each prompt."""
    last = jnp.maximum(batch.prompt_mask.sum(-1) - 1, 0)
    return jnp.take_along_axis(batch.prompt_tokens, last[:, None], 1)[:, 0]


def _child(node: Array, token: Array, vocab: int) -> Array:
    """Number of the prefix that is prefix `node` followed by `token`: a complete tree, level by level."""
    return node * vocab + 1 + token


def _all_responses(vocab: int, length: int, eos_id: int | None, pad_id: int, prompts: Prompts) -> Completions:
    tokens = np.indices((vocab,) * length).reshape(length, -1).T
    mask = np.ones(tokens.shape, bool)
    if eos_id is not None:
        mask[:, 1:] = np.cumsum(tokens == eos_id, 1)[:, :-1] == 0
        kept = ((tokens == 0) | mask).all(1)  # of those that differ after EOS only, one
        tokens, mask = np.where(mask, tokens, pad_id)[kept], mask[kept]
    shape = (prompts.prompt_tokens.shape[0], *tokens.shape)
    return Completions(
        prompts.prompt_tokens,
        prompts.prompt_mask,
        jnp.broadcast_to(jnp.asarray(tokens, jnp.int32), shape),
        jnp.broadcast_to(jnp.asarray(mask), shape),
    )
