"""Pairwise losses whose value depends on the other rows of the batch, with no state between steps.

They see the global batch: on arrays that are sharded over devices, sorts and means are global under `jit`.
Microbatches are another matter: each part would be its own batch, and the value changes. Sources:
arXiv:2402.10958 and 2406.05882.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import as_floats, check_axes, check_same_shape, floats, positive, within
from jaxpref.losses.links import logistic, smoothed_logistic
from jaxpref.losses.rows import only, valid_log_ratios

__all__ = ["aot", "aot_unpaired", "relative_po"]

Batch = Float[Array, " b"]
Rows = Bool[Array, " b"]


def _same_rank(values: Batch, partners: Batch, valid: Rows) -> Batch:
    """For each row the partner that has, among valid partners, the rank of the row among valid values."""
    by_value, by_partner = (jnp.argsort(jnp.where(valid, x, jnp.inf)) for x in (values, partners))
    return jnp.zeros_like(partners).at[by_value].set(partners[by_partner])


def aot(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    valid: Rows,
    *,
    beta: float = 0.01,
    label_smoothing: float = 0.0,
) -> Batch:
    """Distributional alignment by optimal transport, paired: sorted margins against sorted reference margins.

    l(beta * (P_(i) - R_(i))), P = logp_w - logp_l of the policy, R the reference's, (i) the i-th smallest and
    l = -log sigmoid; Melnyk et al. 2024, arXiv:2406.05882; nats. Its mean is the smallest over all ways to
    pair the P with the R. Row i holds the loss of its own P.

    The batch is the global one; in microbatches each part is sorted by itself, which changes the value.

    Differs from TRL, which sorts on each device by itself and returns the losses in sorted order.

    Args:
      beta: above 0 (0.01, by TRL's documentation). label_smoothing: e of `cdpo`, in [0, 0.5) (0).

    Returns:
      [b], nats, 0 in rows that are not valid; log 2 where the sorted margins agree. One row is `dpo`.

    Raises:
      ValueError: beta or label_smoothing is out of range, or shapes differ.

    Example:
      >>> policy, swapped = jnp.array([-1.0, -2.0]), jnp.array([-2.0, -1.0])  # margins 2, 0 and 0, 2
      >>> rejected = jnp.array([-3.0, -2.0]), jnp.array([-2.0, -3.0])
      >>> print(losses.aot(policy, rejected[0], swapped, rejected[1], jnp.array([True, True])))
      [0.6931 0.6931]
    """
    positive(beta=beta)
    within("label_smoothing", label_smoothing, 0, 0.5)
    check_same_shape({"chosen_logps": chosen_logps, "valid": valid})
    chosen, rejected, reference_chosen, reference_rejected = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    reference = jax.lax.stop_gradient(only(valid, reference_chosen - reference_rejected))
    margins = only(valid, chosen - rejected)
    margins -= _same_rank(margins, reference, valid)
    return only(valid, smoothed_logistic(beta * margins, label_smoothing))


def aot_unpaired(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    valid: Rows,
    *,
    beta: float = 0.01,
    label_smoothing: float = 0.0,
) -> Batch:
    """Distributional alignment by optimal transport, unpaired: sorted chosen against sorted rejected ratios.

    l(beta * (u_w(i) - u_l(i))), (i) the i-th smallest of its side and l = -log sigmoid; Melnyk et al. 2024,
    arXiv:2406.05882; nats. Its mean is the smallest over all ways to pair the two sides, so which rejected
    response stood beside which chosen one does not matter. Row i holds the loss of its own chosen response.

    The batch is the global one; in microbatches each part is sorted by itself, which changes the value.

    Differs from TRL as `aot` does; TRL <= 0.27 calls this one `aot_pair`.

    Args:
      beta: above 0 (0.01, by TRL's documentation). label_smoothing: e of `cdpo`, in [0, 0.5) (0).

    Returns:
      [b], nats, 0 in rows that are not valid; log 2 where the sorted ratios agree. One row is `dpo`.

    Raises:
      ValueError: beta or label_smoothing is out of range, or shapes differ.

    Example:
      >>> chosen, rejected = jnp.array([-1.0, -2.0]), jnp.array([-3.0, -2.0])  # u_w = 1, 0 and u_l = 0, 1
      >>> reference = jnp.full(2, -2.0), jnp.full(2, -3.0)
      >>> print(losses.aot_unpaired(chosen, rejected, *reference, jnp.array([True, True])))
      [0.6931 0.6931]
    """
    positive(beta=beta)
    within("label_smoothing", label_smoothing, 0, 0.5)
    chosen, rejected = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    margins = chosen - _same_rank(chosen, rejected, valid)
    return only(valid, smoothed_logistic(beta * margins, label_smoothing))


def relative_po(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    prompt_embeddings: Float[Array, "b d"],
    valid: Rows,
    *,
    beta: float = 0.1,
    tau: float = 0.5,
) -> Batch:
    """Relative preference optimisation: every chosen response against every rejected one of the batch.

    mean_j l(beta * W_ij * (u_w[i] - u_l[j])), W_ij = softmax_j(-d_ij / tau), d the cosine distance of the
    prompts' embeddings, l = -log sigmoid; Yin et al. 2024, arXiv:2402.10958; nats. W is inside the link and
    its rows sum to 1, so with n rows beta acts as beta / n. An embedding of zeros is at distance 1 from all.

    The batch is the global one; in microbatches prompts meet those of their part only, which changes the
    value. Memory is b * b.

    Differs from the released code, which compares within a device, and uses W = 1 where it has no embeddings.

    Args:
      beta: above 0 (released: 0.1). tau: above 0 (released: 0.5).

    Returns:
      [b], nats, 0 in rows that are not valid; log 2 where policy and reference agree. One row is `dpo`.

    Raises:
      ValueError: beta or tau is not above 0, or shapes differ.

    Example:
      >>> logps = [jnp.full(2, x) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> rows = jnp.ones((2, 3)), jnp.array([True, True])  # equal prompts: W = 1/2
      >>> print(losses.relative_po(*logps, *rows, beta=0.5), losses.dpo(*logps, beta=0.25))
      [0.4741 0.4741] [0.4741 0.4741]
    """
    positive(beta=beta, tau=tau)
    check_axes(chosen_logps=(chosen_logps, "b"), prompt_embeddings=(prompt_embeddings, "b d"))
    chosen, rejected = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    (embeddings,) = floats(prompt_embeddings)
    embeddings = jax.lax.stop_gradient(only(valid, embeddings))
    squares = (embeddings**2).sum(-1, keepdims=True)
    embeddings = embeddings * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
    similarity = jnp.matmul(embeddings, embeddings.T, precision=jax.lax.Precision.HIGHEST)
    # Finite, so that a batch of padding only gives no NaN.
    weights = jax.nn.softmax(jnp.where(valid[None, :], (similarity - 1) / tau, -1e30))
    losses = logistic(beta * weights * (chosen[:, None] - rejected[None, :]))
    return only(valid, jnp.where(valid[None, :], losses, 0).sum(1) / jnp.maximum(valid.sum(), 1))
