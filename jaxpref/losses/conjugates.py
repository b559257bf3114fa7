"""f-divergences between occupancies, their concave conjugates (IQ-Learn) and weights of gradients (f-IRL).

D_f(p || q) = E_q f(p / q), f convex with f(1) = 0. Nats. `chi_square` is the one that IQ-Learn is used with
(Garg et al. 2021, arXiv:2106.12142). The weights are those of f-IRL (Ni et al. 2020, arXiv:2011.04709); their
signs follow from f here, not from a table. The other conjugates and the divergences are standard.
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
    """x - x^2 / 4: f(u) = (u - 1)^2. Its slope is below 0 for x > 2, where no density ratio is."""
    return x - x**2 / 4


def kl(x: Values) -> Values:
    """1 - exp(-x): f(u) = u log u - u + 1, KL(learner || expert). Overflows at x < -88 in float32."""
    return -jnp.expm1(-x)


def hellinger(x: Values) -> Values:
    """x / (1 + x): f(u) = (sqrt(u) - 1)^2. For x > -1; -inf below."""
    inside = x > -1
    return jnp.where(inside, x / (1 + jnp.where(inside, x, 0)), -jnp.inf)


def jensen_shannon(x: Values) -> Values:
    """log(2 - exp(-x)): twice the Jensen-Shannon divergence. For x > -log 2; -inf below."""
    inside = x > -jnp.log(2.0)
    return jnp.where(inside, jnp.log(2 - jnp.exp(-jnp.where(inside, x, 0))), -jnp.inf)


# h(u) = f(u) - u f'(u) of D_f(expert || learner) = E_learner f(u), u = expert / learner: the derivative of
# learner f(expert / learner) by the learner's density. Arguments are log u.


def forward_kl_weights(log_ratios: Values) -> Values:
    """-u: KL(expert || learner), f(u) = u log u."""
    return -jnp.exp(log_ratios)


def reverse_kl_weights(log_ratios: Values) -> Values:
    """1 - log u: KL(learner || expert), f(u) = -log u."""
    return 1 - log_ratios


def jensen_shannon_weights(log_ratios: Values) -> Values:
    """-log(1 + u): twice the Jensen-Shannon divergence, up to the constant log 2, which no gradient sees."""
    return -jax.nn.softplus(log_ratios)


Shares = Float[Array, "*n"]  # above 0, of total 1


def forward_kl_divergence(expert: Shares, learner: Shares) -> Float[Array, ""]:
    """KL(expert || learner)."""
    return (expert * jnp.log(expert / learner)).sum()


def reverse_kl_divergence(expert: Shares, learner: Shares) -> Float[Array, ""]:
    """KL(learner || expert)."""
    return forward_kl_divergence(learner, expert)


def jensen_shannon_divergence(expert: Shares, learner: Shares) -> Float[Array, ""]:
    """KL(expert || mean) + KL(learner || mean): twice the Jensen-Shannon divergence, at most 2 log 2."""
    middle = (expert + learner) / 2
    return forward_kl_divergence(expert, middle) + forward_kl_divergence(learner, middle)
