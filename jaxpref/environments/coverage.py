"""Responses that no recorded comparison covers: a gap of coverage, and extrapolation by shared features."""

import math

import numpy as np

from jaxpref.environments.base import Bandit, Float64, bandit

__all__ = ["coverage_gap", "hypo_optimum", "log_linear_policy"]


def coverage_gap(*, probability: float = 0.8) -> Bandit:
    """Three responses with reference (0.4, 0.4, 0.2); the first beats the second with `probability`, and the
    third is in no comparison. Its reward here is 0, which no data show.

    DPO is at its minimum wherever the log-ratios of the first two differ by logit(p) / beta, whatever mass
    the third has.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability: expected a number between 0 and 1, got {probability}")
    logit = math.log(probability / (1 - probability))
    return bandit((logit, 0.0, 0.0), (0.4, 0.4, 0.2), covered=(True, True, False))


def hypo_optimum(environment: Bandit, *, beta: float = 1.0, kl_weight: float) -> Float64:
    """HyPO's one optimum: log-probs `[3]` that minimise DPO on the covered pair + kl_weight KL(pi || ref).

    Song et al. 2024, arXiv:2406.01462, on a bandit of three responses of which the first two are compared. At
    the optimum the log-ratio of the uncovered response is KL(pi || ref) (ours), which leaves one unknown, the
    difference h of the two other log-ratios: kl_weight * pi_1 q_2 h = beta * (p - sigmoid(beta h)), with q_2
    the share of the second among the two. It has one root between 0 and logit(p) / beta.
    """
    if not beta > 0 or not kl_weight > 0:
        raise ValueError(f"beta and kl_weight: expected numbers above 0, got {beta} and {kl_weight}")
    if environment.covered.tolist() != [[True, True, False]]:
        raise ValueError("hypo_optimum: expected three responses of which the first two are covered")
    ref, p = environment.reference[0], environment.preferences[0, 0, 1]

    def policy(h: float) -> Float64:
        q = ref[:2] * np.exp([h, 0.0])
        q /= q.sum()
        # Log-ratios are c + q_2 h, c - q_1 h and c, with c = KL(pi || ref); c makes them a policy.
        ratios = np.array([q[1] * h, -q[0] * h, 0.0])
        return np.log(ref) + ratios - np.log((ref * np.exp(ratios)).sum())

    def slope(h: float) -> float:
        pi = np.exp(policy(h))
        share = pi[1] / (pi[0] + pi[1])
        return kl_weight * pi[0] * share * h + beta * (1 / (1 + math.exp(-beta * h)) - p)

    low, high = sorted((0.0, math.log(p / (1 - p)) / beta))
    for _ in range(200):  # `slope` rises through 0 between the two
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return policy((low + high) / 2)


def log_linear_policy(h: float) -> Float64:
    """Log-probs `[3]` of pi proportional to (1, exp(h), exp(2 h)): features (1, 0), (1/2, 1/2), (0, 1).

    Trained on pairs of the first two only, with the second chosen with probability p, DPO from a uniform
    reference ends at h = logit(p) / beta: the third, never seen, gains most, and for large h both seen ones
    lose, the chosen one too (an example in arXiv:2406.01462).
    """
    logits = np.array([0.0, h, 2 * h])
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
