"""ODIN (arXiv:2402.07319): a reward of two heads, one of which is to take up length."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, floats, not_negative
from jaxpref.losses.links import logistic

__all__ = ["correlation", "odin"]


def correlation(
    first: Float[Array, "*n"], second: Float[Array, "*n"], where: Bool[Array, "*n"]
) -> Float[Array, ""]:
    """Pearson's correlation over the items that exist.

    Args:
      where: which items exist; what stands at the others has no influence.

    Returns:
      A number in [-1, 1]; 0, with no gradient, where either side does not vary.

    Example:
      >>> exists = jnp.array([True, True, True, False])
      >>> print(correlation(jnp.arange(4.0), jnp.array([6.0, 4.0, 2.0, jnp.nan]), exists))
      -1.0000
    """
    count = jnp.maximum(where.sum(), 1)
    varies, scaled = True, []
    for x in (first, second):
        x = jnp.where(where, x, 0)
        deviations = jnp.where(where, x - x.sum() / count, 0)
        # The scale cancels; squares of very large or very small rewards need it. What rounding left of equal
        # values is no variation.
        scale = jax.lax.stop_gradient(jnp.abs(deviations).max())
        varies &= scale > 8 * jnp.finfo(x.dtype).eps * jnp.abs(x).max()
        scaled.append(deviations / jnp.where(scale > 0, scale, 1))
    first, second = scaled
    norms = jnp.where(varies, (first**2).sum() * (second**2).sum(), 1)
    return jnp.where(varies, (first * second).sum() / jnp.sqrt(norms), 0)


def odin(
    chosen_embeddings: Float[Array, "b 2"],
    rejected_embeddings: Float[Array, "b 2"],
    chosen_lengths: Int[Array, " b"],
    rejected_lengths: Int[Array, " b"],
    valid: Bool[Array, " b"],
    *,
    length_weight: float = 1.0,
) -> Float[Array, " b"]:
    """ODIN: a pair is ranked by the sum of a length head and a quality head; the second must not know length.

    -log sigmoid(sum of heads_w - sum of heads_l) + length_weight * ((1 - corr(length, head 0)) +
    |corr(length, head 1)|), Chen et al. 2024, arXiv:2402.07319, as in RLHFlow's code. Head 0 takes up length;
    score with head 1 (RLHFlow's order). Correlations are over both responses of the valid rows of the global
    batch, and 0 where nothing varies; with microbatches each part is its own batch, which changes the value.

    Differs from RLHFlow's code, which sums the rewards of a batch *before* log sigmoid: one logit for the
    whole batch. Its penalty on the heads' weights (commented out there) belongs to the model.

    Args:
      length_weight: 0 or more (released code: 1).

    Returns:
      [b] nats (the penalty has no unit), 0 or more; 0 in rows that are not valid.

    Raises:
      ValueError: shapes differ, there are not two heads, or length_weight is below 0.

    Example:
      >>> w, x = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 1.0]])  # one head falls with length, one rises
      >>> loss = partial(losses.odin, w, x, jnp.array([3]), jnp.array([1]), jnp.array([True]))
      >>> print(loss(length_weight=0.5))  # -log sigmoid(3 - 4) + 0.5 * (2 + 1)
      [2.8133]
    """
    not_negative(length_weight=length_weight)
    check_axes(
        chosen_embeddings=(chosen_embeddings, "b m"),
        rejected_embeddings=(rejected_embeddings, "b m"),
        chosen_lengths=(chosen_lengths, "b"),
        rejected_lengths=(rejected_lengths, "b"),
        valid=(valid, "b"),
    )
    if chosen_embeddings.shape[1] != 2:
        raise ValueError(f"odin: expected two heads, [b, 2], got {chosen_embeddings.shape}")
    heads = jnp.stack(floats(chosen_embeddings, rejected_embeddings), 1)  # [b, 2 responses, 2 heads]
    heads = jnp.where(valid[:, None, None], heads, 0)
    lengths = jnp.stack([chosen_lengths, rejected_lengths], 1).astype(heads.dtype)
    both = jnp.broadcast_to(valid[:, None], lengths.shape)
    follows = correlation(lengths, heads[..., 0], both)
    leaks = jnp.abs(correlation(lengths, heads[..., 1], both))
    rewards = heads.sum(-1)
    losses = logistic(rewards[:, 0] - rewards[:, 1]) + length_weight * (1 - follows + leaks)
    return jnp.where(valid, losses, 0)
