"""A family of one mode on a target of two: learning from own samples picks one, imitation covers both
(a claim of arXiv:2404.14367, with exact expectations)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpref import losses
from jaxpref.algorithms import offline, online
from jaxpref.judges import rule_scorer
from jaxpref.policies.tabular import tabular
from jaxpref.types import Completions

ACTIONS = jnp.arange(21.0)
START = {"centre": jnp.float32(8.0), "log_width": jnp.float32(0.0)}  # wide, it would stay wide
HUMPS = [jnp.exp(-((ACTIONS - at) ** 2) / 2) for at in (5.0, 15.0)]
TARGET = 0.5 * HUMPS[0] + 0.5 * HUMPS[1]
TARGET = TARGET / TARGET.sum()


def _logps(params):
    return jax.nn.log_softmax(-((ACTIONS - params["centre"]) ** 2) / 2 * jnp.exp(-2 * params["log_width"]))


def _policy():
    table = tabular(prompts=1, vocab=len(ACTIONS))
    return table._replace(
        init=lambda key: START,
        token_logps=lambda params, batch: _logps(params)[batch.response_tokens],
        quantities=None,
    )


def _trained(algorithm, batch):
    def body(state, key):
        record = batch if algorithm.collect is None else algorithm.collect(state, batch, key)[0]
        return algorithm.step(state, record, key)[0], None

    keys = jax.random.split(jax.random.key(0), 400)
    state = jax.jit(lambda s: jax.lax.scan(body, s, keys)[0])(algorithm.init(START))
    policy = np.exp(np.asarray(_logps(state.params)))
    return (
        policy[:10].sum(),
        policy[11:].sum(),
        np.sqrt(policy @ (np.arange(21) - policy @ np.arange(21)) ** 2),
    )


def _rows(tokens, weights):
    n = len(tokens)
    return Completions(
        jnp.zeros((n, 1), jnp.int32),
        jnp.ones((n, 1), bool),
        jnp.asarray(tokens, jnp.int32)[:, None, None],
        jnp.ones((n, 1, 1), bool),
        columns={"weights": weights},
    )


def score():
    """E[score] - KL(pi || start) is -KL(pi || target)."""
    ratio = jnp.log(TARGET) - _logps(START)
    return rule_scorer(lambda record: ratio[record.response_tokens[..., 0]])


def test_own_samples_seek_a_mode_and_imitation_covers():
    build = dict(optimizer=partial(optax.adam, 0.05))
    reverse = online(
        _policy(),
        loss=partial(losses.reinforce, beta=1.0),
        sample_from=({"policy": 1.0},),
        max_tokens=1,
        scorer=score,
        exact=True,
        **build,
    )
    left, right, width = _trained(reverse, _rows([0], jnp.ones(1)))
    assert left > 0.99 > 0.01 > right
    assert abs(width - 1) < 0.05
    forward = offline(_policy(), loss=losses.sft, reference=None, **build)
    left, right, width = _trained(forward, _rows(np.arange(21), TARGET))
    assert min(left, right) > 0.4
    # The spread of the target, sqrt(1 + 5^2).
    assert width > 4.5
