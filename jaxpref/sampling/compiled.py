"""`Policy.sample` of a decoder: settings are checked, and one program is compiled for each shape."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.sampling.decoding import Decoder, decode
from jaxpref.sampling.ends import EndIds, end_ids
from jaxpref.types import Params, PRNGKey, Prompts, Samples

__all__ = ["check_sampling", "sampler"]


def sampler(decoder: Decoder, *, eos_id: EndIds, pad_id: int) -> Callable[..., Samples]:
    """`Policy.sample` of whatever `decoder` decodes, compiled once for each shape.

    `eos_id`: what ends a response, one id or several; None: only its length does.
    """
    # Temperature, top-p and weights are traced, so that sweeping them compiles nothing again.
    compiled = jax.jit(
        partial(decode, decoder, eos_id=end_ids(eos_id), pad_id=pad_id),
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
