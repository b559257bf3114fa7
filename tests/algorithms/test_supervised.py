"""Token NLL over the global batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import pairs, scored_table_policy

from jaxpref.algorithms import sft
from jaxpref.metrics import to_floats
from jaxpref.types import Completions

POLICY = scored_table_policy(5)
KEY = jax.random.key(1)


def _ragged() -> Completions:
    tokens = jnp.arange(24).reshape(4, 1, 6) % 5
    mask = jnp.asarray(np.arange(6) < np.array([6, 1, 3, 0])[:, None, None])
    return Completions(jnp.array([[0], [1], [0], [1]]), jnp.ones((4, 1), bool), tokens, mask)


def test_loss_is_the_mean_over_tokens_of_the_whole_batch():
    algorithm, params, batch = sft(POLICY, optimizer=partial(optax.sgd, 0.1)), POLICY.init(KEY), _ragged()
    logps = POLICY.token_logps(params, batch)
    metrics = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))
    np.testing.assert_allclose(metrics["loss"], -logps.sum() / 10, rtol=1e-6)
    assert metrics["num_tokens"] == 14  # four prompt tokens and ten scored ones


def test_microbatches_of_unequal_lengths_equal_the_full_batch():
    params, results = POLICY.init(KEY), []
    for n in (1, 2, 4):
        algorithm = sft(POLICY, optimizer=partial(optax.sgd, 0.1), microbatches=n)
        state, _ = algorithm.step(algorithm.init(params), _ragged(), KEY)
        results.append(state.params["logits"])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-6, atol=1e-7)


def test_the_optimum_on_a_table_is_the_empirical_distribution():
    batch = pairs([0, 0, 0, 1], [1, 1, 2, 3], [1, 4, 2, 3])
    algorithm = sft(POLICY, optimizer=partial(optax.adam, optax.cosine_decay_schedule(0.3, 400)))
    state, step = algorithm.init(POLICY.init(KEY)), jax.jit(algorithm.step)
    for _ in range(400):
        state, _ = step(state, batch, KEY)
    learned = jax.nn.softmax(state.params["logits"], -1)
    np.testing.assert_allclose(learned[0], [0, 3 / 6, 2 / 6, 0, 1 / 6], atol=2e-3)
    assert learned[1, 3] == pytest.approx(1, abs=2e-3)
