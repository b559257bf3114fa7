"""Every method of `experiments/online_small.py` traced on tiny shapes, nothing compiled: what is drawn,
judged, built and asked for by the losses fits together."""

import dataclasses
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import config
from jaxpref.judges import ordering_judge, rule_scorer
from jaxpref.models.sizes import tiny
from jaxpref.selection import max_min_rated
from jaxpref.types import Completions

FILE = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "online_small.py"
B, R = 4, 3
# Responses that the update learns from, of each prompt.
METHODS = {
    "experiment": 2,
    "xpo": 2,
    "iterative_dpo": 2,
    "sppo": 2,
    "spin": 2,
    "reinforce": 1,
    "rloo": 4,
    "grpo": 4,
    "ppo": 1,
}
# Drawn by a copy from before, so the KL of the policy itself cannot be read off the samples.
NOT_ITS_OWN = {"iterative_dpo", "sppo", "spin"}


def _length():
    return rule_scorer(lambda record: record.lengths.astype(jnp.float32))


def _longer():
    return ordering_judge(_length())


@pytest.mark.parametrize("method", METHODS)
def test_method_traces(method):
    experiment = config.load(f"{FILE}:{method}")
    policy = partial(experiment.policy, sizes=partial(tiny, vocab=24, embed=8, layers=1, heads=2))()
    # The checker reads values on the host, so it cannot be traced; a rule about lengths can.
    found = experiment.stages[-1].algorithm.keywords
    stand_ins = {k: v for k, v in {"judge": _longer, "scorer": _length}.items() if found.get(k)}
    stage = experiment.stages[-1]
    small = partial(stage.algorithm, max_tokens=R, **stand_ins)
    algorithm = dataclasses.replace(stage, algorithm=small).build(policy)
    tokens = jnp.ones((B, 2, R), jnp.int32)
    batch = Completions(
        jnp.ones((B, 2), jnp.int32), jnp.ones((B, 2), bool), tokens, jnp.ones(tokens.shape, bool)
    )

    def update(batch, key):
        state = algorithm.init(policy.init(key))
        record, drawn = algorithm.collect(state, batch, key)
        return state, record, drawn, *algorithm.step(state, record, key)

    before, record, drawn, after, metrics = jax.eval_shape(update, batch, jax.random.key(0))
    assert record.response_tokens.shape == (B, METHODS[method], R)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert {"loss", "grad_norm"} <= metrics.keys()
    assert ("objective/kl" in metrics) == (method not in NOT_ITS_OWN)
    assert "response_length" in drawn


def test_best_and_worst_with_win_rates_among_all():
    """By hand: one beats two and three, two beats three; the response itself counts one half."""
    tokens = jnp.arange(3)[None, :, None]
    beats = jnp.array([[[0.5, 1.0, 1.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.5]]])
    record = Completions(
        jnp.zeros((1, 1), jnp.int32),
        jnp.ones((1, 1), bool),
        tokens,
        jnp.ones((1, 3, 1), bool),
        preferences=beats,
    )
    pair = max_min_rated(record, jax.random.key(0))
    np.testing.assert_array_equal(pair.response_tokens[0, :, 0], [0, 2])
    np.testing.assert_allclose(pair.columns["scores"], [[2.5 / 3, 0.5 / 3]], rtol=1e-6)
