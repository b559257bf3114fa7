"""Values of small worlds against plain loops, finite differences and simulated behaviour."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.planning import (
    DivergentValues,
    TabularMDP,
    World,
    advantages,
    check_finite,
    deterministic_mdp,
    expected_steps,
    occupancy,
    policy_values,
    random_successors,
    reaches_end,
    scaled_return,
    sweep_residuals,
    values,
)

S, A = 6, 3


def world(seed=0, discount=0.9):
    """Random outcomes; the last state ends it."""
    generator = np.random.default_rng(seed)
    transitions = generator.dirichlet(np.ones(S), (S, A))
    rewards = generator.normal(size=(S, A))
    return TabularMDP(jnp.asarray(transitions), jnp.asarray(rewards), jnp.arange(S) == S - 1, discount)


def by_hand(mdp, temperature, sweeps=4000):
    p, r, end = (np.asarray(x) for x in mdp[:3])
    v = np.zeros(S)
    for _ in range(sweeps):
        q = r + mdp.discount * p @ v
        top = q.max(-1)
        soft = top + (
            temperature * np.log(np.exp((q - top[:, None]) / temperature).sum(-1)) if temperature else 0
        )
        v = np.where(end, 0, soft)
    return v, q


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_values_are_the_fixed_point(temperature):
    with enable_x64(True):
        mdp = world()
        v, q, policy = values(mdp, temperature, tolerance=1e-13)
        expected_v, expected_q = by_hand(mdp, temperature)
        np.testing.assert_allclose(v, expected_v, atol=1e-10)
        np.testing.assert_allclose(q[:-1], expected_q[:-1], atol=1e-10)
        np.testing.assert_allclose(policy.sum(-1), 1, atol=1e-12)
        if temperature:
            np.testing.assert_allclose(advantages(v, q)[:-1], temperature * jnp.log(policy[:-1]), atol=1e-9)
        else:
            assert float(advantages(v, q)[:-1].max()) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_gradients_in_the_rewards_are_finite_differences(temperature):
    with enable_x64(True):
        mdp = world(1)
        weights = jnp.linspace(-1, 1, S)

        def total(rewards):
            return weights @ values(mdp._replace(rewards=rewards), temperature, tolerance=1e-13)[0]

        slope = jax.grad(total)(mdp.rewards)
        direction = jnp.asarray(np.random.default_rng(3).normal(size=(S, A)))
        h = 1e-6
        difference = (total(mdp.rewards + h * direction) - total(mdp.rewards - h * direction)) / (2 * h)
        np.testing.assert_allclose((slope * direction).sum(), difference, rtol=1e-7)


def test_occupancy_counts_what_a_policy_does():
    """rewards . occupancy is its value, and a simulation's counts are the occupancy."""
    with enable_x64(True):
        mdp = world(2)
        policy = jax.nn.softmax(jnp.asarray(np.random.default_rng(0).normal(size=(S, A))), -1)
        start = jnp.ones(S) / S
        counts = occupancy(mdp, policy, start)
        np.testing.assert_allclose(
            (counts * mdp.rewards).sum(), start @ policy_values(mdp, policy), rtol=1e-12
        )
        state, found, alive = start, np.zeros((S, A)), 1.0
        for _ in range(500):
            here = np.where(mdp.terminal, 0, state)[:, None] * np.asarray(policy)
            found += alive * here
            state, alive = np.einsum("sa,sat->t", here, mdp.transitions), alive * mdp.discount
        np.testing.assert_allclose(counts, found, atol=1e-12)


def test_scaled_return_of_the_optimal_and_the_uniform_policy():
    mdp = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if jnp.ndim(x) > 1 else x, world())
    start = jnp.ones(S) / S
    assert float(scaled_return(mdp, values(mdp)[2], start)) == pytest.approx(1, abs=1e-4)
    assert float(scaled_return(mdp, jnp.full((S, A), 1 / A), start)) == pytest.approx(0, abs=1e-6)


def test_one_outcome_each():
    """A corridor of four: right costs 1, and the end pays 10 on arrival."""
    successors = [[0, 1], [0, 2], [1, 3], [3, 3]]
    rewards = [[-1, -1], [-1, -1], [-1, 9], [0, 0]]
    mdp = deterministic_mdp(np.array(successors), np.array(rewards, float), np.arange(4) == 3)
    v, _, policy = values(mdp)
    np.testing.assert_allclose(v, [7, 8, 9, 0], atol=1e-5)
    np.testing.assert_array_equal(policy[:3], [[0, 1]] * 3)
    with pytest.raises(ValueError, match=r"not in \[0, 4\)"):
        deterministic_mdp(np.array(successors) + 1, np.array(rewards), np.arange(4) == 3)
    with pytest.raises(ValueError, match="do not fit"):
        deterministic_mdp(np.array(successors), np.array(rewards)[:2], np.arange(4) == 3)
    with pytest.raises(ValueError, match="discount"):
        deterministic_mdp(np.array(successors), np.array(rewards), np.arange(4) == 3, 1.5)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_residuals_are_what_each_sweep_moves(temperature):
    with enable_x64(True):
        mdp = world()
        found = sweep_residuals(mdp, temperature, sweeps=30)
        at = [np.zeros(S)] + [by_hand(mdp, temperature, sweeps=n)[0] for n in range(1, 31)]
        expected = [np.abs(b - a).max() for a, b in itertools.pairwise(at)]
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert (found[1:] <= 0.9 * found[:-1] + 1e-12).all()


