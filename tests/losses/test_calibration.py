"""Calibration on outcomes that are drawn from the probabilities, or from others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.losses.calibration import (
    calibration_bins,
    calibration_error_of_bins,
    expected_calibration_error,
    fit_temperature,
    pair_calibration_error,
)

N = 100_000


def _drawn(seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=N)
    return p, (rng.uniform(size=N) < p).astype(float)


def test_of_outcomes_drawn_from_the_probabilities():
    p, y = _drawn()
    assert expected_calibration_error(p, y) < 0.01
    assert expected_calibration_error(p**2, y) > 0.1


def test_by_hand():
    p, y = np.array([0.02, 0.08, 0.55, 1.0, 0.95]), np.array([0.0, 1.0, 1.0, 1.0, 0.0])
    expected = (abs(0.1 - 1) + abs(0.55 - 1) + abs(1.95 - 1)) / 5
    np.testing.assert_allclose(expected_calibration_error(p, y), expected, rtol=1e-6)
    np.testing.assert_allclose(expected_calibration_error(p, y, bins=1), abs(2.6 - 3) / 5, rtol=1e-6)


def test_constant_one_half():
    p = np.full(1000, 0.5)
    assert expected_calibration_error(p, np.arange(1000) % 2) == 0
    np.testing.assert_allclose(expected_calibration_error(p, np.ones(1000)), 0.5)


def test_orientation():
    """Equal rewards know nothing and say so: 0 in both orders, one half if the chosen response came first."""
    rewards = jnp.zeros(100)
    assert pair_calibration_error(rewards, rewards) == 0
    first = expected_calibration_error(jax.nn.sigmoid(rewards), jnp.ones(100))
    np.testing.assert_allclose(first, 0.5)


def _pairs(seed=0):
    """Pairs labelled by Bradley-Terry: rewards of chosen and rejected."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, N))
    wins = rng.uniform(size=N) < 1 / (1 + np.exp(second - first))
    return np.where(wins, first, second), np.where(wins, second, first)


def test_overconfident_pairs_and_their_temperature():
    chosen, rejected = _pairs()
    assert pair_calibration_error(chosen, rejected) < 0.01
    sharp = pair_calibration_error(10 * chosen, 10 * rejected)
    assert sharp > 0.15
    assert ((10 * chosen > 10 * rejected) == (chosen > rejected)).all()
    temperature = fit_temperature(10 * (chosen - rejected), np.ones(N))
    np.testing.assert_allclose(temperature, 10, rtol=0.03)
    restored = pair_calibration_error(10 * chosen, 10 * rejected, temperature=float(temperature))
    assert restored < 0.01


def test_random_order_agrees_with_both_orders():
    chosen, rejected = _pairs()
    sign = np.where(np.random.default_rng(1).random(N) < 0.5, 1, -1)
    p = 1 / (1 + np.exp(-3 * sign * (chosen - rejected)))
    once = expected_calibration_error(p, (sign > 0).astype(float))
    np.testing.assert_allclose(once, pair_calibration_error(3 * chosen, 3 * rejected), atol=5e-3)


def test_fitted_temperature_is_the_most_likely():
    rng = np.random.default_rng(2)
    logits, y = rng.normal(0, 3, 500), rng.integers(0, 2, 500).astype(float)
    y = np.where(rng.random(500) < 0.5, y, logits > 0)
    best = fit_temperature(logits, y)

    def nll(t):
        return np.logaddexp(0, -(2 * y - 1) * logits / t).mean()

    grid = np.exp(np.linspace(np.log(0.05), np.log(50), 4001))
    np.testing.assert_allclose(best, grid[np.argmin([nll(t) for t in grid])], rtol=2e-3)
    swapped = fit_temperature(np.r_[logits, -logits], np.r_[y, 1 - y])
    np.testing.assert_allclose(swapped, best, rtol=1e-4)


def test_temperature_at_the_ends_of_its_range():
    logits = np.array([1.0, 2.0])
    np.testing.assert_allclose(fit_temperature(logits, np.ones(2), low=0.1, high=50.0), 0.1, rtol=1e-5)
    np.testing.assert_allclose(fit_temperature(logits, np.zeros(2), low=0.1, high=50.0), 50, rtol=1e-5)
    with pytest.raises(ValueError, match="high"):
        fit_temperature(logits, np.ones(2), low=2.0, high=1.0)
    with pytest.raises(ValueError, match="low"):
        fit_temperature(logits, np.ones(2), low=0.0)


def test_sums_add_up_over_parts():
    p, y = _drawn()
    parts = calibration_bins(p[:1000], y[:1000]) + calibration_bins(p[1000:3000], y[1000:3000])
    np.testing.assert_allclose(parts, calibration_bins(p[:3000], y[:3000]), rtol=1e-5)
    np.testing.assert_allclose(
        calibration_error_of_bins(parts), expected_calibration_error(p[:3000], y[:3000]), rtol=1e-4
    )
    assert calibration_error_of_bins(jnp.zeros((10, 3))) == 0


def test_items_that_do_not_exist():
    p, y = _drawn()
    p, y, where = p[:500], y[:500], np.arange(500) % 3 > 0
    expected = expected_calibration_error(p[where], y[where])
    logits = np.log(p / (1 - p))
    temperature = fit_temperature(logits[where], y[where])
    hole = np.where(where, p, np.nan)
    np.testing.assert_allclose(expected_calibration_error(hole, y, where), expected, rtol=1e-6)
    ours = fit_temperature(np.where(where, logits, np.nan), y, where)
    np.testing.assert_allclose(ours, temperature, rtol=1e-5)
    both = pair_calibration_error(np.where(where, logits, np.nan), 0 * logits, where)
    np.testing.assert_allclose(both, pair_calibration_error(logits[where], 0 * logits[where]), rtol=1e-5)
    with pytest.raises(ValueError, match="expected one shape"):
        expected_calibration_error(p, y[:1])
    with pytest.raises(ValueError, match="bins"):
        expected_calibration_error(p, y, bins=0)
