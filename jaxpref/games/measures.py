"""Measures of policies in a game of preferences: win rates, best responses and distances from equilibrium.

`preferences [..., y, y]` holds P(i beats j), with P + P^T = 1; policies are log-probs `[..., y]` in nats,
with the same leading axes (prompts). All is differentiable and keeps its dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "best_response",
    "duality_gap",
    "exploitability",
    "kl_divergence",
    "mixture",
    "win_rate",
    "win_rates",
]

Preferences = Float[Array, "*x y y"]
LogPolicy = Float[Array, "*x y"]
_SERIES = 0.1  # |d| below which exp(-d) - 1 + d is summed as a series


def _advantages(preferences: Preferences, log_opponent: LogPolicy) -> Float[Array, "*x y"]:
    """P(y beats the opponent) - 1/2; one half is subtracted first, so that small ones keep their digits."""
    return jnp.einsum("...ij,...j->...i", preferences - 0.5, jnp.exp(log_opponent), precision="highest")


def win_rates(preferences: Preferences, log_opponent: LogPolicy) -> Float[Array, "*x y"]:
    """P(y beats a response of the opponent) of every response y, in [0, 1]."""
    return 0.5 + _advantages(preferences, log_opponent)


def win_rate(preferences: Preferences, log_policy: LogPolicy, log_opponent: LogPolicy) -> Float[Array, "*x"]:
    """P(a response of the policy beats one of the opponent), in [0, 1]; one half against itself."""
    return 0.5 + (jnp.exp(log_policy) * _advantages(preferences, log_opponent)).sum(-1)


def mixture(log_policy: LogPolicy, log_reference: LogPolicy, beta: Float[Array, ""] | float) -> LogPolicy:
    """Geometric mixture, proportional to policy^(1 - beta) * reference^beta.

    Differs from the mixture that Nash-MD-PG samples: that one is normalised at every token, and the two agree
    for responses of one token only.
    """
    return jax.nn.log_softmax((1 - beta) * log_policy + beta * log_reference, -1)


def best_response(
    preferences: Preferences, log_opponent: LogPolicy, log_reference: LogPolicy, tau: Float[Array, ""] | float
) -> LogPolicy:
    """argmax over pi of P(pi beats opponent) - tau KL(pi || ref): ref(y) exp(P(y beats opponent) / tau)."""
    return jax.nn.log_softmax(log_reference + _advantages(preferences, log_opponent) / tau, -1)


def kl_divergence(log_p: LogPolicy, log_q: LogPolicy) -> Float[Array, "*x"]:
    """KL(p || q) in nats, 0 or more, with relative precision however close the two are.

    Summed as p log(p / q) - p + q, each term of which is 0 or more; the terms added sum to 0. A plain sum of
    p log(p / q) has errors of 1e-7 in float32, which hides all of the last part of a convergence curve.
    """
    d = log_p - log_q
    small = jnp.abs(d) < _SERIES
    x = jnp.where(small, d, 0)
    series = jnp.ones_like(x)
    for n in range(10, 2, -1):  # exp(-x) - 1 + x = x^2 / 2 (1 - x / 3 (1 - x / 4 ...))
        series = 1 - x / n * series
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    present = log_p > -jnp.inf  # where p is 0 the term is q
    return jnp.where(
        small, p * x**2 / 2 * series, jnp.where(present, p * jnp.where(present, d, 0), 0) - p + q
    ).sum(-1)


def duality_gap(
    preferences: Preferences, log_policy: LogPolicy, log_reference: LogPolicy, tau: Float[Array, ""] | float
) -> Float[Array, "*x"]:
    """max over nu of P_tau(nu beats pi) - 1/2 in the regularised game: 0 or more, and 0 at equilibrium only.

    Equal to tau log E_ref exp(P(y beats pi) / tau) + tau KL(pi || ref) - 1/2, and, since a policy beats
    itself half the time, to tau KL(pi || best response to pi). The last is computed: its precision is
    relative.
    """
    best = best_response(preferences, log_policy, log_reference, tau)
    return tau * kl_divergence(log_policy, best)


def exploitability(preferences: Preferences, log_policy: LogPolicy) -> Float[Array, "*x"]:
    """max over y of P(y beats pi) - 1/2 in the game as it is (tau = 0), from 0 to 1/2."""
    return _advantages(preferences, log_policy).max(-1)
