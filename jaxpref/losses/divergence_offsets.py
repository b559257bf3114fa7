"""DPO whose margin has a divergence from the reference in it: of tokens (TDPO) or of features (FPO).

`chosen_forward_kl` and `rejected_forward_kl` [b, r] are KL(reference || policy) of the next-token
distribution at a position, nats; what stands outside the masks is ignored, NaN too. u_w and u_l are
log-ratios to the reference, summed over scored tokens. Sources: arXiv:2404.11999 and 2411.07618.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratios, per_token
from jaxpref.losses.tokenwise import token_sum

__all__ = ["feature_gap", "fpo", "pooled_features", "tdpo1", "tdpo2"]

Batch = Float[Array, " b"]
Lengths = Int[Array, " b"]
Tokens = Float[Array, "b r"]
Mask = Bool[Array, "b r"]
Features = Float[Array, "b m"]


def _sequence_kls(
    logps: Batch, chosen_kl: Tokens, rejected_kl: Tokens, chosen_mask: Mask, rejected_mask: Mask
) -> tuple[Batch, Batch]:
    """KL(reference || policy) of both responses, summed over scored tokens."""
    check_axes(
        chosen_logps=(logps, "b"),
        chosen_forward_kl=(chosen_kl, "b r"),
        rejected_forward_kl=(rejected_kl, "b r"),
        chosen_mask=(chosen_mask, "b r"),
        rejected_mask=(rejected_mask, "b r"),
    )
    first, second = floats(chosen_kl, rejected_kl)
    return token_sum(first, chosen_mask), token_sum(second, rejected_mask)


def tdpo1(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_forward_kl: Tokens,
    rejected_forward_kl: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    *,
    beta: float = 0.1,
) -> Batch:
    """Token-level DPO, first form: -log sigmoid(beta * (u_w - u_l - (K_l - K_w))), K the summed forward KL.

    Zeng et al. 2024, arXiv:2404.11999. Without divergence it is `dpo`.

    Args:
      beta: above 0 (released code: 0.1).

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref, mask = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0]), jnp.ones((1, 2), bool)
      >>> kl_w, kl_l = jnp.full((1, 2), 0.5), jnp.full((1, 2), 1.5)  # K_w = 1 and K_l = 3
      >>> print(losses.tdpo1(w, x, ref, ref, kl_w, kl_l, mask, mask))  # a margin of 2 - (3 - 1)
      [0.6931]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    kl_w, kl_l = _sequence_kls(first, chosen_forward_kl, rejected_forward_kl, chosen_mask, rejected_mask)
    return logistic(beta * (first - second - (kl_l - kl_w)))


