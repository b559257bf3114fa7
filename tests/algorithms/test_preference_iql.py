"""A reward from preferences, and policy improvement on it: phases, order, and more than imitation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpref.algorithms import preference_iql, sft
from jaxpref.algorithms.optimizers import adamw, constant, lasting, warmup_linear
from jaxpref.data import Loader, SegmentRecords
from jaxpref.policies.controllers import deterministic_controller

SIZES = {"observation_size": 1, "action_size": 1, "hidden": (8,)}
OPTIMIZER = partial(adamw, schedule=partial(constant, value=1e-2), clip_norm=None)
FIRST = 60


def _records(n=128):
    """Nothing to see; actions are -0.5 or 0.5 for a whole segment or mixed, and more of 0.5 is preferred."""
    generator = np.random.default_rng(0)
    actions = generator.choice([-0.5, 0.5], (n, 2, 4, 1)).astype(np.float32)
    sums = actions.sum((2, 3))
    second = np.where(sums[:, 0] == sums[:, 1], 0.5, sums[:, 1] > sums[:, 0])
    return SegmentRecords.pairs(np.zeros((n, 2, 4, 1), np.float32), actions, second, np.full((n, 2), 4))


@pytest.fixture(scope="module")
def learnt():
    """States after every phase, and the metrics of the last step."""
    policy = deterministic_controller(**SIZES)
    algorithm = preference_iql(policy, optimizer=OPTIMIZER, reward_steps=FIRST, **SIZES)
    loader = Loader(_records(), batch_size=32, response_buckets=(4,))
    step = jax.jit(algorithm.step)
    state = start = algorithm.init(policy.init(jax.random.key(0)))
    half, metrics = None, {}
    for i in range(4 * FIRST):
        half = state if i == FIRST else half
        state, metrics = step(state, loader.batch(i), jax.random.key(i))
    return algorithm, policy, (start, half, state), {n: float(m.value) for n, m in metrics.items()}


def _equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_the_reward_comes_first_and_is_then_held(learnt):
    _, _, (start, half, end), metrics = learnt
    assert _equal((start.params, start.critics, start.targets), (half.params, half.critics, half.targets))
    assert not _equal(start.reward, half.reward)
    assert _equal(half.reward, end.reward)
    assert not _equal(half.params, end.params)
    assert not _equal(half.targets, end.targets)
    assert int(end.step) == 4 * FIRST
    assert metrics["reward/loss"] < 0.5
    assert metrics["critic/v_loss"] >= 0


def test_the_reward_prefers_what_is_preferred(learnt):
    algorithm, _, (_, _, end), _ = learnt
    records = _records()
    batch = records.rows(np.arange(len(records)))
    margins = np.diff(algorithm.rewards(end, batch), axis=1)[:, 0]
    second = records.preferences[:, 1, 0]
    assert (margins[second == 1] > 0).all()
    assert (margins[second == 0] < 0).all()
    np.testing.assert_allclose(margins[second == 0.5], 0, atol=1e-4)


def test_the_actor_leaves_imitation_behind(learnt):
    _, policy, (_, half, end), _ = learnt
    imitation = sft(policy, optimizer=OPTIMIZER)
    loader = Loader(_records().flat(), batch_size=64, response_buckets=(4,))
    state, step = imitation.init(half.params), jax.jit(imitation.step)
    for i in range(2 * FIRST):
        state, _ = step(state, loader.batch(i), jax.random.key(i))
    nothing = jnp.zeros(1)
    assert abs(float(policy.act(state.params, nothing, None)[0])) < 0.15
    assert float(policy.act(end.params, nothing, None)[0]) > 0.25


def test_schedules_end_with_the_updates_of_their_optimizers():
    """Reward: the first 3 of 10 steps; actor and critics: the other 7."""
    policy = deterministic_controller(**SIZES)
    rate = partial(warmup_linear, peak=1e-2, warmup_steps=0, end=1e-3)
    optimizer = partial(adamw, schedule=rate, clip_norm=None)
    with lasting(10):
        algorithm = preference_iql(policy, optimizer=optimizer, reward_steps=3, **SIZES)
    state = algorithm.init(policy.init(jax.random.key(0)))
    batch, step = _records(8).rows(np.arange(8)), jax.jit(algorithm.step)
    rates = []
    for _ in range(11):
        state, _ = step(state, batch, jax.random.key(0))
        states = (state.reward_opt_state, state.opt_state, state.critics_opt_state)
        rates.append([float(optax.tree.get(s, "hyperparams")["learning_rate"]) for s in states])
    found = np.array(rates)
    np.testing.assert_allclose(found[:3, 0], 1e-2 - 9e-3 * np.arange(3) / 3, rtol=1e-5)
    assert (found[3:, 0] == found[2, 0]).all()
    for column in (1, 2):
        np.testing.assert_allclose(found[3:10, column], 1e-2 - 9e-3 * np.arange(7) / 7, rtol=1e-5)
    np.testing.assert_allclose(found[10, 1:], 1e-3, rtol=1e-5)


def test_padding_changes_nothing():
    policy = deterministic_controller(**SIZES)
    algorithm = preference_iql(policy, optimizer=OPTIMIZER, reward_steps=1, **SIZES)
    state = algorithm.init(policy.init(jax.random.key(0)))
    records = dataclasses.replace(_records(8), step_lengths=np.full((8, 2), 3))
    evaluate = jax.jit(algorithm.evaluate)
    short = evaluate(state, records.rows(np.arange(8)), jax.random.key(0))
    long = evaluate(state, records.rows([*range(8), -1, -1], response_length=4), jax.random.key(0))
    for name in short:
        np.testing.assert_allclose(short[name].value, long[name].value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expectile": 1.0}, "expectile"),
        ({"temperature": 0.0}, "temperature"),
        ({"reward_steps": 0}, "reward_steps: expected 1 or more"),
        ({"hidden": (0,)}, "sizes of 1 or more"),
    ],
)
def test_bad_settings_are_named(change, message):
    policy = deterministic_controller(**SIZES)
    with pytest.raises(ValueError, match=message):
        preference_iql(policy, **{"optimizer": OPTIMIZER, "reward_steps": 1} | SIZES | change)
