"""Draws on the circle against the exact posterior."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.algorithms.reward_posterior import reward_posterior
from jaxpref.data.behaviour.demonstrations import demonstrations
from jaxpref.losses.trajectories import ranking_log_likelihood
from jaxpref.planning import deterministic_mdp
from jaxpref.policies.planned import log_policy, paid, planned
from jaxpref.policies.reward_functions import linear_reward


def test_draws_have_the_exact_posterior_on_the_circle():
    generator = np.random.default_rng(0)
    better, worse = jnp.asarray(generator.normal(size=(2, 6, 2)), jnp.float32)
    likelihood = partial(
        ranking_log_likelihood, chosen_features=better, rejected_features=worse, confidence=1.5
    )
    draw = partial(reward_posterior, likelihood, size=2, num_samples=8000, width=1.0, burn_in=100, thin=2)
    chain = jax.jit(draw)(jax.random.key(0))
    np.testing.assert_allclose(jnp.linalg.norm(chain.weights, axis=-1), 1, rtol=1e-5)
    angles = np.linspace(-np.pi, np.pi, 2001)[:-1]
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    density = np.exp(jax.vmap(likelihood)(jnp.asarray(circle, jnp.float32)))
    density /= density.sum()
    np.testing.assert_allclose(chain.weights.mean(0), density @ circle, atol=0.03)
    found = np.arctan2(*np.asarray(chain.weights).T[::-1])
    shares = np.histogram(found, np.linspace(-np.pi, np.pi, 9))[0] / len(found)
    expected = density.reshape(8, -1).sum(-1)
    np.testing.assert_allclose(shares, expected, atol=0.03)
    assert expected.max() > 0.2
    np.testing.assert_allclose(
        chain.log_likelihoods[-5:], jax.vmap(likelihood)(chain.weights[-5:]), rtol=1e-5
    )
    assert 0.1 < float(chain.accepted) < 0.95


def test_draws_have_the_exact_posterior_on_the_square():
    """Weights of L1 length 1: every point of the square is as likely before anything is seen."""
    generator = np.random.default_rng(0)
    better, worse = jnp.asarray(generator.normal(size=(2, 6, 2)), jnp.float32)
    likelihood = partial(
        ranking_log_likelihood, chosen_features=better, rejected_features=worse, confidence=2.0
    )
    draw = partial(
        reward_posterior, likelihood, size=2, num_samples=8000, width=0.05, norm="l1", burn_in=500, thin=40
    )
    chain = jax.jit(draw)(jax.random.key(0))
    np.testing.assert_allclose(jnp.abs(chain.weights).sum(-1), 1, rtol=1e-5)
    x = np.linspace(-1, 1, 1001)[:-1] + 0.001
    square = np.concatenate([np.stack([x, sign * (1 - np.abs(x))], 1) for sign in (1, -1)])
    density = np.exp(jax.vmap(likelihood)(jnp.asarray(square, jnp.float32)))
    density /= density.sum()
    np.testing.assert_allclose(chain.weights.mean(0), density @ square, atol=0.03)
    for of in range(2):
        edges = np.linspace(-1, 1, 6)
        shares = np.histogram(chain.weights[:, of], edges)[0] / 8000
        expected = np.histogram(square[:, of], edges, weights=density)[0]
        np.testing.assert_allclose(shares, expected, atol=0.03)
    assert expected.max() > 0.3


def test_no_likelihood_leaves_the_l1_sphere_uniform():
    """Three weights, every face and corner: eight triangles, on each of which |w| is Dirichlet(1, 1, 1)."""
    draw = partial(
        reward_posterior, lambda w: 0.0 * w.sum(), size=3, num_samples=8000, width=0.05, norm="l1", thin=40
    )
    weights = np.asarray(jax.jit(draw)(jax.random.key(1)).weights)
    np.testing.assert_allclose(np.abs(weights).mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((weights**2).mean(0), 1 / 6, atol=0.02)
    faces = (weights > 0) @ np.array([1, 2, 4])
    np.testing.assert_allclose(np.bincount(faces, minlength=8) / 8000, 1 / 8, atol=0.03)


def test_bayesian_irl_has_a_posterior_too():
    """Demonstrations of one hidden reward in a world of four states: the chain's mean and the circle's."""
    generator = np.random.default_rng(1)
    successors = generator.integers(0, 4, (4, 2))
    phi = 2 * generator.normal(size=(4, 2, 2))
    world = partial(deterministic_mdp, successors, np.zeros((4, 2)), np.zeros(4, bool))
    policy = planned(
        world=world, rewards=partial(linear_reward, features=lambda: phi), horizon=4, optimal=True
    )
    truth = np.array([0.6, -0.8])
    shown = jnp.exp(
        log_policy(paid(world(), jnp.asarray(phi @ truth, jnp.float32)), 1.0, horizon=4, optimal=True)
    )
    shown = np.asarray(shown / shown.sum(-1, keepdims=True))
    walks = demonstrations(world(), shown, start=np.full(4, 0.25), num=40, steps=4)
    batch = jax.tree.map(jnp.asarray, walks.rows(np.arange(40)))

    def likelihood(weights):
        return policy.token_logps({"weights": weights}, batch).sum()

    draw = partial(reward_posterior, likelihood, size=2, num_samples=3000, width=0.5, burn_in=100)
    chain = jax.jit(draw)(jax.random.key(0))
    angles = np.linspace(-np.pi, np.pi, 721)[:-1]
    circle = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], 1), jnp.float32)
    exact = jax.nn.softmax(jax.jit(jax.vmap(likelihood))(circle)) @ circle
    np.testing.assert_allclose(chain.weights.mean(0), exact, atol=0.05)
    assert float(exact @ truth) > 0.8


@pytest.mark.parametrize("arguments", [{"size": 1}, {"num_samples": 0}, {"width": 0.0}, {"thin": 0}])
def test_bad_chains_are_errors(arguments):
    """And a norm that is none of the two."""
    with pytest.raises(ValueError, match="expected norm 'l2' or 'l1', got 'max'"):
        reward_posterior(lambda w: w.sum(), jax.random.key(0), size=2, num_samples=1, norm="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="reward_posterior: expected size of 2 or more"):
        reward_posterior(lambda w: w.sum(), jax.random.key(0), **{"size": 2, "num_samples": 1} | arguments)
