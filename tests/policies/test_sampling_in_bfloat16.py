"""Draws from distributions in bfloat16 are those of float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref import selection
from jaxpref.policies.base import categorical
from jaxpref.types import Completions


def test_all_of_many_items_are_drawn():
    """300 draws of 50,000 equal items: that all are below 45,000 has a chance of 0.9^300 < 1e-13."""
    drawn = categorical(jax.random.key(0), jnp.zeros((300, 50_000), jnp.bfloat16))
    assert int(drawn.max()) >= 45_000


def test_a_rare_winner_is_as_rare_as_it_is_said_to_be():
    """20,000 tosses with P = 0.001, within four standard errors."""
    n = 20_000
    tokens = jnp.tile(jnp.array([[[1], [2]]]), (n, 1, 1))
    p = jnp.tile(jnp.array([[0.5, 0.001], [0.999, 0.5]]), (n, 1, 1)).astype(jnp.bfloat16)
    ones = jnp.ones((n, 1), jnp.int32)
    batch = Completions(ones, ones > 0, tokens, tokens > 0)
    pairs = selection.two_samples_drawn(dataclasses.replace(batch, preferences=p), jax.random.key(1))
    share = float(np.mean(np.asarray(pairs.response_tokens[:, 0, 0]) == 1))
    assert abs(share - float(p[0, 0, 1])) < 4 * np.sqrt(0.001 / n)
