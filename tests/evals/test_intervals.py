"""Intervals: published values, symmetries and coverage."""

import numpy as np
import pytest
from scipy import stats

from jaxpref.evals.intervals import clopper_pearson, clustered, paired_bootstrap


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.30849710781876083),
        (5, 10, 0.1870860284473985, 0.8129139715526015),
        (50, 99, 0.402698, 0.607093),
        (99, 99, 0.963424, 1.0),
    ],
)
def test_clopper_pearson_is_the_exact_interval(successes, count, low, high):
    estimate = clopper_pearson(successes, count)
    exact = stats.binomtest(successes, count).proportion_ci(method="exact")
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-6)
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert estimate.mean == successes / count


def test_clopper_pearson_is_what_the_tail_tests_do_not_reject():
    estimate = clopper_pearson(7, 20)
    assert stats.binom.sf(6, 20, estimate.low) == pytest.approx(0.025)
    assert stats.binom.cdf(7, 20, estimate.high) == pytest.approx(0.025)


def test_swapping_the_sides_mirrors_the_interval_also_with_ties():
    for wins in (0, 0.5, 3.25, 11.5):
        one, other = clopper_pearson(wins, 12), clopper_pearson(12 - wins, 12)
        assert one.low == pytest.approx(1 - other.high, abs=1e-12)
        assert one.mean == pytest.approx(1 - other.mean)
    assert clopper_pearson(0, 0).count == 0
    with pytest.raises(ValueError, match="0 <= successes <= 10"):
        clopper_pearson(11, 10)


def test_paired_bootstrap_pairs_and_repeats():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=200)
    first, second = difficulty + 0.1 + 0.01 * rng.normal(size=200), difficulty
    estimate = paired_bootstrap(first, second)
    assert estimate.mean == pytest.approx(float((first - second).mean()))
    assert 0.09 < estimate.low < estimate.mean < estimate.high < 0.11, "what prompts share cancels"
    assert paired_bootstrap(first, second) == estimate
    mirrored = paired_bootstrap(second, first)
    assert (mirrored.low, mirrored.high) == pytest.approx((-estimate.high, -estimate.low))
    with pytest.raises(ValueError, match="two values for each prompt"):
        paired_bootstrap(first, second[1:])


def test_paired_bootstrap_covers():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        wins = rng.binomial(1, 0.6, (2, 80)).astype(float)
        estimate = paired_bootstrap(wins[0], wins[1], num_resamples=400)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.91 < covered / 300 < 0.98


def test_a_weight_is_that_many_copies_within_a_group():
    rng = np.random.default_rng(3)
    values, groups, copies = rng.normal(size=30), np.arange(30) // 2, rng.integers(0, 4, 30)
    copied = clustered(np.repeat(values, copies), np.repeat(groups, copies))
    unwanted = np.where(copies == 0, np.nan, values)
    weighted = clustered(unwanted, groups, weights=copies)
    assert (weighted.mean, weighted.low) == pytest.approx((copied.mean, copied.low), rel=1e-12)
    scaled = clustered(unwanted, groups, weights=0.01 * copies)
    assert (scaled.mean, scaled.low) == pytest.approx((copied.mean, copied.low), rel=1e-12)
