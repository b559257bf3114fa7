"""Merging parts of unequal size gives the mean of the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.metrics import Mean, merge, summed, to_floats, weighted_mean


def test_merging_unequal_parts_is_exact():
    values, where = jnp.arange(10.0), jnp.arange(10) % 3 > 0
    whole = weighted_mean(values, where)
    parts = merge({"x": weighted_mean(values[:3], where[:3])}, {"x": weighted_mean(values[3:], where[3:])})
    assert parts["x"].value == whole.value
    np.testing.assert_allclose(whole.value, np.mean([v for v in range(10) if v % 3]))


def test_masked_values_may_be_anything():
    assert weighted_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, False])).value == 1


def test_a_weighted_mean_is_numpys_also_of_rows_with_axes_of_their_own():
    values, weights = np.arange(12.0).reshape(4, 3) ** 2, np.array([0.5, 0.0, 2.0, 0.25])
    found = weighted_mean(jnp.asarray(values, jnp.float32), jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(found.value, np.average(values, 0, weights), rtol=1e-6)
    assert found.count == weights.sum()


def test_nothing_counted_is_zero_and_sums_add_up():
    assert weighted_mean(jnp.ones(2), jnp.zeros(2, bool)).value == 0
    tokens = {"num_tokens": summed(jnp.array([3, 4]))}
    assert to_floats(merge(tokens, tokens)) == {"num_tokens": 14.0}


def test_names_must_agree():
    with pytest.raises(ValueError, match="'b'"):
        merge({"a": Mean(jnp.ones(()), jnp.ones(()))}, {"b": Mean(jnp.ones(()), jnp.ones(()))})
