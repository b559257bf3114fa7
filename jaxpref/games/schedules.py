"""Step sizes of Nash-MD and the bounds of its Theorem 1 (Munos et al. 2023, arXiv:2312.00886)."""

from jaxtyping import Array, Float

__all__ = ["constant_step_size", "decaying_step_size", "nash_md_bound", "nash_md_step_bound"]

Scalar = Float[Array, ""] | float


def decaying_step_size(step: Scalar, tau: Scalar) -> Scalar:
    """2 / (tau (step + 2)), steps counted from 0: the first one starts from the reference alone."""
    return 2 / (tau * (step + 2))


def constant_step_size(step: Scalar, tau: Scalar, *, eta: float) -> Scalar:
    """`eta` at every step. Nash-MD then settles at `constant_step_limit`, not at the equilibrium."""
    del step, tau
    return eta


def nash_md_step_bound(kl: Scalar, tau: Scalar, eta: Scalar) -> Scalar:
    """KL(equilibrium || policy) after one step of Nash-MD is at most (1 - eta tau) kl + 2 eta^2, nats.

    For eta tau in [0, 1]. Over several prompts the same holds for the means.
    """
    return (1 - eta * tau) * kl + 2 * eta**2


def nash_md_bound(steps: Scalar, tau: Scalar) -> Scalar:
    """KL(equilibrium || policy) after `steps` of Nash-MD with `decaying_step_size` is at most
    8 / (tau^2 (steps + 1)), nats, for one step or more, whatever the reference's smallest probability."""
    return 8 / (tau**2 * (steps + 1))
