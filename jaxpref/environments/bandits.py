"""Bandits with Bradley-Terry comparisons, and the optimum of reward less KL."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpref.environments.base import Bandit, Float64, bandit

__all__ = ["bt_bandit", "didactic_bandit", "rlhf_optimum", "uncovered_bandit"]


def bt_bandit(
    *, rewards: Any = (1.0, 0.5, 0.0), reference: Any = (0.2, 0.3, 0.5), scale: float = 1.0
) -> Bandit:
    """Three responses, all compared: P(i beats j) = sigmoid(scale * (r_i - r_j))."""
    return bandit(rewards, reference, scale=scale)


def rlhf_optimum(rewards: ArrayLike, reference: ArrayLike, beta: float) -> Float64:
    """Log-probs `[..., y]` of argmax E r - beta KL(pi || ref): pi proportional to ref exp(r / beta).

    DPO on complete Bradley-Terry data with the same beta converges to it, and n exact phases of BPO, whose
    anchor is the policy of the phase before (arXiv:2406.12168), converge to it with beta / n.
    """
    if not beta > 0:
        raise ValueError(f"beta: expected a number above 0, got {beta}")
    logits = np.log(np.asarray(reference, np.float64)) + np.asarray(rewards, np.float64) / beta
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def uncovered_bandit() -> Bandit:
    """Four responses of which the last is in no comparison (a toy for SPAC, arXiv:2406.04274; numbers ours).

    Rewards (0.2, 0.9, 0.5, 0.4), Bradley-Terry of three times the difference. Rewards lie in [0, 1], and the
    data allow the last one to be anything: a cautious method finds the second response.
    """
    return bandit((0.2, 0.9, 0.5, 0.4), covered=(True, True, True, False), scale=3.0)


def didactic_bandit(
    *,
    num_responses: int = 100,
    peak: float = 70.0,
    width: float = 10.0,
    location: float = -0.7,
    spread: float = 0.1,
) -> Bandit:
    """Responses on a line: is the peak of the reward where the data are?

    After Tajwar et al. 2024, arXiv:2404.14367. Rewards exp(-((y - peak) / width)^2), and
    a reference that is tanh of a Cauchy variable, in equal bins of [-1, 1]. A peak at 70 is far from its
    mode, one at 20 near it.

    Args:
      location, spread: of the Cauchy variable; ours (the paper's are not known to us).
    """
    if width <= 0 or spread <= 0:
        raise ValueError(f"width and spread: expected numbers above 0, got {width} and {spread}")
    edges = np.linspace(-1, 1, num_responses + 1)
    with np.errstate(divide="ignore"):
        below = 0.5 + np.arctan((np.arctanh(edges) - location) / spread) / np.pi
    at = np.arange(num_responses)
    reference = np.diff(below)
    return bandit(np.exp(-(((at - peak) / width) ** 2)), reference / reference.sum())
