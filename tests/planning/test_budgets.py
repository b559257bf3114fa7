"""Planners with budgets: the stack against plain loops, mixtures against enumeration, budgets recovered."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from jaxpref.algorithms import sft
from jaxpref.data.behaviour.simulated import simulated_agents
from jaxpref.environments import random_delivery
from jaxpref.planning import values
from jaxpref.planning.budgets import budget_logps, budget_posterior, per_decision, per_trajectory
from jaxpref.policies.budgets import boltzmann_agents, latent_budgets

BUDGETS = (1, 3, 8)
world = partial(random_delivery, seed=1, rows=5, columns=5, discount=0.9)


def test_budgets_are_sweeps_of_value_iteration():
    with enable_x64(True):
        mdp = world().mdp
        p, r, end = (np.asarray(x) for x in mdp[:3])
        found = budget_logps(mdp, (1, 2, 200), temperature=0.5)
        v = np.zeros(25)
        for b in (1, 2):
            q = np.where(end[:, None], 0, r + 0.9 * p @ np.where(end, 0, v))
            v = q.max(-1)
            expected = q / 0.5 - np.log(
                np.exp(q / 0.5 - q.max(-1, keepdims=True) / 0.5).sum(-1, keepdims=True)
            )
            np.testing.assert_allclose(found[b - 1], expected - q.max(-1, keepdims=True) / 0.5, atol=1e-12)
        full = jax.nn.log_softmax(values(mdp)[1] / 0.5, -1)
        np.testing.assert_allclose(found[2], full, atol=1e-6)
        exact = budget_logps(mdp, (1,), temperature=0.5, heuristic=values(mdp)[0])
        np.testing.assert_allclose(exact[0], full, atol=1e-6)
        with pytest.raises(ValueError, match="1 or more"):
            budget_logps(mdp, (0, 2))


@pytest.fixture(scope="module")
def steps():
    generator = np.random.default_rng(0)
    logps = np.log(generator.dirichlet(np.ones(4), (2, 6, 3))[..., 0])
    return logps, np.arange(6) < np.array([[6], [4]]), np.log([[0.2, 0.3, 0.5]] * 2)


def test_mixtures_against_enumeration(steps):
    with enable_x64(True):
        logps, mask, prior = steps
        decisions = np.where(mask, np.log((np.exp(prior)[:, None] * np.exp(logps)).sum(-1)), 0)
        np.testing.assert_allclose(per_decision(prior, logps, mask), decisions, atol=1e-12)
        joint = np.exp(prior) * np.where(mask[..., None], np.exp(logps), 1).prod(1)
        whole = per_trajectory(prior, logps, mask)
        np.testing.assert_allclose(whole.sum(-1), np.log(joint.sum(-1)), atol=1e-12)
        np.testing.assert_array_equal(whole[1, 4:], 0)
        posterior = np.exp(budget_posterior(prior, logps, mask))
        np.testing.assert_allclose(posterior, joint / joint.sum(-1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("mixture", [per_decision, per_trajectory])
def test_a_certain_budget_is_that_planner(steps, mixture):
    logps, mask, _ = steps
    for g in range(3):
        certain = jax.nn.log_softmax(jnp.broadcast_to(1e4 * jnp.eye(3)[g], (2, 3)), -1)
        np.testing.assert_allclose(
            mixture(certain, logps, mask), jnp.where(mask, logps[..., g], 0), atol=1e-5
        )


def test_the_slope_in_the_prior_is_posterior_less_prior(steps):
    with enable_x64(True):
        logps, mask, prior = steps
        slope = jax.grad(lambda eta: per_trajectory(jax.nn.log_softmax(eta, -1), logps, mask).sum())(prior)
        expected = jnp.exp(budget_posterior(prior, logps, mask)) - jnp.exp(prior)
        np.testing.assert_allclose(slope, expected, atol=1e-6)


@pytest.mark.parametrize("per_step", [True, False])
def test_budgets_of_simulated_agents_are_recovered(per_step):
    """By the loop's own algorithm; people with one temperature each are no match."""
    shares = ((0.7, 0.2, 0.1), (0.1, 0.1, 0.8))
    records = simulated_agents(
        world=world,
        budgets=BUDGETS,
        shares=shares,
        num_segments=3000,
        length=10,
        temperature=0.5,
        per_step=per_step,
    )
    batch = records.rows(np.arange(len(records)))
    mixture = per_decision if per_step else per_trajectory
    fits = {}
    for name, policy in (
        ("mixture", latent_budgets(world=world, budgets=BUDGETS, agents=2, temperature=0.5, mixture=mixture)),
        ("temperature", boltzmann_agents(world=world, agents=2)),
    ):
        algorithm = sft(policy, optimizer=partial(optax.adam, 0.2))

        @jax.jit
        def fit(batch, algorithm=algorithm, policy=policy):
            def step(state, _):
                state, metrics = algorithm.step(state, batch, jax.random.key(0))
                return state, metrics["loss"].total / metrics["loss"].count

            return jax.lax.scan(step, algorithm.init(policy.init(jax.random.key(0))), None, 60)

        state, losses = fit(batch)
        fits[name] = state.params, float(losses[-1])
    found = jax.nn.softmax(fits["mixture"][0]["budget_logits"], -1)
    np.testing.assert_allclose(found, shares, atol=0.06)
    assert fits["mixture"][1] < fits["temperature"][1] - 0.03


def test_expectation_maximisation_never_loses(steps):
    """The prior that is the mean posterior is likelier, until nothing moves."""
    with enable_x64(True):
        logps, mask, prior = steps
        logps, mask = np.concatenate([logps, logps[::-1, ::-1]]), np.concatenate([mask, mask])
        log_prior, reached = prior[:1], []
        for _ in range(30):
            every = jnp.broadcast_to(log_prior, (4, 3))
            reached.append(float(per_trajectory(every, logps, mask).sum()))
            log_prior = jax.nn.logsumexp(budget_posterior(every, logps, mask), 0, keepdims=True) - np.log(4)
        assert (np.diff(reached) > -1e-12).all()
        assert reached[-1] > reached[0] + 1e-3


def test_rewards_are_learned_beside_budgets():
    """The slope in the weights against finite differences, and what is asked for wrongly."""
    with enable_x64(True):
        policy = latent_budgets(
            world=world, budgets=(1, 3), learn_weights=True, initial=(-1, 3, -4, 1, -1, 0)
        )
        records = simulated_agents(world=world, budgets=(1, 3), shares=((0.5, 0.5),), num_segments=20)
        batch, params = records.rows(np.arange(20)), policy.init(jax.random.key(0))
        total = jax.jit(lambda w: policy.token_logps(params | {"weights": w}, batch).sum())
        direction, h = jnp.asarray(np.random.default_rng(0).normal(size=6)), 1e-6
        numeric = (total(params["weights"] + h * direction) - total(params["weights"] - h * direction)) / (
            2 * h
        )
        np.testing.assert_allclose(jax.grad(total)(params["weights"]) @ direction, numeric, rtol=1e-6)
    with pytest.raises(ValueError, match="expected agents, budgets and a temperature"):
        latent_budgets(world=world, budgets=())
    with pytest.raises(ValueError, match="one probability for each of 2 budgets"):
        simulated_agents(world=world, budgets=(1, 3), shares=((1.0,),), num_segments=1)
