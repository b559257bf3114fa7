"""Controllers: densities against scipy and numpy, limits of actions, shapes, and what `act` draws."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpref.data import SegmentRecords
from jaxpref.policies.controllers import (
    LIMIT,
    categorical_controller,
    deterministic_controller,
    gaussian_controller,
)

SIZES = {"observation_size": 4, "action_size": 2, "hidden": (8, 8)}
RNG = np.random.default_rng(0)
OBSERVATIONS = RNG.normal(size=(3, 2, 5, 4)).astype(np.float32)
ACTIONS = RNG.uniform(-1, 1, (3, 2, 5, 2)).astype(np.float32)
ACTIONS[0, 0, 0] = (1.0, -1.0)
LENGTHS = np.array([[5, 3], [1, 5], [2, 4]])


def _batch(actions=ACTIONS):
    return SegmentRecords(OBSERVATIONS, actions, LENGTHS).rows(np.arange(3))


def _network(params, x):
    """The same perceptron in numpy, float64."""
    for i in range(3):
        layer = {n: np.asarray(v, np.float64) for n, v in params[f"layer_{i}"].items()}
        x = x @ layer["kernel"] + layer["bias"]
        x = np.maximum(x, 0) if i < 2 else x
    return x


def test_gaussian_log_probs_are_those_of_scipy():
    policy = gaussian_controller(**SIZES, initial_log_std=-0.7)
    params = policy.init(jax.random.key(0)) | {"log_std": jnp.array([-0.7, 0.4])}
    means = np.tanh(_network(params, OBSERVATIONS))
    actions = np.clip(ACTIONS, -LIMIT, LIMIT)
    expected = stats.norm(means, np.exp([-0.7, 0.4])).logpdf(actions).sum(-1)
    mask = np.arange(5) < LENGTHS[..., None]
    ours = policy.token_logps(params, _batch())
    np.testing.assert_allclose(ours, np.where(mask, expected, 0), rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(np.asarray(ours)[~mask], 0)
    # A width beyond its range is held there.
    wide, held = (policy.token_logps(params | {"log_std": jnp.full(2, x)}, _batch()) for x in (9.0, 2.0))
    np.testing.assert_array_equal(wide, held)


def test_a_deterministic_controller_is_a_squared_distance():
    policy = deterministic_controller(**SIZES)
    params = policy.init(jax.random.key(1))
    means = np.tanh(_network(params, OBSERVATIONS))
    expected = -((means - np.clip(ACTIONS, -LIMIT, LIMIT)) ** 2).sum(-1)
    mask = np.arange(5) < LENGTHS[..., None]
    ours = policy.token_logps(params, _batch())
    np.testing.assert_allclose(ours, np.where(mask, expected, 0), rtol=2e-5, atol=2e-6)
    for key in (None, jax.random.key(0)):
        np.testing.assert_allclose(policy.act(params, OBSERVATIONS[:, 0, 0], key), means[:, 0, 0], atol=1e-6)


def test_a_normal_distribution_of_variance_one_half_has_the_same_slopes():
    gaussian, deterministic = gaussian_controller(**SIZES), deterministic_controller(**SIZES)
    params = deterministic.init(jax.random.key(1))

    def slopes(policy, more):
        return jax.grad(lambda p: policy.token_logps(p | more, _batch()).sum())(params)

    ours = slopes(deterministic, {})
    theirs = slopes(gaussian, {"log_std": jnp.full(2, np.log(0.5**0.5))})
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_categorical_log_probs_are_a_softmax():
    policy = categorical_controller(observation_size=4, actions=3, hidden=(8, 8))
    params = policy.init(jax.random.key(2))
    actions = RNG.integers(0, 3, (3, 2, 5))
    logits = _network(params, OBSERVATIONS)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logps, actions[..., None], -1)[..., 0]
    mask = np.arange(5) < LENGTHS[..., None]
    np.testing.assert_allclose(
        policy.token_logps(params, _batch(actions)), np.where(mask, expected, 0), rtol=2e-5, atol=2e-6
    )
    np.testing.assert_array_equal(policy.act(params, OBSERVATIONS, None), logits.argmax(-1))
    drawn = policy.act(params, jnp.broadcast_to(OBSERVATIONS[0, 0, 0], (4000, 4)), jax.random.key(0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, np.exp(logps[0, 0, 0]), atol=0.03)


def test_drawn_actions_have_the_mean_and_width_and_stay_within_limits():
    policy = gaussian_controller(**SIZES, initial_log_std=-2.0)
    params = policy.init(jax.random.key(0))
    at = jnp.broadcast_to(OBSERVATIONS[0, 0, 0], (4000, 4))
    drawn = np.asarray(policy.act(params, at, jax.random.key(1)))
    np.testing.assert_allclose(drawn.mean(0), policy.act(params, at[0], None), atol=0.01)
    np.testing.assert_allclose(drawn.std(0), np.exp(-2.0), rtol=0.05)
    wide = policy.act(params | {"log_std": jnp.full(2, 2.0)}, at, jax.random.key(1))
    assert np.abs(wide).max() == np.float32(LIMIT)


def test_params_match_their_axes_and_start_orthogonal():
    for policy in (gaussian_controller(**SIZES), deterministic_controller(**SIZES)):
        params = policy.init(jax.random.key(0))
        ranks = jax.tree.map(len, policy.axes(), is_leaf=lambda x: isinstance(x, tuple))
        assert ranks == jax.tree.map(jnp.ndim, params)
        middle = np.asarray(params["layer_1"]["kernel"])
        np.testing.assert_allclose(middle.T @ middle, 2 * np.eye(8), atol=1e-5)
        assert policy.flops(_batch()) == 2 * (4 * 8 + 8 * 8 + 8 * 2) * 30
        assert policy.vocab_size == 0


def test_sizes_that_do_not_fit_are_named():
    policy = deterministic_controller(**SIZES)
    params = policy.init(jax.random.key(0))
    with pytest.raises(ValueError, match="rows of 3 numbers, expected 4"):
        policy.act(params, np.zeros(3, np.float32), None)
    with pytest.raises(ValueError, match="actions of 3 numbers, expected 2"):
        policy.token_logps(params, dataclasses.replace(_batch(), actions=np.zeros((3, 2, 5, 3), np.float32)))
    with pytest.raises(ValueError, match="sizes of 1 or more"):
        deterministic_controller(observation_size=0, action_size=1)
    with pytest.raises(ValueError, match="initial_log_std"):
        gaussian_controller(**SIZES, initial_log_std=3.0)
