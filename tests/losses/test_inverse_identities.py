"""Losses of inverse reinforcement learning in worlds small enough to know every answer."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.conjugates import (
    chi_square,
    forward_kl_weights,
    hellinger,
    jensen_shannon,
    jensen_shannon_weights,
    kl,
    reverse_kl_weights,
)
from jaxpref.losses.imitation import airl_rewards, gail_rewards
from jaxpref.losses.links import hinge
from jaxpref.losses.trajectories import ranking_log_likelihood
from jaxpref.planning import TabularMDP, deterministic_mdp, horizon_values, occupancy

S, A = 4, 3
DISCOUNT = 0.8


def world():
    transitions = np.random.default_rng(3).dirichlet(np.ones(S), (S, A))
    return TabularMDP(jnp.asarray(transitions), jnp.zeros((S, A)), jnp.zeros(S, bool), DISCOUNT)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# Max-margin planning.


def test_max_margin_planning_is_zero_for_the_best_and_a_power_of_the_regret():
    own, best = drawn(5, 1), drawn(5, 1) + jnp.arange(5.0)[:, None]
    regret = losses.max_margin_planning(own, best)
    np.testing.assert_allclose(regret[:, 0], np.arange(5), atol=1e-6)
    np.testing.assert_allclose(losses.max_margin_planning(own, best, power=2), regret**2)


# IQ-Learn.


def iq_loss(q, expert, **settings):
    """Over all states and actions, as often as the expert takes them."""
    mdp = world()
    start = jnp.ones(S) / S
    often = (1 - DISCOUNT) * occupancy(mdp, expert, start)
    v = jax.nn.logsumexp(q, -1)
    after = mdp.transitions.astype(q.dtype) @ v
    inputs = [x.reshape(S * A, 1, 1) for x in (q, jnp.repeat(v[:, None], A, 1), after)]
    each = losses.iq_learn(*inputs, jnp.ones((S * A, 1, 1), bool), discount=DISCOUNT, **settings)
    return (often.reshape(-1) * each[:, 0]).sum(), often


def solved(**settings):
    """The loss's minimum over tables Q, its expert and the occupancy of that."""
    expert = jax.nn.softmax(drawn(S, A, seed=1), -1)
    slope = jax.jit(jax.value_and_grad(lambda q: iq_loss(q.reshape(S, A), expert, **settings)[0]))
    found = minimize(
        lambda q: tuple(np.asarray(x) for x in slope(q)),
        np.zeros(S * A),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-11, "maxiter": 2000},
    )
    return jnp.asarray(found.x).reshape(S, A), expert, iq_loss(jnp.zeros((S, A)), expert, **settings)[1]


def test_iq_learn_recovers_a_tabular_expert_and_is_imitation_without_a_divergence():
    with enable_x64(True):
        q, expert, often = solved(alpha=math.inf)
        np.testing.assert_allclose(jax.nn.softmax(q, -1), expert, atol=1e-7)
        value, _ = iq_loss(drawn(S, A), expert, alpha=math.inf)
        imitation = -(often * jax.nn.log_softmax(drawn(S, A), -1)).sum()
        assert float(value) == pytest.approx(float(imitation), abs=1e-12)
        near = jax.nn.softmax(solved(alpha=100.0)[0], -1)
        assert 1e-5 < float(jnp.abs(near - expert).max()) < 1e-2


@pytest.mark.parametrize("conjugate", [chi_square, hellinger, jensen_shannon, kl])
def test_iq_learn_ends_where_the_slope_of_phi_is_the_ratio_of_occupancies(conjugate):
    """The saddle point: phi'(reward) = learner / expert, and the learner is soft-optimal for that reward."""
    with enable_x64(True):
        alpha = 5.0
        q, _, often = solved(alpha=alpha, conjugate=conjugate)
        mdp = world()
        reward = q - DISCOUNT * mdp.transitions @ jax.nn.logsumexp(q, -1)
        mine = (1 - DISCOUNT) * occupancy(mdp, jax.nn.softmax(q, -1), jnp.ones(S) / S)
        ratio = jax.vmap(jax.grad(conjugate))(reward.reshape(-1) / alpha).reshape(S, A)
        np.testing.assert_allclose(ratio, mine / often, atol=1e-5)
        assert float(jnp.abs(mine / often - 1).max()) > 0.01
        entropies = [-(x * jnp.log(x / x.sum(-1, keepdims=True))).sum() for x in (mine, often)]
        assert float(entropies[0]) > float(entropies[1])  # causal: as often as each visits a state


