"""Intervals: published values, symmetries and coverage."""

import numpy as np
import pytest
from scipy import stats

from jaxpref.evals.intervals import (
    clopper_pearson,
    clustered,
    difference,
    exact,
    known,
    proportion,
    recorded,
    share,
)


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
    with pytest.raises(ValueError, match="0 <= successes <= 10"):
        clopper_pearson(11, 10)


# Student's t at 97.5 %, as printed in tables.
T = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 29: 2.0452, 120: 1.9799}


@pytest.mark.parametrize("degrees", T)
def test_few_groups_take_the_quantile_of_student(degrees):
    values = np.random.default_rng(degrees).normal(size=degrees + 1)
    estimate = clustered(values, np.arange(degrees + 1))
    error = values.std(ddof=1) / np.sqrt(degrees + 1)
    assert (estimate.high - estimate.mean) / error == pytest.approx(T[degrees], abs=1e-4)
    assert (estimate.mean - estimate.low) / error == pytest.approx(T[degrees], abs=1e-4)


@pytest.mark.parametrize("groups", [2, 3, 5, 10])
def test_clustered_interval_of_few_groups_covers(groups):
    """2,000 draws: .0049 is one standard error, and four are allowed. The normal quantile would cover .71,
    .80, .88 and .92."""
    rng, index, covered = np.random.default_rng(groups), np.repeat(np.arange(groups), 4), 0
    for _ in range(2000):
        values = rng.normal(size=groups)[index] + rng.normal(size=4 * groups)
        estimate = clustered(values, index)
        covered += estimate.low < 0 < estimate.high
    assert abs(covered / 2000 - 0.95) < 0.02


@pytest.mark.parametrize(("groups", "p"), [(3, 0.5), (3, 0.97), (10, 0.9), (10, 0.97), (40, 0.9), (40, 0.97)])
def test_interval_of_a_share_in_groups_covers(groups, p):
    """Also near 1, where samples without a single failure are common. At least .93 less four standard errors
    (.0069 each for 1,000 draws); few groups make it wide."""
    rng, index, covered = np.random.default_rng(groups), np.repeat(np.arange(groups), 4), 0
    for _ in range(1000):
        chance = rng.beta(2 * p, 2 * (1 - p), groups)[index]  # correlation 1/3 within a group
        estimate = share((rng.random(4 * groups) < chance).astype(float), index)
        covered += estimate.low <= p <= estimate.high
    assert covered / 1000 > 0.93 - 4 * 0.0069


def test_one_group_has_no_interval():
    for function in (clustered, share):
        estimate = function(np.array([0.2, 0.4, 0.9]), np.zeros(3))
        assert (estimate.mean, estimate.count, estimate.clusters) == (0.5, 3, 1)
        assert np.isnan([estimate.low, estimate.high]).all()
        assert str(estimate) == "0.500 (n=3 in 1 group)"
        assert recorded(estimate)["low"] is None
    assert np.isnan(clustered(np.array([0.4]), np.zeros(1)).low)


def test_nothing_measured_has_no_interval_and_no_mean():
    for estimate in (
        clustered(np.zeros(0), np.zeros(0)),
        share(np.ones(3), np.arange(3), weights=np.zeros(3)),
        proportion(0, 0),
        clopper_pearson(0, 0),
    ):
        assert np.isnan([estimate.mean, estimate.low, estimate.high]).all()
        assert estimate.count == 0


def test_only_exact_numbers_have_an_interval_of_no_width():
    """Values that do not vary say nothing of others. Shares have bounds, and so an interval."""
    assert np.isnan(clustered(np.full(20, 0.1), np.arange(20)).low)
    assert np.isnan(clustered(np.tile([0.1, 0.2], 9), np.repeat(np.arange(9), 2)).low), "groups are all equal"
    for p in (0.0, 0.5, 1.0):
        estimate = share(np.full(20, p), np.arange(20))
        assert estimate.low < estimate.high
    solved = exact(0.995)
    assert (solved.low, solved.high, str(solved)) == (0.995, 0.995, "0.995 (exact)")
    assert str(exact(0.5, 12)) == "0.500 (exact, n=12)"


def test_roundings_above_1_leave_a_share_its_interval():
    """Else p (1 - p) is negative, and with it the number of trials."""
    exact_ones = share(np.ones(3), np.arange(3))
    assert share(np.array([1 + 1e-9, 1, 1]), np.arange(3)) == exact_ones
    assert share(-np.array([1e-9, 0, 0]), np.arange(3)).low == 0.0
    assert exact_ones.low < 0.5


def test_what_is_known_of_each_item_is_exact_where_all_have_the_same():
    weights = np.r_[np.ones(99), 0.0]
    same = known(np.r_[np.full(99, 0.25), 0.5], np.arange(100), weights=weights)
    assert str(same) == "0.250 (exact, n=99)"
    varied = np.r_[np.full(50, 0.25), np.full(50, 0.5)]
    assert known(varied, np.arange(100)) == clustered(varied, np.arange(100))
    assert np.isnan(known(np.zeros(0), np.zeros(0)).mean)


def test_what_has_not_moved_is_known_to_be_0():
    still = difference(np.zeros(6), np.arange(6) // 2)
    assert (still.mean, still.low, still.high) == (0, 0, 0)
    assert np.isnan(difference(np.zeros(3), np.zeros(3)).low), "one group"
    values = np.array([0.0, 0.0, 0.5, -0.1])
    assert difference(values, np.arange(4)) == clustered(values, np.arange(4))


def test_a_share_of_independent_zeros_and_ones_is_wilsons_and_that_of_copies_no_narrower():
    values = np.repeat([0.0, 1.0], [3, 17])
    assert share(values, np.arange(20)) == proportion(17, 20)
    assert str(proportion(17, 20)) == "0.850 [0.640, 0.948] (n=20)"
    weighted = share(values, np.arange(20), weights=np.full(20, 0.1))
    assert (weighted.low, weighted.high) == (proportion(17, 20).low, proportion(17, 20).high)
    copied = share(np.tile(values, 6), np.tile(np.arange(20), 6))
    assert copied.low < proportion(17, 20).low
    assert copied.high > proportion(17, 20).high
    assert (copied.count, copied.clusters) == (120, 20)


def test_a_weight_is_that_many_copies_within_a_group():
    rng = np.random.default_rng(3)
    values, groups, copies = rng.normal(size=30), np.arange(30) // 2, rng.integers(0, 4, 30)
    copied = clustered(np.repeat(values, copies), np.repeat(groups, copies))
    unwanted = np.where(copies == 0, np.nan, values)
    weighted = clustered(unwanted, groups, weights=copies)
    assert (weighted.mean, weighted.low) == pytest.approx((copied.mean, copied.low), rel=1e-12)
    scaled = clustered(unwanted, groups, weights=0.01 * copies)
    assert (scaled.mean, scaled.low) == pytest.approx((copied.mean, copied.low), rel=1e-12)
