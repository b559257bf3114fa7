"""Regret and partial return against enumeration, shaping and each other."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import losses
from jaxpref.data.behaviour.simulated import random_segments
from jaxpref.environments import delivery, random_delivery, random_world
from jaxpref.planning import (
    TabularMDP,
    advantages,
    deterministic_regret,
    general_regret,
    gpi_values,
    greedy_policy,
    optimal_policy,
    partial_return,
    random_successors,
    scaled_return,
    score_by_deterministic_regret,
    score_by_regret,
    score_by_return,
    score_by_successors,
    state_action_features,
    successor_features,
    values,
    win_probability,
    with_weights,
)

LENGTH = 3


def segments(world, count=200, seed=0):
    """Random segments of 1 to 3 steps that go on past no terminal state."""
    generator = np.random.default_rng(seed)
    following = np.asarray(world.mdp.transitions).argmax(-1)
    terminal = np.asarray(world.mdp.terminal)
    states = np.zeros((count, LENGTH), int)
    actions = generator.integers(0, 4, (count, LENGTH))
    at = generator.choice(len(terminal), count, p=np.asarray(world.start, float))
    for t in range(LENGTH):
        states[:, t] = at
        at = following[at, actions[:, t]]
    lengths = np.minimum((~terminal[states]).sum(-1), generator.integers(1, LENGTH + 1, count))
    return states, actions, jnp.asarray(np.arange(LENGTH) < lengths[:, None])


@pytest.fixture(scope="module")
def grid():
    with enable_x64(True):
        world = random_delivery(seed=3, rows=6, columns=5, houses=0.1, mud=0.3, discount=0.95)
        yield world, segments(world)


def test_regret_is_zero_only_where_every_action_is_optimal(grid):
    with enable_x64(True):
        world, (states, actions, mask) = grid
        found = -score_by_regret(world, world.weights, states, actions, mask)
        best = (np.asarray(optimal_policy(world.mdp))[states, actions] > 0) | ~np.asarray(mask)
        assert float(found.min()) > -1e-9
        np.testing.assert_array_equal(np.asarray(found) < 1e-9, best.all(-1))
        assert 0 < best.all(-1).sum() < len(states)


@pytest.mark.parametrize("discount", [0.95, 1.0])
def test_both_forms_agree_where_outcomes_are_certain(discount):
    """With the discount of the world: at 1 as the paper writes it."""
    with enable_x64(True):
        world = delivery(discount=discount)
        parts = segments(world)
        each = [
            score(world, world.weights, *parts, discount=discount)
            for score in (score_by_regret, score_by_deterministic_regret)
        ]
        np.testing.assert_allclose(each[0], each[1], atol=1e-8)


def test_regret_ignores_potential_shaping_and_partial_return_does_not(grid):
    with enable_x64(True):
        world, parts = grid
        mdp, potential = world.mdp, jnp.asarray(np.random.default_rng(1).normal(size=30))
        potential = jnp.where(mdp.terminal, 0, potential)
        shaped = mdp.rewards + mdp.discount * mdp.transitions @ potential - potential[:, None]
        table = state_action_features(world)
        weights = jnp.where(mdp.terminal[:, None], 0, shaped).reshape(-1)
        for score, same in ((score_by_regret, True), (score_by_return, False)):
            before, after = (score(table, w, *parts) for w in (table.weights, weights))
            assert (float(jnp.abs(before - after).max()) < 1e-9) == same


def test_equal_values_at_both_ends_leave_partial_return():
    """Differences of regret are then differences of partial return."""
    generator = np.random.default_rng(0)
    rewards, mask = generator.normal(size=(4, LENGTH)), jnp.ones((4, LENGTH), bool)
    level = jnp.full(4, 7.0)
    found = deterministic_regret(rewards, level, level, mask)
    np.testing.assert_allclose(found, -partial_return(rewards, mask), rtol=1e-6)


def test_general_regret_is_an_expectation_where_outcomes_are_not_certain():
    """Averaged over outcomes, the deterministic form is the general one: brute force over all outcomes."""
    with enable_x64(True):
        generator = np.random.default_rng(0)
        p = generator.dirichlet(np.ones(4), (4, 2))
        mdp = TabularMDP(jnp.asarray(p), jnp.asarray(generator.normal(size=(4, 2))), jnp.arange(4) == 3, 0.9)
        v, q, _ = values(mdp, tolerance=1e-13)
        plan, total, other = [1, 0], 0.0, 0.0
        for path in itertools.product(range(4), repeat=2):
            states = [0, *path]
            chance, real = 1.0, []
            for t, a in enumerate(plan):
                ended = states[t] == 3
                chance *= (path[t] == 3) if ended else p[states[t], a, path[t]]
                real.append(not ended)
            r = np.array([mdp.rewards[s, a] for s, a in zip(states, plan, strict=False)])
            shortfall = jnp.array([advantages(v, q)[s, a] for s, a in zip(states, plan, strict=False)])
            mask = jnp.array(real)
            end = v[states[int(sum(real))]]
            total += chance * deterministic_regret(r, v[0], end, mask, discount=0.9)
            other += chance * general_regret(shortfall, mask, discount=0.9)
        assert float(total) == pytest.approx(float(other), abs=1e-10)


def test_scores_without_end_states_want_certain_outcomes():
    """A segment does not say where its last step led, and what to expect there depends on when it ended."""
    settings = {"states": 6, "discount": 0.9}
    certain, other = random_world(seed=0, outcomes=1, **settings), random_world(seed=0, **settings)
    states, actions, steps = random_segments(certain, count=50, length=4, generator=np.random.default_rng(0))
    parts = (states, actions, jnp.asarray(np.arange(4) < steps[:, None]))
    np.testing.assert_allclose(
        score_by_regret(certain, certain.weights, *parts, discount=0.9),
        score_by_deterministic_regret(certain, certain.weights, *parts, discount=0.9),
        atol=1e-4,
    )
    with pytest.raises(ValueError, match="0, action 0 has several outcomes; use score_by_regret"):
        score_by_deterministic_regret(other, other.weights, *parts)
    with pytest.raises(ValueError, match="outcomes of 1 to 10"):
        random_world(seed=0, outcomes=11)


def test_steps_are_discounted_and_masked():
    rewards, mask = jnp.array([1.0, 10.0, jnp.nan]), jnp.array([True, True, False])
    assert float(partial_return(rewards, mask, discount=0.5)) == 6
    assert float(deterministic_regret(rewards, jnp.float32(9), jnp.float32(4), mask, discount=0.5)) == 2
    assert float(general_regret(-rewards, mask, discount=0.5)) == 6
    np.testing.assert_allclose(win_probability(jnp.array([2.0, 1, 1]), 1.0, temperature=0), [1, 0.5, 0.5])
    assert float(win_probability(jnp.float32(3), jnp.float32(1), temperature=2)) == pytest.approx(0.7310586)
    with pytest.raises(ValueError, match="temperature"):
        win_probability(rewards, rewards, temperature=-1)


@pytest.mark.parametrize(
    "score",
    [score_by_return, partial(score_by_regret, temperature=0.3), score_by_regret, "successors"],
    ids=["return", "soft", "hard", "successors"],
)
def test_scores_differentiate_in_the_weights(grid, score):
    with enable_x64(True):
        world, parts = grid
        weights = jnp.array([-1.0, 8, -9, 0.7, -0.4, -2])
        if score == "successors":
            score = partial(score_by_successors, successors=random_successors(world, num_policies=3))
        coefficients = jnp.asarray(np.random.default_rng(2).normal(size=len(parts[0])))
        total = jax.jit(lambda w: coefficients @ score(world, w, *parts))
        direction, h = jnp.asarray(np.random.default_rng(3).normal(size=6)), 1e-5
        numeric = (total(weights + h * direction) - total(weights - h * direction)) / (2 * h)
        np.testing.assert_allclose(jax.grad(total)(weights) @ direction, numeric, rtol=2e-5)


def test_soft_regret_is_the_log_policy_and_hard_its_limit(grid):
    with enable_x64(True):
        world, (states, actions, mask) = grid
        _, _, policy = values(world.mdp, 0.3)
        expected = jnp.where(mask, 0.3 * jnp.log(policy[states, actions]), 0).sum(-1)
        soft = score_by_regret(world, world.weights, states, actions, mask, temperature=0.3)
        np.testing.assert_allclose(soft, expected, atol=1e-5)
        cold = score_by_regret(world, world.weights, states, actions, mask, temperature=1e-3)
        hard = score_by_regret(world, world.weights, states, actions, mask)
        np.testing.assert_allclose(cold, hard, atol=0.1)


def test_successor_features_are_linear_values_and_bound_the_optimum(grid):
    with enable_x64(True):
        world, _ = grid
        uniform = jnp.full(world.mdp.rewards.shape, 0.25)
        best = optimal_policy(world.mdp)
        psi = successor_features(world, best)
        v = values(world.mdp)[0]
        np.testing.assert_allclose(psi @ world.weights, v, atol=1e-8)
        several = jnp.concatenate(
            [random_successors(world, num_policies=4), successor_features(world, uniform)[None]]
        )
        for temperature in (0.0, 0.01, 5.0):
            assert float((gpi_values(world.weights, several, temperature=temperature) - v).max()) < 1e-9
        with_best = jnp.concatenate([several, psi[None]])
        np.testing.assert_allclose(gpi_values(world.weights, with_best), v, atol=1e-8)
        low = several.astype(jnp.float32)
        cold = jax.jit(jax.grad(lambda w: gpi_values(w, low, temperature=1e-3).sum()))
        assert jnp.isfinite(cold(world.weights.astype(jnp.float32))).all()
        other = jnp.asarray(np.random.default_rng(5).normal(size=6))
        bound = values(with_weights(world, other))[0]
        assert float((gpi_values(other, several) - bound).max()) < 1e-9
        assert float(jnp.abs(gpi_values(other, several) - bound).max()) > 0.1


def test_a_table_of_rewards_is_a_world_of_one_hot_features(grid):
    with enable_x64(True):
        world, parts = grid
        table = state_action_features(world)
        np.testing.assert_allclose(with_weights(table, table.weights).rewards, world.mdp.rewards, atol=1e-12)
        np.testing.assert_array_equal(with_weights(table, table.weights + 1).rewards[world.mdp.terminal], 0)
        for score in (score_by_return, score_by_regret):
            np.testing.assert_allclose(
                score(table, table.weights, *parts), score(world, world.weights, *parts), atol=1e-8
            )


@pytest.mark.parametrize("ends", [True, False])
def test_partial_return_fitted_to_regret_is_stationary_at_the_advantages(grid, ends):
    """And at no other level, if some segments are shorter; at any level, if none is (arXiv:2310.02456)."""
    with enable_x64(True):
        world, (states, actions, mask) = grid
        v, q, _ = values(world.mdp)
        advantage = jnp.where(world.mdp.terminal[:, None], 0, advantages(v, q))
        mask = mask if ends else jnp.ones_like(mask)
        table = world._replace(mdp=world.mdp._replace(terminal=jnp.zeros_like(world.mdp.terminal)))
        table = state_action_features(table)

        def scores(entries):
            return score_by_return(table, entries.reshape(-1), states, actions, mask).reshape(-1, 2)

        truth = scores(advantage)
        p = win_probability(truth[:, 0], truth[:, 1])

        def loss(entries):
            found = scores(entries)
            return losses.bradley_terry_soft(found[:, 0], found[:, 1], p).mean()

        slope = jax.jit(jax.grad(loss))
        np.testing.assert_allclose(slope(advantage), 0, atol=1e-15)
        assert (float(jnp.abs(slope(advantage + 1)).max()) > 1e-5) == ends
        assert float(jnp.abs(slope(advantage * 2)).max()) > 1e-5


def test_optimal_advantages_are_read_greedily(grid):
    """Greedy in A* is optimal; greedy in the rewards themselves is not."""
    with enable_x64(True):
        world, _ = grid
        v, q, _ = values(world.mdp)
        greedy = greedy_policy(world.mdp._replace(rewards=jnp.round(advantages(v, q), 9)))
        assert float(scaled_return(world.mdp, greedy, world.start)) == pytest.approx(1, abs=1e-9)
        assert float(scaled_return(world.mdp, greedy_policy(world.mdp), world.start)) < 0.9