@pytest.mark.parametrize(
    ("conjugate", "f"),
    [
        (chi_square, lambda u: (u - 1) ** 2),
        (hellinger, lambda u: (np.sqrt(u) - 1) ** 2),
        (jensen_shannon, lambda u: u * np.log(u) - (1 + u) * np.log((1 + u) / 2)),
        (kl, lambda u: u * np.log(u) - u + 1),
    ],
)
def test_conjugates_are_those_of_their_divergences(conjugate, f):
    """-phi(-y) = max_u u y - f(u), on a grid; phi(0) = 0 with slope 1."""
    u = np.geomspace(1e-6, 1e4, 2_000_001)
    for y in (-1.5, -0.4, 0.0, 0.3, 0.6):
        np.testing.assert_allclose(-float(conjugate(jnp.float32(-y))), (u * y - f(u)).max(), atol=2e-5)
    assert float(jax.grad(conjugate)(0.0)) == 1
    assert float(conjugate(jnp.float32(0))) == 0


def test_the_domains_of_conjugates_end():
    assert float(hellinger(jnp.float32(-1.5))) == -math.inf
    assert float(jensen_shannon(jnp.float32(-0.7))) == -math.inf


# Adversarial losses.


def test_gail_and_airl_are_least_at_the_log_ratio_of_densities():
    """Expert-high signs: the best logit is log expert / learner, and AIRL's reward then log expert."""
    expert, learner = (jax.nn.softmax(drawn(6, seed=s)) for s in (1, 2))
    ratio = jnp.log(expert / learner)

    def gail(x):
        return (expert * losses.gail(x, jnp.full(6, -1e9)) + learner * losses.gail(jnp.full(6, 1e9), x)).sum()

    def airl(r):
        logs = jnp.log(learner)
        one = losses.airl(r, jnp.full(6, -1e9), logs, logs)
        two = losses.airl(jnp.full(6, 1e9), r, logs, logs)
        return (expert * one + learner * two).sum()

    np.testing.assert_allclose(jax.grad(gail)(ratio), 0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(airl)(jnp.log(expert)), 0, atol=1e-6)
    assert float(gail(ratio + 0.1 * drawn(6))) > float(gail(ratio))
    np.testing.assert_allclose(airl_rewards(jnp.log(expert), jnp.log(learner)), ratio, rtol=1e-6)
    np.testing.assert_allclose(gail_rewards(ratio), -jnp.log1p(-jax.nn.sigmoid(ratio)), rtol=1e-5)
    assert (jnp.argsort(gail_rewards(ratio)) == jnp.argsort(ratio)).all()


def test_airl_is_gail_of_the_shifted_logit():
    x = {n: drawn(5, seed=i) for i, n in enumerate(("expert", "learner", "expert_logps", "learner_logps"))}
    shifted = losses.gail(x["expert"] - x["expert_logps"], x["learner"] - x["learner_logps"])
    found = losses.airl(x["expert"], x["learner"], x["expert_logps"], x["learner_logps"])
    np.testing.assert_allclose(found, shifted, rtol=1e-6)
    swapped = losses.gail(-x["learner"], -x["expert"])
    np.testing.assert_allclose(losses.gail(x["expert"], x["learner"]), swapped, rtol=1e-6)


# f-IRL.

STEPS = 3


def paths():
    """A corridor of certain outcomes: all plans of actions, the states they visit `[n, t]`."""
    successors = np.random.default_rng(5).integers(0, S, (S, 2))
    plans = np.array(list(itertools.product(range(2), repeat=STEPS)))
    visited = np.zeros(plans.shape, int)
    for i, plan in enumerate(plans):
        s = 0
        for t, a in enumerate(plan):
            s = successors[s, a]
            visited[i, t] = s
    return successors, plans, visited


