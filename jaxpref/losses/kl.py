"""Estimators of the KL divergence to a reference from samples of the policy. Not exported as losses.

`u = log pi(y) - log pi_ref(y)`, nats, of a response or of a token that the policy drew. The mean of
each is KL(pi || pi_ref), of k2 nearly. The estimators and their names are those of Schulman 2020,
"Approximating KL Divergence", joschu.net/blog/kl-approx.html (there r = exp(-u)), which is about values. As
losses they have three different gradients, checked here by enumeration (means over samples of the policy; the
draw itself has no gradient):

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
    """u: unbiased, of any sign. As a loss its mean gradient is zero.

    Returns:
      [..], nats; its mean over samples of the policy estimates KL(pi || pi_ref).

    Example:
      >>> u = jnp.log(jnp.array([0.5, 0.5]) / jnp.array([0.25, 0.75]))  # of two equally likely outcomes
      >>> print(losses.kl.k1(u).mean(), jnp.log(4 / 3) / 2)  # KL = 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4)
      0.1438 0.1438
    """
    return ratios


def k2(ratios: Values) -> Values:
    """u^2 / 2: never negative, biased. As a loss it has the gradient of KL(pi || pi_ref).

    Returns:
      [..], nats, 0 or more; its mean over samples of the policy is nearly KL(pi || pi_ref).

    Example:
      >>> u = jnp.log(jnp.array([0.5, 0.5]) / jnp.array([0.25, 0.75]))  # of two equally likely outcomes
      >>> print(losses.kl.k2(u).mean())  # (log(2)^2 + log(2/3)^2) / 4; the KL is 0.1438
      0.1612
    """
    return ratios**2 / 2


def k3(ratios: Values) -> Values:
    """exp(-u) - 1 + u: never negative and unbiased. As a loss it has the gradient of KL(pi_ref || pi).

    Below u = -40 the exponential goes on as its tangent, so that value and slope stay finite and point the
    right way.

    Returns:
      [..], nats, 0 or more; its mean over samples of the policy estimates KL(pi || pi_ref).

    Example:
      >>> u = jnp.log(jnp.array([0.5, 0.5]) / jnp.array([0.25, 0.75]))  # of two equally likely outcomes
      >>> print(losses.kl.k3(u), losses.kl.k3(u).mean())  # 1/2 - 1 + log 2 and 3/2 - 1 + log(2/3)
      [0.1931 0.0945] 0.1438
    """
    exponent = jnp.minimum(-ratios, _LARGEST_EXPONENT)
    beyond = jax.nn.relu(-ratios - _LARGEST_EXPONENT)
    return jnp.expm1(exponent) + jnp.exp(_LARGEST_EXPONENT) * beyond + ratios


def token_ratios(token_logps: Tokens, reference_token_logps: Tokens, mask: Mask) -> Tokens:
    """log pi - log pi_ref of each scored token, without gradient to the reference.

    Tokens that are not scored get no gradient and may hold anything.

    Returns:
      [.., r], nats; 0 where masked.

    Example:
      >>> logps, reference = jnp.array([-1.0, -9.0]), jnp.array([-2.0, jnp.nan])
      >>> print(losses.kl.token_ratios(logps, reference, jnp.array([True, False])))
      [1.000 0.000]
    """
    return log_ratio(jnp.where(mask, token_logps, 0), jnp.where(mask, reference_token_logps, 0))


def kl_to_go(token_logps: Tokens, reference_token_logps: Tokens, mask: Mask) -> Tokens:
    """Sum of the log-ratios of the scored tokens from n to the end, without gradient.

    `sum_n log pi(y_n) * kl_to_go_n` has the mean gradient of KL(pi || pi_ref) of whole responses: a token
    changes its own log-ratio and the tokens after it. With its own log-ratio alone the gradient is biased.

    Returns:
      [.., r], nats; entry 0 is the log-ratio of the response.

    Example:
      >>> logps, reference = jnp.array([-1.0, -2.0, -1.5]), jnp.full(3, -2.0)  # log-ratios 1, 0, 0.5
      >>> print(losses.kl.kl_to_go(logps, reference, jnp.ones(3, bool)))
      [1.500 0.500 0.500]
    """
    ratios = token_ratios(*jax.lax.stop_gradient((token_logps, reference_token_logps)), mask)
    return jax.lax.cumsum(ratios, axis=ratios.ndim - 1, reverse=True)
