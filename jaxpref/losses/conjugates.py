"""f-divergences between occupancies, their concave conjugates (IQ-Learn) and weights of gradients (f-IRL).

D_f(p || q) = E_q f(p / q), f convex with f(1) = 0. Nats. `chi_square` is the one that IQ-Learn is used with
(Garg et al. 2021, arXiv:2106.12142). The weights are those of f-IRL (Ni et al. 2020, arXiv:2011.04709), with
signs derived from f here, not taken from a table. The other conjugates and the divergences are standard.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "chi_square",
    "forward_kl_divergence",
    "forward_kl_weights",
    "hellinger",
    "jensen_shannon",
    "jensen_shannon_divergence",
    "jensen_shannon_weights",
    "kl",
    "reverse_kl_divergence",
    "reverse_kl_weights",
]

Values = Float[Array, "*n"]

# phi(x) = -f*(-x): sup_r E_expert phi(r) - E_learner r = D_f(learner || expert). All have phi(0) = 0 and
# phi'(0) = 1, and phi' is what the learner's density over the expert's is at the optimum.


def chi_square(x: Values) -> Values:
    """x - x^2 / 4, of f(u) = (u - 1)^2 (Garg et al. 2021, arXiv:2106.12142).

    Its slope is below 0 for x > 2, where no density ratio is.

    Returns:
      [..], at most 1, its value at x = 2; 0 with slope 1 at x = 0.

    Example:
      >>> print(losses.conjugates.chi_square(jnp.array([0.0, 1.0, 2.0])))
      [0.000 0.750 1.000]
    """
    return x - x**2 / 4


def kl(x: Values) -> Values:
    """1 - exp(-x), of f(u) = u log u - u + 1: KL(learner || expert).

    Overflows at x < -88 in float32.

    Returns:
      [..], below 1; 0 with slope 1 at x = 0.

    Example:
      >>> print(losses.conjugates.kl(jnp.array([0.0, jnp.log(2.0)])))
      [0.000 0.500]
    """
    return -jnp.expm1(-x)


def hellinger(x: Values) -> Values:
    """x / (1 + x) for x > -1, of f(u) = (sqrt(u) - 1)^2.

    Returns:
      [..], below 1, -inf at x <= -1; 0 with slope 1 at x = 0.

    Example:
      >>> print(losses.conjugates.hellinger(jnp.array([-2.0, 0.0, 1.0])))
      [-inf 0.000 0.500]
    """
    inside = x > -1
    return jnp.where(inside, x / (1 + jnp.where(inside, x, 0)), -jnp.inf)


def jensen_shannon(x: Values) -> Values:
    """log(2 - exp(-x)) for x > -log 2, of twice the Jensen-Shannon divergence.

    Returns:
      [..], below log 2, -inf at x <= -log 2; 0 with slope 1 at x = 0.

    Example:
      >>> print(losses.conjugates.jensen_shannon(jnp.array([-1.0, 0.0, jnp.log(2.0)])), jnp.log(1.5))
      [-inf 0.0000 0.4055] 0.4055
    """
    inside = x > -jnp.log(2.0)
    return jnp.where(inside, jnp.log(2 - jnp.exp(-jnp.where(inside, x, 0))), -jnp.inf)


# h(u) = f(u) - u f'(u) of D_f(expert || learner) = E_learner f(u), u = expert / learner: the derivative of
# learner f(expert / learner) by the learner's density. Arguments are log u.


def forward_kl_weights(log_ratios: Values) -> Values:
    """-u, of KL(expert || learner), f(u) = u log u (Ni et al. 2020, arXiv:2011.04709).

    Returns:
      [..], below 0; -1 where the densities agree.

    Example:
      >>> print(losses.conjugates.forward_kl_weights(jnp.log(jnp.array([1.0, 2.0]))))
      [-1.000 -2.000]
    """
    return -jnp.exp(log_ratios)


def reverse_kl_weights(log_ratios: Values) -> Values:
    """1 - log u, of KL(learner || expert), f(u) = -log u (Ni et al. 2020, arXiv:2011.04709).

    Returns:
      [..], any sign; 1 where the densities agree.

    Example:
      >>> print(losses.conjugates.reverse_kl_weights(jnp.array([0.0, 1.0])))
      [1.000 0.000]
    """
    return 1 - log_ratios


def jensen_shannon_weights(log_ratios: Values) -> Values:
    """-log(1 + u), of twice the Jensen-Shannon divergence (Ni et al. 2020, arXiv:2011.04709).

    The constant log 2 is left out, since no gradient sees it.

    Returns:
      [..], below 0; -log 2 where the densities agree.

    Example:
      >>> print(losses.conjugates.jensen_shannon_weights(jnp.log(jnp.array([1.0, 3.0]))))  # -log 2, -log 4
      [-0.6931 -1.3863]
    """
    return -jax.nn.softplus(log_ratios)


Shares = Float[Array, "*n"]  # above 0, of total 1


def forward_kl_divergence(expert: Shares, learner: Shares) -> Float[Array, ""]:
    """KL(expert || learner) = sum of expert * log(expert / learner), of shares above 0 that sum to 1.

    Returns:
      a scalar, nats, 0 or more; 0 where the two agree.

    Example:
      >>> expert, learner = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
      >>> print(losses.conjugates.forward_kl_divergence(expert, learner), jnp.log(4 / 3) / 2)
      0.1438 0.1438
    """
    return (expert * jnp.log(expert / learner)).sum()


def reverse_kl_divergence(expert: Shares, learner: Shares) -> Float[Array, ""]:
    """KL(learner || expert) = sum of learner * log(learner / expert), of shares above 0 that sum to 1.

    Returns:
      a scalar, nats, 0 or more; 0 where the two agree.

    Example:
      >>> expert, learner = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
      >>> print(losses.conjugates.reverse_kl_divergence(expert, learner), 0.75 * jnp.log(3.0) - jnp.log(2.0))
      0.1308 0.1308
    """
    return forward_kl_divergence(learner, expert)


def jensen_shannon_divergence(expert: Shares, learner: Shares) -> Float[Array, ""]:
    """KL(expert || mean) + KL(learner || mean), twice the Jensen-Shannon divergence.

    Returns:
      a scalar, nats, in [0, 2 log 2): 0 where the two agree, 2 log 2 in the limit of disjoint shares.

    Example:
      >>> apart = jnp.array([1 - 1e-6, 1e-6])
      >>> print(losses.conjugates.jensen_shannon_divergence(apart, apart[::-1]), 2 * jnp.log(2.0))
      1.386 1.3863
    """
    middle = (expert + learner) / 2
    return forward_kl_divergence(expert, middle) + forward_kl_divergence(learner, middle)
