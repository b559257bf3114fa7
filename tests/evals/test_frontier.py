"""Comparison at equal KL, on a family with a closed form: pi proportional to reference * exp(F r / beta)."""

import numpy as np
import pytest

from jaxpref.evals.frontier import FrontierPoint, at_kl, at_matched_kl, objective
from jaxpref.evals.intervals import Estimate

REWARDS, REFERENCE = np.array([1.0, 0.5, 0.0]), np.array([0.2, 0.3, 0.5])


def exact(strength: float, rewards=REWARDS) -> tuple[float, float]:
    """(E r, KL to the reference) of reference * exp(strength * rewards), normalised."""
    policy = REFERENCE * np.exp(strength * rewards)
    policy /= policy.sum()
    return float(policy @ REWARDS), float(policy @ np.log(policy / REFERENCE))


def point(strength, rewards=REWARDS, half=0.0, kl_half=0.0):
    score, kl = exact(strength, rewards)
    return FrontierPoint(
        Estimate(kl, kl - kl_half, kl + kl_half, 100), Estimate(score, score - half, score + half, 100)
    )


def test_the_family_has_the_published_points():
    for strength, score, kl in [(1, 0.514, 0.084), (2, 0.675, 0.323), (3, 0.800, 0.632), (5, 0.931, 1.135)]:
        assert exact(strength) == pytest.approx((score, kl), abs=6e-4)


def test_more_phases_are_not_better_at_equal_kl():
    """One phase or five: the same curve, so at matched KL there is nothing between them."""
    fine = [point(s) for s in np.linspace(0, 5, 201)]
    for strength in (1.0, 2.0, 3.3):
        score, kl = exact(strength)
        assert at_kl(fine, kl).mean == pytest.approx(score, abs=2e-4)
    kl, difference = at_matched_kl([point(s) for s in np.linspace(0, 2, 81)], fine)
    assert kl == pytest.approx(exact(2)[1])
    assert difference.mean == pytest.approx(0, abs=2e-4)
    assert fine[-1].score.mean - exact(2)[0] > 0.2, "without matching, the longer run looks better"


def test_a_policy_that_maximises_something_else_loses_at_equal_kl():
    good = [point(s, half=0.01) for s in np.linspace(0, 5, 41)]
    bad = [point(s, np.array([1.0, 0.0, 0.5]), half=0.01) for s in np.linspace(0, 5, 41)]
    _, difference = at_matched_kl(good, bad, 0.3)
    assert difference.low > 0.05
    _, mirrored = at_matched_kl(bad, good, 0.3)
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx(
        (-difference.mean, -difference.high, -difference.low)
    )


def test_intervals_between_and_at_points():
    points = [
        FrontierPoint(Estimate(k, k - 0.1, k + 0.1, 9), Estimate(2 * k, 2 * k - e, 2 * k + e, 9))
        for k, e in [(0.0, 0.3), (1.0, 0.4), (2.0, 0.5)]
    ]
    # The slope is 2: a KL uncertain by 0.1 makes the score uncertain by 0.2.
    middle, end = at_kl(points, 0.5), at_kl(points, 2.0)
    assert middle.mean == pytest.approx(1.0)
    assert middle.high - middle.mean == pytest.approx(np.hypot(np.hypot(0.15, 0.2), np.hypot(0.1, 0.1)))
    assert (end.mean, end.mean - end.low) == pytest.approx((4.0, np.hypot(0.5, 0.2)))
    assert at_kl(points[::-1], 0.5) == middle
    assert at_kl(points[:1], 0.0).high == pytest.approx(0.3)
    for wrong in (-0.1, 2.1):
        with pytest.raises(ValueError, match="outside of the points"):
            at_kl(points, wrong)
    with pytest.raises(ValueError, match="none of one"):
        at_matched_kl(points, [])


def test_objective_is_largest_at_the_optimum_of_its_beta():
    strengths = np.linspace(0.2, 5, 97)
    values = [objective(point(s, half=0.03, kl_half=0.08), beta=0.5) for s in strengths]
    assert strengths[int(np.argmax([v.mean for v in values]))] == pytest.approx(2.0)
    assert values[0].high - values[0].mean == pytest.approx(0.05)