DIVERGENCES = {
    "forward": (forward_kl_weights, lambda p, q: (p * jnp.log(p / q)).sum()),
    "reverse": (reverse_kl_weights, lambda p, q: (q * jnp.log(q / p)).sum()),
    "js": (
        jensen_shannon_weights,
        lambda p, q: (p * jnp.log(2 * p / (p + q)) + q * jnp.log(2 * q / (p + q))).sum(),
    ),
}


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_f_irl_is_the_gradient_of_the_divergence(kind, temperature):
    """All trajectories of a world; states after each action; finite differences of D(expert || learner).

    The signs of the weights are thus our own: KL(expert || learner) has -u, KL(learner || expert) 1 - log u
    and the Jensen-Shannon divergence -log(1 + u), with u = expert / learner.
    """
    weights, divergence = DIVERGENCES[kind]
    with enable_x64(True):
        _, _, visited = paths()
        seen = np.unique(visited)
        n = len(visited)
        counts = jnp.asarray([[(row == s).sum() for s in seen] for row in visited], float)
        expert = jax.nn.softmax(drawn(len(seen), seed=9))
        theta = jnp.zeros(len(seen))  # rewards of states: at 0 all trajectories are alike

        def density(x):
            shares = jax.nn.softmax(counts @ x / temperature)
            return shares @ counts / STEPS

        numeric = [
            (divergence(expert, density(theta + h)) - divergence(expert, density(theta - h))) / 2e-5
            for h in 1e-5 * jnp.eye(len(seen))
        ]
        index = np.searchsorted(seen, visited)
        ratios = jnp.log(expert / density(theta))[index]

        def mean(x, ratios):
            found = losses.f_irl(
                (counts @ x)[:, None],
                ratios[:, None],
                jnp.ones((n, 1, STEPS), bool),
                weights=weights,
                temperature=temperature,
            )
            return found.mean()

        np.testing.assert_allclose(jax.grad(mean)(theta, ratios), numeric, atol=1e-8)
        assert np.abs(np.asarray(numeric)).max() > 0.01
        # Away from 0, the covariance under the learner's own trajectories.
        theta = 0.7 * drawn(len(seen), seed=4)
        numeric = [
            (divergence(expert, density(theta + h)) - divergence(expert, density(theta - h))) / 2e-5
            for h in 1e-5 * jnp.eye(len(seen))
        ]
        shares = jax.nn.softmax(counts @ theta / temperature)
        h = weights(jnp.log(expert / density(theta))[index]).sum(-1)
        covariance = (shares * (h - shares @ h)) @ counts
        np.testing.assert_allclose(covariance / (temperature * STEPS), numeric, atol=1e-8)


def test_those_trajectories_are_the_planners():
    """exp(return) over the sum of all is what planning by time step does in a world of certain outcomes."""
    with enable_x64(True):
        successors, plans, visited = paths()
        rewards = drawn(S, seed=4)
        mdp = deterministic_mdp(successors, np.zeros((S, 2)), np.zeros(S, bool))
        mdp = mdp._replace(transitions=mdp.transitions.astype(float), rewards=rewards[successors])
        policies = horizon_values(mdp, STEPS, 1.0)[2]
        before = np.concatenate([np.zeros((len(plans), 1), int), visited[:, :-1]], 1)
        shares = policies[np.arange(STEPS), before, plans].prod(-1)
        np.testing.assert_allclose(shares, jax.nn.softmax(rewards[visited].sum(-1)), atol=1e-12)


# Ranked trajectories.


def test_trajectory_bradley_terry_has_a_floor_and_a_clip():
    won, lost = 40 * drawn(50), 40 * drawn(50, seed=1)
    plain = losses.bradley_terry(won, lost)
    np.testing.assert_array_equal(losses.trajectory_bradley_terry(won, lost), plain)
    floored = losses.trajectory_bradley_terry(won, lost, noise_prob=0.1)
    np.testing.assert_allclose(jnp.exp(-floored), 0.05 + 0.9 * jnp.exp(-plain), rtol=1e-5)
    assert float(floored.max()) <= math.log(20) + 1e-5
    clipped = partial(losses.trajectory_bradley_terry, clip=5.0)
    far = jnp.abs(won - lost) > 5
    slopes = jax.grad(lambda x: clipped(x, lost).sum())(won)
    np.testing.assert_array_equal(slopes[far], 0)
    np.testing.assert_allclose(clipped(won, lost)[~far], plain[~far])
    assert float(clipped(won, lost).max()) == pytest.approx(5 + math.log1p(math.exp(-5)))
    np.testing.assert_allclose(
        losses.trajectory_bradley_terry(won, lost, link=partial(hinge, target=1.0)),
        jnp.maximum(0, 1 - (won - lost)),
    )
    with pytest.raises(ValueError, match="link other than logistic"):
        losses.trajectory_bradley_terry(won, lost, link=partial(hinge, target=1.0), noise_prob=0.1)


def test_the_ranking_likelihood_is_the_sum_of_bradley_terry():
    w, better, worse = drawn(3), drawn(7, 3, seed=1), drawn(7, 3, seed=2)
    expected = -losses.trajectory_bradley_terry(2 * better @ w, 2 * worse @ w).sum()
    assert float(ranking_log_likelihood(w, better, worse, confidence=2.0)) == pytest.approx(
        float(expected), rel=1e-5
    )
    with pytest.raises(ValueError, match="expected one shape"):
        ranking_log_likelihood(w, better, worse[:1])
