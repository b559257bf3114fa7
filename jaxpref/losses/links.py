"""Margin links: functions of a margin `h`, the logit of "chosen beats rejected" (nats)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["bernoulli_kl", "hinge", "log_ratio_modulated", "logistic", "smoothed_logistic", "squared"]


def logistic(margins: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """-log sigmoid(h) = log(1 + exp(-h)), with `logistic(h) - logistic(-h) = -h`.

    Returns:
      [..], nats, 0 or more; log 2 with slope -1/2 at h = 0.

    Example:
      >>> print(losses.links.logistic(jnp.array([0.0, 1.0, -1.0])))
      [0.6931 0.3133 1.3133]
    """
    return jax.nn.softplus(-margins)


def smoothed_logistic(margins: Float[Array, "*b"], label_smoothing: float) -> Float[Array, "*b"]:
    """Cross entropy against the label `1 - label_smoothing`: `logistic(h) + label_smoothing * h`.

    Args:
      label_smoothing: e, in [0, 0.5).

    Returns:
      [..], nats, 0 or more; log 2 at h = 0, least at h = log((1 - e) / e).

    Example:
      >>> print(losses.links.smoothed_logistic(jnp.array([0.0, 1.0]), 0.1))  # 0.3133 + 0.1
      [0.6931 0.4133]
    """
    return logistic(margins) + label_smoothing * margins


def squared(margins: Float[Array, "*b"], target: float) -> Float[Array, "*b"]:
    """(h - target)^2 (IPO, arXiv:2310.12036).

    Returns:
      [..], nats squared, 0 or more; 0 at the target.

    Example:
      >>> print(losses.links.squared(jnp.array([3.0, 1.0]), 1.0))
      [4.000 0.000]
    """
    return (margins - target) ** 2


def hinge(margins: Float[Array, "*b"], target: float) -> Float[Array, "*b"]:
    """max(0, target - h) (RSO, arXiv:2309.06657; SLiC-HF, arXiv:2305.10425).

    `relu` has slope 0 at the kink; `maximum` would have one half.

    Returns:
      [..], nats, 0 or more; 0 from the target on.

    Example:
      >>> print(losses.links.hinge(jnp.array([0.25, 2.0]), 1.0), jax.grad(losses.links.hinge)(1.0, 1.0))
      [0.750 0.000] 0.000
    """
    return jax.nn.relu(target - margins)


def bernoulli_kl(margins: Float[Array, "*b"], label_smoothing: float) -> Float[Array, "*b"]:
    """KL(Bernoulli(sigmoid(h)) || Bernoulli(1 - label_smoothing)) (EXO, arXiv:2402.00856).

    Args:
      label_smoothing: e, in (0, 1).

    Returns:
      [..], nats, 0 or more; 0 at h = log((1 - e) / e).

    Example:
      >>> h = jnp.array([0.0, jnp.log(9.0)])
      >>> print(losses.links.bernoulli_kl(h, 0.1), jnp.log(5 / 9) / 2 + jnp.log(5.0) / 2)
      [0.5108 0.0000] 0.5108
    """
    win = jax.nn.sigmoid(margins) * (-logistic(margins) - jnp.log1p(-label_smoothing))
    lose = jax.nn.sigmoid(-margins) * (-logistic(-margins) - jnp.log(label_smoothing))
    return win + lose


def log_ratio_modulated(margins: Float[Array, "*b"], temperature: float) -> Float[Array, "*b"]:
    """(1 - m) logistic(h) + m exp(-h), m = sigmoid(h / temperature) (DiscoPOP, arXiv:2406.08414).

    For `temperature` below 1 the product m exp(-h) is bounded although exp(-h) is not, so it is computed as
    one exponential.

    Args:
      temperature: above 0, nats.

    Returns:
      [..], nats, 0 or more; (log 2 + 1) / 2 at h = 0.

    Example:
      >>> print(losses.links.log_ratio_modulated(jnp.array([0.0, -100.0]), 0.05))
      [0.8466 100.0000]
    """
    modulation = jax.nn.sigmoid(margins / temperature)
    exponential = jnp.exp(-margins - jax.nn.softplus(-margins / temperature))
    return (1 - modulation) * logistic(margins) + exponential
