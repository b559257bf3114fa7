"""One token out of logits: mixed, truncated, drawn."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.types import PRNGKey

__all__ = ["drawn_index", "drawn_tokens", "index_logps", "mixed_logits", "truncated_logits"]


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


def drawn_tokens(
    logits: Float[Array, "b k v"],
    keys: PRNGKey,
    step: Int[Array, ""],
    *,
    temperature: Array | None,
    top_k: int | None,
    top_p: Array | None,
) -> tuple[Int[Array, "b k"], Float[Array, "b k"]]:
    """Tokens, and their log-probs under the distribution drawn from; no temperature: the likeliest ones."""
    if temperature is None:  # greedy: a distribution with all its mass on one token
        token = jnp.argmax(logits, -1).astype(jnp.int32)
        return token, jnp.zeros(token.shape, logits.dtype)
    scaled = logits / temperature.astype(logits.dtype)
    values, tokens = truncated_logits(scaled, top_k=top_k, top_p=top_p)
    uniforms = jax.vmap(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step), (2,))))(keys)
    choice, drawn = drawn_index(values, uniforms)
    token = choice if tokens is None else jnp.take_along_axis(tokens, choice[..., None], -1)[..., 0]
    return token.astype(jnp.int32), drawn


def _picked(values: Float[Array, "*rows v"], index: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    return jnp.take_along_axis(values, index[..., None], -1)[..., 0]


def index_logps(logits: Float[Array, "*rows v"], index: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Log-probs of one index of each row."""
    return _picked(logits, index) - jax.nn.logsumexp(logits, -1)
