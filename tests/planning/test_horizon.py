"""Planning by time step against numpy loops, all paths there are, and finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.planning import TabularMDP, deterministic_mdp, horizon_occupancy, horizon_values, values

S, A, H = 4, 3, 5


def world(discount=0.9):
    """Random outcomes; the last state ends it."""
    generator = np.random.default_rng(0)
    transitions = generator.dirichlet(np.ones(S), (S, A))
    rewards = generator.normal(size=(S, A))
    return TabularMDP(jnp.asarray(transitions), jnp.asarray(rewards), jnp.arange(S) == S - 1, discount)


def restated(mdp, temperature, final):
    """The backward recursion, one state at a time."""
    p, r, end = (np.asarray(x) for x in mdp[:3])
    v, q, pi = np.zeros((H + 1, S)), np.zeros((H, S, A)), np.zeros((H, S, A))
    v[H] = np.where(end, 0, final)
    for t in reversed(range(H)):
        for s in range(S):
            if not end[s]:
                for a in range(A):
                    q[t, s, a] = r[s, a] + mdp.discount * sum(p[s, a, n] * v[t + 1, n] for n in range(S))
                v[t, s] = temperature * np.log(sum(np.exp(x / temperature) for x in q[t, s]))
            weights = np.exp(q[t, s] / temperature)
            pi[t, s] = weights / weights.sum()
    return v, q, pi


@pytest.mark.parametrize("final", [0.0, np.array([1.0, -2.0, 0.5, 7.0])])
def test_soft_values_are_the_recursion(final):
    with enable_x64(True):
        mdp = world()
        found = horizon_values(mdp, H, 0.4, final=final)
        for mine, expected in zip(found, restated(mdp, 0.4, final), strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-12)


def test_hard_values_are_the_limit_and_ties_share():
    with enable_x64(True):
        mdp = world()
        v, q, policy = horizon_values(mdp, H)
        np.testing.assert_allclose(v, horizon_values(mdp, H, 1e-3)[0], atol=1e-2)
        np.testing.assert_array_equal(policy[:, :-1].argmax(-1), q[:, :-1].argmax(-1))
        equal = mdp._replace(rewards=jnp.zeros((S, A)))
        np.testing.assert_allclose(horizon_values(equal, H)[2], 1 / A)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_long_horizons_have_the_values_of_no_horizon(temperature):
    with enable_x64(True):
        mdp = world(0.6)
        v, q, policies = horizon_values(mdp, 80, temperature)
        for mine, expected in zip((v[0], q[0], policies[0]), values(mdp, temperature), strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_occupancies_are_a_walk_forward():
    with enable_x64(True):
        mdp = world()
        policies, start = horizon_values(mdp, H, 0.4)[2], np.array([0.5, 0.2, 0.2, 0.1])
        states, actions = horizon_occupancy(mdp, policies, jnp.asarray(start))
        here = start
        for t in range(H):
            np.testing.assert_allclose(states[t], here, atol=1e-12)
            acting = np.where(mdp.terminal, 0, here)[:, None] * np.asarray(policies[t])
            np.testing.assert_allclose(actions[t], acting, atol=1e-12)
            ended = np.where(mdp.terminal, here, 0)
            here = np.einsum("sa,sat->t", acting, mdp.transitions) + ended
        np.testing.assert_allclose(states[H], here, atol=1e-12)
        np.testing.assert_allclose(states.sum(-1), 1, atol=1e-12)


def test_values_differentiate_to_discounted_occupancies():
    """d V_0(start) / d rewards = sum_t discount^t occupancy_t: the envelope theorem at every step."""
    with enable_x64(True):
        mdp, start = world(), jnp.ones(S) / S
        slope = jax.grad(lambda r: start @ horizon_values(mdp._replace(rewards=r), H, 0.4)[0][0])(mdp.rewards)
        _, actions = horizon_occupancy(mdp, horizon_values(mdp, H, 0.4)[2], start)
        np.testing.assert_allclose(
            slope, (mdp.discount ** jnp.arange(H)[:, None, None] * actions).sum(0), atol=1e-12
        )


def test_soft_policies_are_the_boltzmann_distribution_of_paths():
    """Deterministic outcomes: P(path) is exp(return) over the sum of all paths, and counts are its means."""
    with enable_x64(True):
        generator = np.random.default_rng(1)
        successors, rewards = generator.integers(0, S, (S, A)), generator.normal(size=(S, A))
        mdp = deterministic_mdp(successors, rewards, np.zeros(S, bool))
        mdp = mdp._replace(transitions=mdp.transitions.astype(float), rewards=jnp.asarray(rewards))
        v, _, policies = horizon_values(mdp, H, 1.0)
        scores, shares, counts = [], [], []
        for plan in itertools.product(range(A), repeat=H):
            s, score, share, count = 0, 0.0, 1.0, np.zeros((H, S, A))
            for t, a in enumerate(plan):
                score, share = score + rewards[s, a], share * policies[t, s, a]
                count[t, s, a] = 1
                s = successors[s, a]
            scores.append(score)
            shares.append(float(share))
            counts.append(count)
        weights = np.exp(scores)
        assert float(v[0, 0]) == pytest.approx(np.log(weights.sum()), abs=1e-12)
        np.testing.assert_allclose(shares, weights / weights.sum(), rtol=1e-10)
        _, actions = horizon_occupancy(mdp, policies, jnp.eye(S)[0])
        np.testing.assert_allclose(actions, np.tensordot(weights / weights.sum(), counts, 1), atol=1e-12)


@pytest.mark.parametrize(("horizon", "temperature"), [(0, 1.0), (3, -1.0)])
def test_bad_plans_are_errors(horizon, temperature):
    with pytest.raises(ValueError, match="horizon of 1 or more and a temperature of 0 or more"):
        horizon_values(world(), horizon, temperature)
