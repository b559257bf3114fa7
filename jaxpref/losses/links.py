"""Margin links: what is done with a margin `h` (the logit of "chosen beats rejected")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["bernoulli_kl", "hinge", "log_ratio_modulated", "logistic", "smoothed_logistic", "squared"]


def logistic(margins: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """-log sigmoid(h), nats. `logistic(h) - logistic(-h) = -h`; log 2 and slope -1/2 at 0."""
    return jax.nn.softplus(-margins)


def smoothed_logistic(margins: Float[Array, "*b"], label_smoothing: float) -> Float[Array, "*b"]:
    """Cross entropy against the label `1 - label_smoothing`: `logistic(h) + label_smoothing * h`.

    Stationary at h = log((1 - e) / e).
    """
    return logistic(margins) + label_smoothing * margins


def squared(margins: Float[Array, "*b"], target: float) -> Float[Array, "*b"]:
    """(h - target)^2, nats squared (IPO, arXiv:2310.12036)."""
    return (margins - target) ** 2


def hinge(margins: Float[Array, "*b"], target: float) -> Float[Array, "*b"]:
    """max(0, target - h), nats (RSO, arXiv:2309.06657; SLiC-HF, arXiv:2305.10425). `relu` has slope 0 at the
    kink; `maximum` would have one half."""
    return jax.nn.relu(target - margins)


def bernoulli_kl(margins: Float[Array, "*b"], label_smoothing: float) -> Float[Array, "*b"]:
    """KL(Bernoulli(sigmoid(h)) || Bernoulli(1 - label_smoothing)), nats (EXO, arXiv:2402.00856); 0 at
    h = log((1 - e) / e)."""
    win = jax.nn.sigmoid(margins) * (-logistic(margins) - jnp.log1p(-label_smoothing))
    lose = jax.nn.sigmoid(-margins) * (-logistic(-margins) - jnp.log(label_smoothing))
    return win + lose


def log_ratio_modulated(margins: Float[Array, "*b"], temperature: float) -> Float[Array, "*b"]:
    """(1 - m) logistic(h) + m exp(-h), m = sigmoid(h / temperature) (DiscoPOP, arXiv:2406.08414).

    For `temperature` below 1 the product m exp(-h) is bounded although exp(-h) is not, so it is formed in the
    exponent.
    """
    modulation = jax.nn.sigmoid(margins / temperature)
    exponential = jnp.exp(-margins - jax.nn.softplus(-margins / temperature))
    return (1 - modulation) * logistic(margins) + exponential
