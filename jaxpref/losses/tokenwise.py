"""Pairwise losses that weigh single tokens of the two responses.

`token_logps` and masks come as [b, r], True where a token is scored. Whatever stands at other positions is
ignored, NaN too. `chosen_forward_kl` and `rejected_forward_kl` are KL(reference || policy) of the next-token
distribution at a position, nats. SparsePO's weights are inputs: a mask common to log-ratios and divergences
is the same array twice, and MaPO's is `activation_weights`.

Sources: arXiv:2406.11827 (WPO), 2409.06411 (LD-DPO), 2410.05102 (SparsePO, MaPO).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratio, per_token

__all__ = ["activation_weights", "ld_dpo", "log_agreement", "pair_of_ratios", "sparse_po", "token_sum", "wpo"]

Batch = Float[Array, " b"]
Tokens = Float[Array, "b r"]
Mask = Bool[Array, "b r"]


def token_sum(values: Float[Array, "*b r"], mask: Bool[Array, "*b r"]) -> Float[Array, "*b"]:
    """Sum over scored tokens; other positions may hold anything.

    Returns:
      [*b] in the unit of `values`; 0 for a response of no tokens.

    Example:
      >>> print(token_sum(jnp.array([[1.0, 0.5, jnp.nan]]), jnp.array([[True, True, False]])))
      [1.5000]
    """
    return jnp.where(mask, values, 0).sum(-1)


def pair_of_ratios(
    chosen: Tokens,
    rejected: Tokens,
    reference_chosen: Tokens,
    reference_rejected: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
) -> tuple[Tokens, Tokens]:
    """Token log-ratios of both responses, float32 or better.

    Returns:
      Two arrays [b, r] in nats, of the chosen and the rejected response; unmasked.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> up, down, mask = jnp.array([[-1.0]]), jnp.array([[-3.0]]), jnp.array([[True]])
      >>> print(*pair_of_ratios(up, down, jnp.array([[-2.0]]), jnp.array([[-2.0]]), mask, mask))
      [[1.0000]] [[-1.0000]]
    """
    check_axes(
        chosen_token_logps=(chosen, "b r"),
        rejected_token_logps=(rejected, "b r"),
        reference_chosen_token_logps=(reference_chosen, "b r"),
        reference_rejected_token_logps=(reference_rejected, "b r"),
        chosen_mask=(chosen_mask, "b r"),
        rejected_mask=(rejected_mask, "b r"),
    )
    first, second, reference_first, reference_second = floats(
        chosen, rejected, reference_chosen, reference_rejected
    )
    return log_ratio(first, reference_first), log_ratio(second, reference_second)


def ld_dpo(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    reference_chosen_token_logps: Tokens,
    reference_rejected_token_logps: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Batch:
    """Length-desensitised DPO: tokens beyond the length of the shorter response count `alpha`.

    -log sigmoid(beta * (U_w - U_l)), U the sum of a response's token log-ratios with weight 1 up to the
    shared length and alpha beyond; Liu et al. 2024, arXiv:2409.06411. The shared length is the smaller of the
    two counts of scored tokens, and position is counted in scored tokens. alpha = 1 is `dpo`; 0 cuts both
    responses to one length.

    Differs from TRL 0.24 to 0.28, which count positions from the start of the padded prompt, so that response
    tokens are dropped, and leave the reference unweighted. TRL 1.16 is as here.

    Args:
      beta: above 0 (DPO's).
      alpha: in [0, 1] (0.5 is a good start by TRL's documentation; the best value depends on the
        model).

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or alpha is outside [0, 1].

    Example:
      >>> logps, ref = jnp.full((1, 3), -1.0), jnp.full((1, 3), -2.0)  # each token rose by a nat: 3 against 1
      >>> long, short = jnp.array([[True, True, True]]), jnp.array([[True, False, False]])
      >>> loss = partial(losses.ld_dpo, logps, logps, ref, ref, long, short, beta=0.5)
      >>> print(loss(alpha=0.0), loss(alpha=1.0))  # -log sigmoid(0) and -log sigmoid(1)
      [0.6931] [0.3133]
    """
    positive(beta=beta)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
    ratios = pair_of_ratios(
        chosen_token_logps,
        rejected_token_logps,
        reference_chosen_token_logps,
        reference_rejected_token_logps,
        chosen_mask,
        rejected_mask,
    )
    shared = jnp.minimum(chosen_mask.sum(-1), rejected_mask.sum(-1))[:, None]

    def score(ratio: Tokens, mask: Mask) -> Batch:
        weights = jnp.where(mask.cumsum(-1) <= shared, 1.0, alpha)
        return token_sum(jnp.where(mask, ratio, 0) * weights, mask)

    return logistic(beta * (score(ratios[0], chosen_mask) - score(ratios[1], rejected_mask)))


def _weighted_side(
    side: str,
    ratio: Tokens,
    kl: Tokens,
    weight: Tokens,
    kl_weight: Tokens,
    mask: Mask,
    prices: tuple[float, float],
) -> tuple[Batch, Batch]:
    """Weighted sum of a response's log-ratios and divergences, and the price of its weights."""
    given = {f"{side}_forward_kl": kl, f"{side}_token_weights": weight, f"{side}_kl_weights": kl_weight}
    check_axes(**{name: (x, "b r") for name, x in {f"{side}_mask": mask, **given}.items()})
    # Masked before the product: the gradient of 0 * NaN would be NaN.
    ratio, kl, weight, kl_weight = (jnp.where(mask, x, 0) for x in (ratio, *floats(*given.values())))
    price = prices[0] * jnp.abs(weight).sum(-1) + prices[1] * jnp.abs(kl_weight).sum(-1)
    return (weight * ratio + kl_weight * kl).sum(-1), price


def sparse_po(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    reference_chosen_token_logps: Tokens,
    reference_rejected_token_logps: Tokens,
    chosen_forward_kl: Tokens,
    rejected_forward_kl: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    chosen_token_weights: Tokens,
    rejected_token_weights: Tokens,
    chosen_kl_weights: Tokens,
    rejected_kl_weights: Tokens,
    *,
    beta: float = 0.1,
    l1_tokens: float = 0.001,
    l1_kl: float = 0.001,
) -> Batch:
    """SparsePO: every token's log-ratio and divergence has a weight, learned (with an L1 price) or given.

    -log sigmoid(beta * (U_w - U_l - (K_l - K_w))), U the weighted sum of token log-ratios and K of
    KL(reference || policy), plus l1_tokens * |token weights|_1 + l1_kl * |KL weights|_1 over the scored
    tokens of both responses; Christopoulou et al. 2024, arXiv:2410.05102. Weights 1 are `tdpo1`; token
    weights 1 and KL weights 0 are `dpo`, but for the constant price. Gradients reach the weights, so a
    learned mask is trained by this loss.

    Args:
      beta: above 0 (released: 0.1 on HH, 0.8 on IMDB and TL;DR).
      l1_tokens, l1_kl: price of a unit of weight, 0 or more (released: 0.001 on HH); 0 for given weights.

    Returns:
      [b] nats, 0 or more; log 2 plus the price where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or a price is below 0.

    Example:
      >>> none, first, mask = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool)
      >>> loss = partial(losses.sparse_po, none - 1, none - 3, none - 2, none - 2, none, none, mask, mask)
      >>> print(loss(first, first, none, none, beta=0.5, l1_tokens=0.1))  # 0.3133 + 0.1 * (1 + 1)
      [0.5133]
    """
    positive(beta=beta)
    not_negative(l1_tokens=l1_tokens, l1_kl=l1_kl)
    ratios = pair_of_ratios(
        chosen_token_logps,
        rejected_token_logps,
        reference_chosen_token_logps,
        reference_rejected_token_logps,
        chosen_mask,
        rejected_mask,
    )
    prices = (l1_tokens, l1_kl)
    kl, weights, kl_weights = chosen_forward_kl, chosen_token_weights, chosen_kl_weights
    first, price_w = _weighted_side("chosen", ratios[0], kl, weights, kl_weights, chosen_mask, prices)
    kl, weights, kl_weights = rejected_forward_kl, rejected_token_weights, rejected_kl_weights
    second, price_l = _weighted_side("rejected", ratios[1], kl, weights, kl_weights, rejected_mask, prices)
    return logistic(beta * (first - second)) + price_w + price_l


def activation_weights(reference_states: Float[Array, "b r d"], mask: Mask) -> Tokens:
    """MaPO's token weights: mean activation of the reference at a token, scaled to [0, 1] over the response.

    Christopoulou et al. 2024, arXiv:2410.05102; no gradient. The paper z-normalises first, which the scaling
    to [0, 1] undoes exactly, so it is left out. Average over layers outside. Where all scored tokens agree
    (one token, say) the weights are 1; the released code divides 0 by 0 there.

    Args:
      reference_states: activations of width `d` at each token.

    Returns:
      [b, r] in [0, 1]; 0 where no token is scored.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> states = jnp.array([[[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]]])  # means 1, 3 and 5
      >>> print(activation_weights(states, jnp.ones((1, 3), bool)))
      [[0.0000 0.5000 1.0000]]
    """
    check_axes(reference_states=(reference_states, "b r d"), mask=(mask, "b r"))
    (states,) = floats(reference_states)
    level = jax.lax.stop_gradient(states).mean(-1)
    low = jnp.where(mask, level, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(mask, level, -jnp.inf).max(-1, keepdims=True)
    spread = high > low  # False for a response of no tokens, too
    scaled = (level - jnp.where(spread, low, 0)) / jnp.where(spread, high - low, 1)
    return jnp.where(mask, jnp.where(spread, scaled, 1), 0)


def log_agreement(token_logps: Tokens, log_sum_p2: Tokens, mask: Mask) -> Batch:
    """WPO's log weight of a response: mean over scored tokens of log p(token) - log sum_v p_v^2.

    Args:
      token_logps: log p of the tokens, nats. log_sum_p2: log of the sum of squared probabilities at each.

    Returns:
      [b] nats, of either sign, without gradient; 0 for a policy that is uniform, or certain of these tokens.

    Example:
      >>> p, sum_p2 = jnp.array([[0.5], [0.9]]), jnp.array([[0.5], [0.82]])  # of (1/2, 1/2) and (9/10, 1/10)
      >>> print(log_agreement(jnp.log(p), jnp.log(sum_p2), jnp.ones((2, 1), bool)))  # 0 and log(90/82)
      [0.0000 0.0931]
    """
    excess = token_sum(jax.lax.stop_gradient(token_logps - log_sum_p2), mask)
    return per_token(excess, mask.sum(-1))


def wpo(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    reference_chosen_token_logps: Tokens,
    reference_rejected_token_logps: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    chosen_log_sum_p2: Tokens,
    rejected_log_sum_p2: Tokens,
    *,
    beta: float = 0.01,
) -> Batch:
    """Weighted preference optimisation: DPO times how much the pair looks like the policy's own samples.

    weight * -log sigmoid(beta * (u_w - u_l)), weight = min(1, w(y_w) w(y_l)), w(y) = exp(mean over tokens of
    log p - log sum_v p_v^2), no gradient; Zhou et al. 2024, arXiv:2406.11827, with the released code's bound.
    Multiply any other loss by `exp(min(0, log_agreement + log_agreement))` for its weighted form.

    Differs from TRL >= 0.29 (no bound at 1) and from TRL 0.28 (log p and log sum p^2 one position apart).

    Args:
      beta: above 0 (released code: 0.01).

    Returns:
      [b] nats, 0 or more, at most `dpo`.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref, mask = jnp.array([[-1.0]]), jnp.array([[-3.0]]), jnp.array([[-2.0]]), jnp.array([[True]])
      >>> loss = partial(losses.wpo, w, x, ref, ref, mask, mask, beta=0.5)
      >>> print(loss(w + jnp.log(2.0), x + jnp.log(2.0)))  # both half as likely as expected: 0.3133 / 4
      [0.0783]
    """
    positive(beta=beta)
    ratio_w, ratio_l = pair_of_ratios(
        chosen_token_logps,
        rejected_token_logps,
        reference_chosen_token_logps,
        reference_rejected_token_logps,
        chosen_mask,
        rejected_mask,
    )
    check_axes(
        chosen_token_logps=(chosen_token_logps, "b r"),
        chosen_log_sum_p2=(chosen_log_sum_p2, "b r"),
        rejected_log_sum_p2=(rejected_log_sum_p2, "b r"),
    )
    logps_w, logps_l, p2_w, p2_l = floats(
        chosen_token_logps, rejected_token_logps, chosen_log_sum_p2, rejected_log_sum_p2
    )
    log_weight = log_agreement(logps_w, p2_w, chosen_mask) + log_agreement(logps_l, p2_l, rejected_mask)
    margins = token_sum(ratio_w, chosen_mask) - token_sum(ratio_l, rejected_mask)
    return jnp.exp(jnp.minimum(log_weight, 0)) * logistic(beta * margins)
