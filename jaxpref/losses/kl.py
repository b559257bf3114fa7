"""Estimators of the KL divergence to a reference from samples of the policy. Not exported as losses.

`u = log pi(y) - log pi_ref(y)`, nats, of a response or of a token that the policy drew. The mean of
each is KL(pi || pi_ref), of k2 nearly. The estimators are standard and their names the field's; what the
table says was checked by enumeration. Their gradients, if one of them is minimised as it stands, are three
different things (expectations over samples of the policy; the draw itself has no gradient):

| estimator | mean of the value | mean of the gradient through u |
|---|---|---|
| k1 = u | KL(pi, ref) | 0: pure noise |
| k2 = u^2 / 2 | KL(pi, ref), up to third order | that of KL(pi, ref) |
| k3 = exp(-u) - 1 + u | KL(pi, ref) | that of KL(ref, pi), the other direction |

So a loss that is to follow the gradient of KL(pi, ref) takes `log pi * stop_gradient(u)`, with `kl_to_go` in
place of u where tokens are summed. Of a token, these statements hold with its prefix given: the sum over
tokens of k2 leaves out what a token does to the divergence of the tokens after it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.scores import log_ratio

__all__ = ["k1", "k2", "k3", "kl_to_go", "token_ratios"]

Values = Float[Array, "*n"]
Tokens = Float[Array, "*b r"]
Mask = Bool[Array, "*b r"]

_LARGEST_EXPONENT = 40.0


def k1(ratios: Values) -> Values:
    """u: unbiased, of any sign. As a loss its mean gradient is zero."""
    return ratios


def k2(ratios: Values) -> Values:
    """u^2 / 2: never negative, biased. As a loss it has the gradient of KL(pi || pi_ref)."""
    return ratios**2 / 2


def k3(ratios: Values) -> Values:
    """exp(-u) - 1 + u: never negative and unbiased. As a loss it has the gradient of KL(pi_ref || pi).

    Below u = -40 the exponential goes on as its tangent, so that value and slope stay finite and point the
    right way.
    """
    exponent = jnp.minimum(-ratios, _LARGEST_EXPONENT)
    beyond = jax.nn.relu(-ratios - _LARGEST_EXPONENT)
    return jnp.expm1(exponent) + jnp.exp(_LARGEST_EXPONENT) * beyond + ratios


def token_ratios(token_logps: Tokens, reference_token_logps: Tokens, mask: Mask) -> Tokens:
    """Log-ratio of each scored token, 0 (and without gradient) elsewhere, whatever stands there."""
    return log_ratio(jnp.where(mask, token_logps, 0), jnp.where(mask, reference_token_logps, 0))


def kl_to_go(token_logps: Tokens, reference_token_logps: Tokens, mask: Mask) -> Tokens:
    """[.., n]: sum of the log-ratios of the scored tokens from n to the end, without gradient; nats.

    `sum_n log pi(y_n) * kl_to_go_n` has the mean gradient of KL(pi || pi_ref) of whole responses: a token
    answers for itself and for what comes after it. Its own log-ratio alone in that place is biased.
    """
    ratios = token_ratios(*jax.lax.stop_gradient((token_logps, reference_token_logps)), mask)
    return jax.lax.cumsum(ratios, axis=ratios.ndim - 1, reverse=True)
