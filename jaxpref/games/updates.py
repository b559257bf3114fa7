"""Exact steps of the dynamics that play preference games. Policies are log-probs `[..., y]`, nats.

Each is a function of the arrays it names; `algorithms.matrix_game` feeds them by name. `tau` prices the KL to
the reference, `eta` is the step size. Policies must give every response some probability.
"""

import jax
from jaxtyping import Array, Float

from jaxpref.games.measures import LogPolicy, Preferences, best_response, mixture, win_rates

__all__ = [
    "best_response_step",
    "extragradient_step",
    "fictitious_play_step",
    "mirror_step",
    "mwu_step",
    "nash_md_step",
    "omd_step",
]

Scalar = Float[Array, ""] | float


def _step(
    preferences: Preferences,
    log_policy: LogPolicy,
    log_reference: LogPolicy,
    log_opponent: LogPolicy,
    tau: Scalar,
    eta: Scalar,
) -> LogPolicy:
    """argmax over pi of eta P(pi beats opponent) - KL(pi || mixture(policy, reference, eta tau))."""
    centre = mixture(log_policy, log_reference, eta * tau)
    return jax.nn.log_softmax(centre + eta * win_rates(preferences, log_opponent), -1)


def mirror_step(
    preferences: Preferences,
    log_policy: LogPolicy,
    log_reference: LogPolicy,
    tau: Scalar,
    eta: Scalar,
    *,
    beta: Scalar,
) -> LogPolicy:
    """Mirror descent against the mixture policy^(1 - beta) * reference^beta, whatever the step size.

    The exact form, on a table, of the gradients of Nash-MD-PG (arXiv:2312.00886), whose `beta` is a number of
    its own: 0 is self-play, 1 the best response to the reference. It stays at `beta_fixed_point`.
    """
    opponent = mixture(log_policy, log_reference, beta)
    return _step(preferences, log_policy, log_reference, opponent, tau, eta)


def nash_md_step(
    preferences: Preferences, log_policy: LogPolicy, log_reference: LogPolicy, tau: Scalar, eta: Scalar
) -> LogPolicy:
    """Nash-MD of Munos et al. 2023, arXiv:2312.00886: the opponent is the mixture with beta = eta tau.

    With `decaying_step_size` the last iterate converges to the regularised equilibrium (their Theorem 1).
    With a constant step it converges elsewhere, to `constant_step_limit`.
    """
    return mirror_step(preferences, log_policy, log_reference, tau, eta, beta=eta * tau)


def omd_step(
    preferences: Preferences, log_policy: LogPolicy, log_reference: LogPolicy, tau: Scalar, eta: Scalar
) -> LogPolicy:
    """Online mirror descent: the opponent is the policy itself, the centre as in Nash-MD.

    Its only fixed point is the regularised equilibrium. Small steps get there, large ones cycle.
    """
    return mirror_step(preferences, log_policy, log_reference, tau, eta, beta=0.0)


def extragradient_step(
    preferences: Preferences, log_policy: LogPolicy, log_reference: LogPolicy, tau: Scalar, eta: Scalar
) -> LogPolicy:
    """Mirror-prox: a step of `omd_step` to look ahead, then the same step against the policy it reached."""
    ahead = omd_step(preferences, log_policy, log_reference, tau, eta)
    return _step(preferences, log_policy, log_reference, ahead, tau, eta)


def mwu_step(preferences: Preferences, log_policy: LogPolicy, eta: Scalar) -> LogPolicy:
    """Multiplicative weights, self-play with no pull to a reference: pi(y) exp(eta P(y beats pi)).

    What SPPO (arXiv:2405.00675) and each phase of BPO with the IPO loss (arXiv:2406.12168, eta = 1 / beta) do
    on a table. In a cycle the last iterate drifts away and the average policy converges.
    """
    return jax.nn.log_softmax(log_policy + eta * win_rates(preferences, log_policy), -1)


def best_response_step(
    preferences: Preferences, log_policy: LogPolicy, log_reference: LogPolicy, tau: Scalar
) -> LogPolicy:
    """The regularised best response to the policy. In a cycle it goes round unless tau is large."""
    return best_response(preferences, log_policy, log_reference, tau)


def fictitious_play_step(
    preferences: Preferences, log_average: LogPolicy, log_reference: LogPolicy, tau: Scalar
) -> LogPolicy:
    """The regularised best response to the arithmetic mean of all policies so far."""
    return best_response(preferences, log_average, log_reference, tau)
