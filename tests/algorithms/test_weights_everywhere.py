"""One weight of a row, in every algorithm: absence, repetition, scale and order."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpref import losses
from jaxpref.algorithms import online, preference_iql, sft, spac
from jaxpref.algorithms.adversarial import adversarial
from jaxpref.algorithms.occupancy_matching import occupancy_matching
from jaxpref.judges import matrix_judge
from jaxpref.planning import TabularMDP
from jaxpref.policies.controllers import deterministic_controller
from jaxpref.policies.reward_functions import tabular_reward
from jaxpref.policies.reward_table import reward_table
from jaxpref.policies.states import state_table
from jaxpref.policies.tabular import tabular
from jaxpref.types import Completions, Segments

KEY = jax.random.key(0)
SGD = partial(optax.sgd, 0.1)
S, A, ROWS = 4, 3, 5
SIZES = {"observation_size": 2, "action_size": 1, "hidden": (4,)}


def world():
    transitions = np.random.default_rng(3).dirichlet(np.ones(S), (S, A))
    return TabularMDP(jnp.asarray(transitions, jnp.float32), jnp.zeros((S, A)), jnp.zeros(S, bool), 0.8)


def walks() -> Segments:
    """Demonstrations in a finite world, of different lengths."""
    rng = np.random.default_rng(0)
    states, actions = rng.integers(0, S, (ROWS, 1, 3)), rng.integers(0, A, (ROWS, 1, 3))
    mask = np.arange(3) < rng.integers(1, 4, (ROWS, 1, 1))
    return Segments(jnp.asarray(states), jnp.asarray(actions), jnp.asarray(mask))


def comparisons() -> Segments:
    """Pairs of segments of vectors, with soft preferences."""
    rng = np.random.default_rng(1)
    seen, done = rng.normal(size=(ROWS, 2, 4, 2)), rng.normal(size=(ROWS, 2, 4, 1))
    p = rng.uniform(size=ROWS)
    preferences = np.stack(
        [np.stack([np.full(ROWS, 0.5), p], -1), np.stack([1 - p, np.full(ROWS, 0.5)], -1)], 1
    )
    mask = np.arange(4) < rng.integers(2, 5, (ROWS, 2, 1))
    seen, done, preferences = (jnp.asarray(x, jnp.float32) for x in (seen, done, preferences))
    return Segments(seen, done, jnp.asarray(mask), preferences=preferences)


def pairs() -> Completions:
    """Pairs of one token each."""
    rng = np.random.default_rng(2)
    tokens = np.stack([rng.permutation(3)[:2] for _ in range(ROWS)])[..., None]
    return Completions(
        jnp.asarray(rng.integers(0, 2, (ROWS, 1))),
        jnp.ones((ROWS, 1), bool),
        jnp.asarray(tokens),
        jnp.ones((ROWS, 2, 1), bool),
    )


def dice():
    return matrix_judge(
        lambda record: record.response_tokens[..., 0], ((0.5, 0.7, 0.2), (0.3, 0.5, 0.9), (0.8, 0.1, 0.5))
    )


STATES, TABLE = state_table(states=S, actions=A), tabular(prompts=2, vocab=3)
PAIR = ({"policy": 1.0},) * 2
FINITE = {"world": world, "optimizer": SGD}
CASES = {
    "sft": (STATES, sft(STATES, optimizer=SGD), walks),
    "occupancy_matching": (STATES, occupancy_matching(STATES, **FINITE), walks),
    "adversarial": (
        STATES,
        adversarial(STATES, rewards=partial(tabular_reward, states=S, actions=A), **FINITE),
        walks,
    ),
    "preference_iql": (
        deterministic_controller(**SIZES),
        preference_iql(deterministic_controller(**SIZES), optimizer=SGD, reward_steps=1, **SIZES),
        comparisons,
    ),
    "online, every pair": (
        TABLE,
        online(
            TABLE,
            loss=losses.online_ipo,
            optimizer=SGD,
            sample_from=PAIR,
            max_tokens=1,
            judge=dice,
            exact=True,
        ),
        pairs,
    ),
    "spac, every sample": (
        TABLE,
        spac(
            TABLE,
            optimizer=SGD,
            critic=partial(reward_table, prompts=2, vocab=3),
            critic_optimizer=SGD,
            max_tokens=1,
            exact=True,
        ),
        pairs,
    ),
}


def rows(batch, index, weights):
    """The rows of these numbers with these weights; -1 is a row that only pads."""
    index = jnp.asarray(index)
    taken = jax.tree.map(lambda x: x[index], batch)
    name = "step_mask" if isinstance(batch, Segments) else "response_mask"
    mask = getattr(taken, name) & (index >= 0)[:, None, None]
    return dataclasses.replace(taken, **{name: mask}, columns={"weights": jnp.asarray(weights, jnp.float32)})


@pytest.mark.parametrize("case", CASES)
def test_weights_mean_the_same_to_every_algorithm(case):
    """Three steps: metrics of each, the state at the end, and what an evaluation says of it."""
    policy, algorithm, build = CASES[case]
    start, batch = algorithm.init(policy.init(KEY)), build()

    @jax.jit
    def run(batch):
        state, history = start, []
        for _ in range(3):
            record, drawn = (batch, {}) if algorithm.collect is None else algorithm.collect(state, batch, KEY)
            state, metrics = algorithm.step(state, record, KEY)
            history.append(metrics | drawn)
        history.append(algorithm.evaluate(state, record, KEY))
        means = [{n: m.value for n, m in one.items() if n != "num_tokens"} for one in history]
        return means, state

    def assert_same(one, other):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), run(one), run(other))

    weights = np.array([1.0, 0.5, 2.0, 0.25, 1.5])
    plain = rows(batch, [0, 1, 2, 3, 4], weights)
    assert_same(rows(batch, [0, 1, 2, 3, 4], 0.01 * weights), plain)
    assert_same(rows(batch, [3, 1, 4, 0, 2], weights[[3, 1, 4, 0, 2]]), plain)
    assert_same(
        rows(batch, [0, 1, 2, 3, 4], weights * [1, 0, 1, 1, 0]), rows(batch, [0, -1, 2, 3, -1], weights)
    )
    assert_same(rows(batch, [0, 1, 2, -1, -1], [1, 2, 1, 1, 1]), rows(batch, [0, 1, 1, 2, -1], np.ones(5)))
    moved = jax.tree.leaves(
        jax.tree.map(lambda a, b: jnp.abs(a - b).max(), run(plain)[1].params, start.params)
    )
    assert max(map(float, moved)) > 1e-4
    ones = run(rows(batch, [0, 1, 2, 3, 4], np.ones(5)))[1].params
    differ = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), run(plain)[1].params, ones))
    assert max(map(float, differ)) > 1e-5, "the weights do something"
