"""Log-probs of given tokens from hidden states: the one place where hidden states meet the vocabulary."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["linear_token_logps"]


def linear_token_logps(
    hidden: Float[Array, "*rows d"],
    unembedding: Float[Array, "v d"],
    targets: Int[Array, "*rows"],
    *,
    soft_cap: float | None = None,
) -> Float[Array, "*rows"]:
    """`log softmax(cap(hidden @ unembedding.T))[targets]` in nats, float32 or wider.

    `cap(z) = soft_cap * tanh(z / soft_cap)` (Gemma-2, arXiv:2408.00118 Sec. 2), identity if None. Logits
    are float32 whatever the inputs, since a sum of 256 bfloat16 log-probs is off by most of a nat.
    `targets` must lie in `[0, v)`. Raises ValueError when shapes disagree.
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != unembedding.shape[-1]:
        raise ValueError(
            f"linear_token_logps: hidden {hidden.shape}, unembedding {unembedding.shape} and targets "
            f"{targets.shape} do not fit; expected [..., d], [v, d] and [...]"
        )
    rows: Array = _materialised(
        hidden.reshape(-1, hidden.shape[-1]), unembedding, targets.reshape(-1), soft_cap
    )
    return rows.reshape(targets.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _materialised(hidden: Array, unembedding: Array, targets: Array, soft_cap: float | None) -> Array:
    return _forward(hidden, unembedding, targets, soft_cap)[0]


def _forward(hidden: Array, unembedding: Array, targets: Array, soft_cap: float | None):
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    weight = unembedding.astype(hidden.dtype)
    logits = jax.lax.dot_general(hidden, weight, (((1,), (1,)), ((), ())), preferred_element_type=wide)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    normalizer = jax.nn.logsumexp(logits, -1)
    picked = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    return picked - normalizer, (hidden, unembedding, targets, logits, normalizer)


def _backward(soft_cap: float | None, saved: tuple, upstream: Array):
    hidden, unembedding, targets, logits, normalizer = saved
    hit = jnp.arange(logits.shape[1])[None] == targets[:, None]
    delta = jnp.where(hit, upstream[:, None], 0) - jnp.exp(logits - normalizer[:, None]) * upstream[:, None]
    if soft_cap is not None:
        delta = delta * (1 - jnp.square(logits / soft_cap))  # d cap(z) / dz, from the capped value
    # In the dtype of the inputs: a float32 delta would turn both products into slow mixed ones.
    delta = delta.astype(hidden.dtype)
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    d_hidden = jnp.matmul(delta, unembedding.astype(hidden.dtype), preferred_element_type=wide)
    d_weight = jax.lax.dot_general(delta, hidden, (((0,), (0,)), ((), ())), preferred_element_type=wide)
    return d_hidden.astype(hidden.dtype), d_weight.astype(unembedding.dtype), None


_materialised.defvjp(_forward, _backward)
