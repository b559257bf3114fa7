"""Attention over several sets of keys equals one softmax over their concatenation."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.models.attention import Keys, attend

B, K, Q, S, P, N, G, H = 2, 3, 4, 5, 6, 2, 2, 8


def _random(*shape, scale=1.0, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.float32)


def _parts(seed=1):
    rng = np.random.default_rng(seed)
    own_mask, prompt_mask = rng.random((1, Q, S)) < 0.5, rng.random((B, 1, P)) < 0.5
    own_mask[..., 0] = True  # every query reads something
    own = Keys(_random(B, K, N, S, H, seed=2), _random(B, K, N, S, H, seed=3), jnp.asarray(own_mask))
    return own, Keys(_random(B, N, P, H, seed=4), _random(B, N, P, H, seed=5), jnp.asarray(prompt_mask))


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("query_size", [1.0, 1e4], ids=["small", "scores_of_1e4"])
def test_equals_one_softmax(soft_cap, query_size):
    own, shared = _parts()
    queries = _random(B, K, Q, N, G, H, scale=query_size)
    given = attend(queries, [own, shared], scale=0.3, soft_cap=soft_cap)
    for b, k, q, n, g in np.ndindex(B, K, Q, N, G):
        keys = np.concatenate([own.keys[b, k, n], shared.keys[b, n]]).astype(np.float64)
        values = np.concatenate([own.values[b, k, n], shared.values[b, n]])
        mask = np.concatenate([own.mask[0, q], shared.mask[b, 0]])
        scores = keys @ np.asarray(queries[b, k, q, n, g], np.float64) * 0.3
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        weights = np.where(
            mask, np.exp(scores - scores[mask].max(), where=mask, out=np.zeros_like(scores)), 0
        )
        np.testing.assert_allclose(
            given[b, k, q, n, g], weights / weights.sum() @ values, rtol=1e-4, atol=1e-4
        )


def test_masked_keys_are_not_read():
    own, shared = _parts()
    queries = _random(B, K, Q, N, G, H)
    expected = attend(queries, [own, shared], scale=0.3)
    hidden = ~shared.mask[:, 0][:, None, :, None]
    poisoned = shared._replace(
        keys=jnp.where(hidden, 1e6, shared.keys), values=jnp.where(hidden, 1e6, shared.values)
    )
    np.testing.assert_array_equal(attend(queries, [own, poisoned], scale=0.3), expected)