def corridor(rewards, discount=1.0):
    """State 0 may stay or go on, state 1 ends it."""
    return deterministic_mdp(
        np.array([[0, 1], [1, 1]]), np.full((2, 2), rewards), np.array([False, True]), discount
    )


def test_values_that_have_no_limit_are_named():
    """Going round costs c: the sum over paths is geometric with ratio exp(-c / temperature)."""
    check_finite(corridor(-0.1), 0.5)
    check_finite(corridor(0.5, discount=0.9), 0.5)
    check_finite(corridor(0.0))  # hard: nothing to gain by going round
    with pytest.raises(DivergentValues, match=r"spectral radius of the sum over paths is 1\.221"):
        check_finite(corridor(0.1), 0.5)
    with pytest.raises(DivergentValues, match=r"temperature 0: some loop is worth repeating\. Lower"):
        check_finite(corridor(0.1))
    endless = corridor(-0.1)._replace(terminal=jnp.zeros(2, bool))
    with pytest.raises(DivergentValues, match="no state is terminal"):
        check_finite(endless)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_states_that_cannot_reach_an_end_are_named(temperature):
    """State 2 stays for ever, state 3 leads there, and both are of no use to the others: -inf."""
    after = np.array([[0, 1], [1, 1], [2, 2], [2, 3]])
    mdp = deterministic_mdp(after, np.full((4, 2), -1.0), np.arange(4) == 1)
    np.testing.assert_array_equal(reaches_end(mdp), [True, True, False, False])
    with pytest.raises(DivergentValues, match=r"cannot reach a terminal one: 2, 3 \(2 of 4\)\. Make"):
        check_finite(mdp, temperature)
    assert np.isnan(values(mdp, temperature)[0][0])
    check_finite(mdp._replace(discount=0.9), temperature)


@pytest.mark.parametrize("max_sweeps", [3, 10_000])
@pytest.mark.parametrize(("x64", "costs"), [(False, (1e-3, 1e-4)), (True, (1e-3, 1e-4, 1e-6, 1e-9))])
def test_values_near_where_they_have_no_limit(x64, costs, max_sweeps):
    """Two states, sum over paths exp(-c) / (1 - exp(-c)): value -log(exp(c) - 1), slope 1 / (1 - exp(-c))."""
    with enable_x64(x64):

        def value(reward):
            mdp = corridor(-1.0)
            mdp = mdp._replace(rewards=jnp.full_like(mdp.rewards, 1) * reward)
            return values(mdp, 1.0, max_sweeps=max_sweeps)[0][0]

        for cost in costs:
            found, slope = jax.value_and_grad(value)(jnp.asarray(-cost))
            np.testing.assert_allclose(found, -np.log(np.expm1(cost)), rtol=1e-6 if x64 else 1e-3)
            np.testing.assert_allclose(slope, -1 / np.expm1(-cost), rtol=1e-3 if x64 else 2e-3)
            check_finite(corridor(-cost), 1.0)
        for reward in (0.0, 1e-6, 1e-4, 1e-2, 1.0):
            found, slope = jax.value_and_grad(value)(jnp.asarray(reward))
            assert np.isnan(found)
            assert np.isnan(slope)
            with pytest.raises(DivergentValues, match="spectral radius"):
                check_finite(corridor(reward), 1.0)


def test_a_sum_that_float32_does_not_hold_is_named():
    with pytest.raises(
        DivergentValues, match=r"below 1 but so near it .* precision of float32\. Use float64"
    ):
        check_finite(corridor(-1e-7), 1.0)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_values_do_not_depend_on_the_number_of_sweeps(temperature):
    """A discount of .999: three sweeps are far from the fixed point, and policy iteration goes there."""
    with enable_x64(True):
        mdp = world(5, discount=0.999)
        expected, _ = by_hand(mdp, temperature, sweeps=40_000)
        found = values(mdp, temperature, tolerance=1e-12, max_sweeps=3)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_policies_that_never_end_have_no_values():
    """A ring of three and an end that only some action reaches; in float32 a pivot of 1e-8 is no pivot."""
    after = np.array([[1, 3], [2, 3], [0, 3], [3, 3]])
    mdp = deterministic_mdp(after, np.full((4, 2), -1.0), np.arange(4) == 3)
    for share in (0.0, 1e-9):
        round_it = jnp.tile(jnp.array([1 - share, share], jnp.float32), (4, 1))
        assert np.isnan(policy_values(mdp, round_it)).all()
        assert np.isnan(occupancy(mdp, round_it, jnp.ones(4) / 4)).all()
        assert np.isnan(expected_steps(mdp, round_it)).all()
    half = jnp.full((4, 2), 0.5)
    np.testing.assert_allclose(expected_steps(mdp, half), [2, 2, 2, 0], rtol=1e-6)
    np.testing.assert_allclose(policy_values(mdp, half), [-2, -2, -2, 0], rtol=1e-6)


def test_random_weights_without_an_optimum_are_named():
    mdp = corridor(-1.0)
    line = World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
    with pytest.raises(
        ValueError, match=r"of 20 random weights have no finite values at discount 1, such as"
    ):
        random_successors(line, num_policies=20)
    assert np.isfinite(random_successors(line, num_policies=20, typical=[1.0])).all()