def tdpo2(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_forward_kl: Tokens,
    rejected_forward_kl: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Batch:
    """Token-level DPO, second form: -log sigmoid(beta * (u_w - u_l - alpha * (K_l - stop_gradient(K_w)))).

    Zeng et al. 2024, arXiv:2404.11999. K is the summed forward KL. The divergence of the chosen side is a
    baseline without gradient, so the loss never pushes it up. At alpha = 1 the value, not the gradient, is
    `tdpo1`'s; at 0 it is `dpo`.

    Args:
      beta: above 0 (released code: 0.1). alpha: 0 or more (released code: 0.5).

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or alpha is below 0.

    Example:
      >>> w, x, ref, mask = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0]), jnp.ones((1, 2), bool)
      >>> kl_w, kl_l = jnp.full((1, 2), 0.5), jnp.full((1, 2), 1.5)  # K_w = 1 and K_l = 3
      >>> loss = partial(losses.tdpo2, w, x, ref, ref, kl_w, kl_l, mask, mask, beta=1.0)
      >>> print(loss(alpha=0.5), loss(alpha=1.0))  # 2 - 0.5 * (3 - 1) and 2 - (3 - 1)
      [0.3133] [0.6931]
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    kl_w, kl_l = _sequence_kls(first, chosen_forward_kl, rejected_forward_kl, chosen_mask, rejected_mask)
    return logistic(beta * (first - second - alpha * (kl_l - jax.lax.stop_gradient(kl_w))))


def pooled_features(activations: Float[Array, "b r m"], mask: Mask) -> Features:
    """Mean of sparse-autoencoder activations over scored tokens.

    Differs from the released FPO code, which divides by the padded length, so its value depends on padding.

    Returns:
      [b, m] in the unit of the activations; 0 for a response of no tokens.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> activations = jnp.array([[[1.0, 0.0], [2.0, 3.0], [9.0, 9.0]]])
      >>> print(pooled_features(activations, jnp.array([[True, True, False]])))
      [[1.5000 1.5000]]
    """
    check_axes(activations=(activations, "b r m"), mask=(mask, "b r"))
    (activations,) = floats(activations)
    total = jnp.where(mask[..., None], activations, 0).sum(1)
    return total / jnp.maximum(mask.sum(-1), 1)[:, None]


def feature_gap(features: Features, reference_features: Features, top_k: int) -> Batch:
    """Mean squared difference over the policy's `top_k` strongest features (all, if there are fewer).

    Differs from the paper of FPO (arXiv:2411.07618), which takes the strongest of policy and reference
    together: this is its released code.

    Args:
      top_k: 1 or more. reference_features: data, no gradient.

    Returns:
      [b] in the squared unit of the features, 0 or more.

    Example:
      >>> print(feature_gap(jnp.array([[5.0, 1.0]]), jnp.array([[3.0, 9.0]]), 1))  # (5 - 3)^2
      [4.0000]
    """
    strongest, where = jax.lax.top_k(features, min(top_k, features.shape[-1]))
    reference = jnp.take_along_axis(jax.lax.stop_gradient(reference_features), where, -1)
    return ((strongest - reference) ** 2).mean(-1)


def fpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    chosen_features: Features,
    rejected_features: Features,
    reference_chosen_features: Features,
    reference_rejected_features: Features,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    top_k: int = 50,
) -> Batch:
    """Feature-level preference optimisation: log-ratios per token, divergence in sparse-autoencoder features.

    -log sigmoid(beta * (u_w / n_w - u_l / n_l - alpha * (E_l - stop_gradient(E_w)))), E the `feature_gap` of
    pooled activations (`pooled_features`); Yin et al. 2024, arXiv:2411.07618. alpha = 0 is `ln_dpo`. The
    reference's features can be stored with the data.

    Differs from the released code in that features are pooled over scored tokens, not over padding.

    Args:
      beta: above 0 (released code: 0.1). alpha: 0 or more (0.5). top_k: features compared, 1 or more (50).

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta or top_k is not above 0, or alpha is below 0.

    Example:
      >>> w, x, ref, n = jnp.array([-2.0]), jnp.array([-6.0]), jnp.array([-4.0]), jnp.array([2])
      >>> zero = jnp.zeros((1, 1))  # h = 2 * (1 + 1 - 0.5 * (2^2 - 1^2)) = 1
      >>> print(losses.fpo(w, x, ref, ref, n, n, zero + 1, zero + 2, zero, zero, beta=2.0, alpha=0.5))
      [0.3133]
    """
    positive(beta=beta, top_k=top_k)
    not_negative(alpha=alpha)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    check_axes(
        chosen_logps=(chosen_logps, "b"),
        chosen_lengths=(chosen_lengths, "b"),
        rejected_lengths=(rejected_lengths, "b"),
        chosen_features=(chosen_features, "b m"),
        rejected_features=(rejected_features, "b m"),
        reference_chosen_features=(reference_chosen_features, "b m"),
        reference_rejected_features=(reference_rejected_features, "b m"),
    )
    x_w, x_l, ref_w, ref_l = floats(
        chosen_features, rejected_features, reference_chosen_features, reference_rejected_features
    )
    margins = per_token(first, chosen_lengths) - per_token(second, rejected_lengths)
    baseline = jax.lax.stop_gradient(feature_gap(x_w, ref_w, top_k))
    return logistic(beta * (margins - alpha * (feature_gap(x_l, ref_l, top_k) - baseline)))
