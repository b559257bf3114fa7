"""Margin links: what is done with a margin `h` (the logit of "chosen beats rejected")."""

import jax
from jaxtyping import Array, Float

__all__ = ["logistic", "smoothed_logistic", "squared"]


def logistic(margins: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """-log sigmoid(h), nats. `logistic(h) - logistic(-h) = -h`; log 2 and slope -1/2 at 0."""
    return jax.nn.softplus(-margins)


def smoothed_logistic(margins: Float[Array, "*b"], label_smoothing: float) -> Float[Array, "*b"]:
    """Cross entropy against the label `1 - label_smoothing`: `logistic(h) + label_smoothing * h`.

    Stationary at h = log((1 - e) / e).
    """
    return logistic(margins) + label_smoothing * margins


def squared(margins: Float[Array, "*b"], target: float) -> Float[Array, "*b"]:
    """(h - target)^2."""
    return (margins - target) ** 2
