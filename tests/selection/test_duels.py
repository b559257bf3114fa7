"""Dueling bandits find the best arm: regret falls, and faster than by uniform duels (toy E13)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.selection import colstim, fit_duels, thompson_duel, ucb_duel
from jaxpref.selection.duels import DuelFit

THETA = np.array([1.0, 0.5, 0.2])
ROUNDS, SEEDS, ARMS = 240, 8, 10


def test_the_fit_is_the_maximum_of_the_posterior():
    rng = np.random.default_rng(0)
    x, wins = rng.normal(size=(40, 3)), (rng.uniform(size=40) < 0.6).astype(float)
    where, ridge = np.arange(40) < 30, 0.5
    with enable_x64():
        fits = jax.jit(partial(fit_duels, ridge=ridge, steps=30))
        # From 0, and from where the curve is flat and a full Newton step leads away.
        near, far = (fits(x, wins, where, start=jnp.asarray(s)) for s in ([0.0, 0, 0], [-60.0, 80, 40]))
    near, far = jax.tree.map(np.asarray, (near, far))
    p = 1 / (1 + np.exp(-x @ near.theta))
    np.testing.assert_allclose(x.T @ (where * (wins - p)), ridge * near.theta, atol=1e-10)
    hessian = x.T @ ((where * p * (1 - p))[:, None] * x) + ridge * np.eye(3)
    np.testing.assert_allclose(near.precision, hessian, rtol=1e-8)
    np.testing.assert_allclose(far.theta, near.theta, atol=1e-8)
    with pytest.raises(ValueError, match="ridge"):
        fit_duels(jnp.asarray(x), jnp.asarray(wins), ridge=0.0)


def test_thompson_draws_from_the_posterior():
    """Two arms: a draw prefers arm 0 with probability Phi(u / s), u = theta . x, s^2 = x P^-1 x."""
    x, theta = np.array([1.0, 0.9]), np.array([0.4, -0.1])
    precision = np.array([[3.0, 2.0], [2.0, 2.0]])
    arms, fit = jnp.asarray([x, 0 * x], jnp.float32), DuelFit(jnp.asarray(theta), jnp.asarray(precision))
    draws = jax.jit(jax.vmap(lambda key: thompson_duel(arms, fit, key)))
    drawn = np.asarray(draws(jax.random.split(jax.random.key(0), 4000)))
    z = x @ theta / np.sqrt(x @ np.linalg.inv(precision) @ x)
    expected = (1 + math.erf(z / math.sqrt(2))) / 2
    assert np.abs((drawn == 0).mean(1) - expected).max() < 4 * 0.5 / np.sqrt(4000)
    assert abs(np.corrcoef(drawn)[0, 1]) < 4 / np.sqrt(4000), "two draws, not one"


def test_limits_of_the_duels():
    rng = np.random.default_rng(1)
    arms, theta = rng.normal(size=(6, 3)).astype(np.float32), np.array([1.0, -0.5, 0.3], np.float32)
    precision = np.diag([2.0, 9.0, 4.0]).astype(np.float32)
    fit, greedy = DuelFit(jnp.asarray(theta), jnp.asarray(precision)), int((arms @ theta).argmax())

    @jax.jit
    def duels(arms, key):
        return (
            thompson_duel(arms, fit, key, scale=0.0),
            ucb_duel(arms, fit, key, width=0.0),
            colstim(arms, fit, key, width=0.0, noise=0.0),
            ucb_duel(arms, fit, key, width=100.0),
        )

    *sure, wide = np.asarray(duels(jnp.asarray(arms), jax.random.key(1))).tolist()
    assert sure == [[greedy, greedy]] * 3
    norms = (((arms - arms[greedy]) ** 2) / np.diag(precision)).sum(-1)
    assert wide == [greedy, norms.argmax()]


def _uniform(arms, fit, key):
    del fit
    return tuple(jax.random.randint(key, (2,), 0, len(arms)))


def _regrets(duel):
    """Mean over seeds of u* - (u_i + u_j) / 2 in each round, and of u* - max(u_i, u_j)."""
    theta = jnp.asarray(THETA, jnp.float32)

    def game(key):
        arms_key, play = jax.random.split(key)
        arms = jax.random.normal(arms_key, (ARMS, 3))
        utilities = arms @ theta

        def play_round(history, t):
            differences, wins, last = history
            draw, label = jax.random.split(jax.random.fold_in(play, t))
            fit = fit_duels(differences, wins, jnp.arange(ROUNDS) < t, steps=2, start=last)
            i, j = duel(arms, fit, draw)
            won = jax.random.bernoulli(label, jax.nn.sigmoid(utilities[i] - utilities[j]))
            history = differences.at[t].set(arms[i] - arms[j]), wins.at[t].set(won), fit.theta
            best, pair = utilities.max(), jnp.array([utilities[i], utilities[j]])
            return history, jnp.array([best - pair.mean(), best - pair.max()])

        start = (jnp.zeros((ROUNDS, 3)), jnp.zeros(ROUNDS), jnp.zeros(3))
        return jax.lax.scan(play_round, start, jnp.arange(ROUNDS))[1]

    return np.asarray(jax.jit(jax.vmap(game))(jax.random.split(jax.random.key(7), SEEDS))).mean(0)


DUELS = {
    "thompson": thompson_duel,
    "ucb": ucb_duel,
    "colstim": partial(colstim, noise=0.5),
}


@pytest.fixture(scope="module")
def uniform():
    return _regrets(_uniform)


@pytest.mark.parametrize("name", DUELS)
def test_regret_falls_and_beats_uniform_duels(name, uniform):
    regret = _regrets(DUELS[name])
    early, late = regret[:30].mean(0), regret[-60:].mean(0)
    assert late[0] < 0.5 * early[0]
    assert late[0] < 0.15 * uniform[-60:].mean(0)[0]
    assert late[1] < 0.05, "weak regret per round goes to 0"
    assert uniform[-60:].mean(0)[0] > 0.8 * uniform[:30].mean(0)[0], "uniform duels do not learn"
