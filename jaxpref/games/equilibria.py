"""Equilibria to the last digit, by Newton's method in float64 on the host (any jax setting)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["beta_fixed_point", "constant_step_limit", "regularised_nash"]

Float64 = NDArray[np.float64]


def regularised_nash(
    preferences: ArrayLike,
    reference: ArrayLike,
    tau: float,
    *,
    tolerance: float = 1e-12,
    max_steps: int = 200,
) -> Float64:
    """Log-probs `[..., y]` of the regularised equilibrium: pi = ref exp(P(y beats pi) / tau), normalised.

    arXiv:2312.00886, Proposition 1: there is one for each tau > 0. Newton's method on the log-probs, each
    step halved until the residual falls. The Jacobian is the identity plus a product of a skew and a positive
    matrix, so it is never singular, and the residual always falls along the step.

    Args:
      preferences: P(i beats j) `[..., y, y]`. reference: probabilities `[..., y]`, all above 0.
      tolerance: of log pi(y), in units of max(1, 1 / tau), since P / tau is rounded.

    Raises:
      ValueError: not a game, or tau is not above 0.
      RuntimeError: no convergence; tau is too small for float64.
    """
    p, ref = np.asarray(preferences, np.float64), np.asarray(reference, np.float64)
    y = p.shape[-1]
    if p.shape[:-1] != ref.shape or p.shape[-2:] != (y, y):
        raise ValueError(
            f"regularised_nash: expected preferences [..., y, y] and a reference [..., y], got {p.shape} and "
            f"{ref.shape}"
        )
    if not tau > 0:
        raise ValueError(f"tau: expected a number above 0, got {tau}")
    if np.abs(p + p.swapaxes(-1, -2) - 1).max() > 1e-6:
        raise ValueError("preferences: expected P + P^T = 1, see losses.symmetrised")
    if (ref <= 0).any() or np.abs(ref.sum(-1) - 1).max() > 1e-6:
        raise ValueError("reference: expected probabilities above 0 that sum to 1")
    rows = [
        _newton(p_row - 0.5, _log_softmax(np.log(ref_row)), tau, tolerance, max_steps)
        for p_row, ref_row in zip(p.reshape(-1, y, y), ref.reshape(-1, y), strict=True)
    ]
    return np.stack(rows).reshape(ref.shape)


def beta_fixed_point(preferences: ArrayLike, reference: ArrayLike, tau: float, beta: float) -> Float64:
    """Log-probs `[..., y]` of the fixed point of Nash-MD-PG with mixture weight `beta` in [0, 1].

    pi proportional to ref exp(P(y beats m) / tau) with m = pi^(1 - beta) ref^beta. Then m is the regularised
    equilibrium at tau / (1 - beta), so pi is the best response to that one: 0 is the equilibrium itself and 1
    the best response to the reference.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: expected a number in [0, 1], got {beta}")
    p, ref = np.asarray(preferences, np.float64), np.asarray(reference, np.float64)
    opponent = ref if beta == 1 else np.exp(regularised_nash(p, ref, tau / (1 - beta)))
    return _log_softmax(np.log(ref) + np.einsum("...ij,...j->...i", p, opponent) / tau)


def constant_step_limit(preferences: ArrayLike, reference: ArrayLike, tau: float, eta: float) -> Float64:
    """Log-probs `[..., y]` of the fixed point of Nash-MD with the constant step `eta`: the `beta_fixed_point`
    of beta = eta tau. As eta goes to 0 it tends to the equilibrium."""
    return beta_fixed_point(preferences, reference, tau, eta * tau)


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _newton(skew: Float64, log_ref: Float64, tau: float, tolerance: float, max_steps: int) -> Float64:
    """Solves logits = log_ref + skew softmax(logits) / tau."""
    enough = tolerance * max(1.0, 1 / tau)

    def residual(logits: Float64) -> Float64:
        return logits - log_ref - skew @ np.exp(_log_softmax(logits)) / tau

    logits, error = log_ref, residual(log_ref)
    for _ in range(max_steps):
        if np.abs(error).max() <= enough:
            # One more plain step: quadratic convergence makes the rest vanish.
            return _log_softmax(logits - np.linalg.solve(_jacobian(logits, skew, tau), error))
        direction = np.linalg.solve(_jacobian(logits, skew, tau), error)
        size = 1.0
        while size > 1e-12:
            tried = logits - size * direction
            new = residual(tried)
            if np.linalg.norm(new) < (1 - 1e-4 * size) * np.linalg.norm(error):
                break
            size /= 2
        else:
            break
        logits, error = tried, new
    raise RuntimeError(
        f"regularised_nash: residual {np.abs(error).max():.3g} after {max_steps} steps or fewer, expected "
        f"{enough:.3g}; tau={tau} is too small"
    )


def _jacobian(logits: Float64, skew: Float64, tau: float) -> Float64:
    pi = np.exp(_log_softmax(logits))
    return np.eye(len(pi)) - skew @ (np.diag(pi) - np.outer(pi, pi)) / tau
