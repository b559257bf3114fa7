"""Dueling bandits find the best arm: regret falls, and faster than by uniform duels (toy E13)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.selection import colstim, fit_duels, thompson_duel, ucb_duel

THETA = np.array([1.0, 0.5, 0.2])
ROUNDS, SEEDS, ARMS = 240, 8, 10


def test_the_fit_is_the_maximum_of_the_posterior():
    rng = np.random.default_rng(0)
    with enable_x64():
        x = jnp.asarray(rng.normal(size=(40, 3)))
        wins = jnp.asarray((rng.uniform(size=40) < 0.6).astype(float))
        where = jnp.asarray(np.arange(40) < 30)
        fit = fit_duels(x, wins, where, ridge=0.5)

        def loss(theta):
            z = x @ theta
            nll = jax.nn.softplus(z) - wins * z
            return jnp.where(where, nll, 0).sum() + 0.25 * (theta**2).sum()

        assert np.abs(jax.grad(loss)(fit.theta)).max() < 1e-10
        np.testing.assert_allclose(fit.precision, jax.hessian(loss)(fit.theta), rtol=1e-8)
        # From where the curve is flat, too.
        far = fit_duels(x, wins, where, ridge=0.5, steps=30, start=jnp.array([-60.0, 80, 40]))
        np.testing.assert_allclose(far.theta, fit.theta, atol=1e-8)
    with pytest.raises(ValueError, match="ridge"):
        fit_duels(x, wins, ridge=0.0)


def test_thompson_draws_from_the_posterior():
    """Two arms: the first draw prefers arm 0 with probability Phi(u / s), u = theta . x, s^2 = x P^-1 x."""
    arms = jnp.array([[1.0, 0.3], [0.0, 0.0]])
    precision = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    fit = fit_duels(jnp.zeros((1, 2)), jnp.zeros(1))._replace(
        theta=jnp.array([0.4, -0.1]), precision=precision
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    first, second = jax.vmap(lambda key: thompson_duel(arms, fit, key))(keys)
    x = np.asarray(arms[0])
    z = float(x @ np.array([0.4, -0.1])) / np.sqrt(x @ np.linalg.inv(np.asarray(precision)) @ x)
    expected = float(jax.scipy.stats.norm.cdf(z))
    for drawn in (first, second):
        assert abs(float((drawn == 0).mean()) - expected) < 4 * 0.5 / np.sqrt(4000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(4000), "two draws, not one"


def test_limits_of_the_duels():
    rng = np.random.default_rng(1)
    arms = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    fit = fit_duels(jnp.asarray(rng.normal(size=(20, 3)), jnp.float32), jnp.ones(20))
    key, greedy = jax.random.key(1), int(jnp.argmax(arms @ fit.theta))
    for duel in (
        thompson_duel(arms, fit, key, scale=0.0),
        ucb_duel(arms, fit, key, width=0.0),
        colstim(arms, fit, key, width=0.0, noise=0.0),
    ):
        assert [int(arm) for arm in duel] == [greedy, greedy]
    wide = ucb_duel(arms, fit, key, width=100.0)
    differences = np.asarray(arms - arms[greedy][None])
    norms = np.einsum("nd,de,ne->n", differences, np.linalg.inv(fit.precision), differences)
    assert [int(arm) for arm in wide] == [greedy, norms.argmax()]


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
