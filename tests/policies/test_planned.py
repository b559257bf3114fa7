"""Planned policies: the gradient of their likelihood is feature matching, and their values are exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import gaussian_log_prior, laplace_log_prior, with_prior
from jaxpref.data import SegmentRecords
from jaxpref.planning import (
    DivergentValues,
    TabularMDP,
    deterministic_mdp,
    horizon_occupancy,
    horizon_values,
    occupancy,
    values,
)
from jaxpref.policies.planned import planned
from jaxpref.policies.reward_functions import linear_reward, mlp_reward, shaped_reward, tabular_reward
from jaxpref.types import Segments

S, A, F, H = 5, 3, 4, 6


def corridors(discount=1.0):
    """Certain outcomes; the last state ends it, and action 0 always leads towards it."""
    generator = np.random.default_rng(0)
    successors = generator.integers(0, S, (S, A))
    successors[:, 0] = np.minimum(np.arange(S) + 1, S - 1)
    return deterministic_mdp(successors, np.zeros((S, A)), np.arange(S) == S - 1, discount)


def chances(discount=0.8):
    """Uncertain outcomes, no end."""
    transitions = np.random.default_rng(3).dirichlet(np.ones(S), (S, A))
    return TabularMDP(jnp.asarray(transitions), jnp.zeros((S, A)), jnp.zeros(S, bool), discount)


def features():
    return np.random.default_rng(1).normal(size=(S, A, F))


def costs():
    """All features count against an action."""
    return -np.random.default_rng(1).uniform(0.5, 1.5, (S, A, F))


def walks(mdp, n=4, steps=H):
    """Random walks up to the end, padded."""
    generator, after = np.random.default_rng(2), np.asarray(mdp.transitions).argmax(-1)
    observations, actions, mask = np.zeros((3, n, 1, steps), np.int64)
    for i in range(n):
        s = i % (S - 1)
        for t in range(steps):
            if mdp.terminal[s]:
                break
            a = generator.integers(A)
            observations[i, 0, t], actions[i, 0, t], mask[i, 0, t] = s, a, 1
            s = after[s, a]
    return Segments(jnp.asarray(observations), jnp.asarray(actions), jnp.asarray(mask, bool))


def counts(batch):
    """Times that each action was taken `[s, a]`, summed over the batch."""
    return jnp.zeros((S, A)).at[batch.observations, batch.actions].add(batch.mask)


def started(batch):
    return jnp.zeros(S).at[batch.observations[:, 0, 0]].add(1.0)


@pytest.mark.parametrize("horizon", [H, None])
def test_the_gradient_is_empirical_less_expected_feature_counts(horizon):
    """Certain outcomes: for the very demonstrations, if they end where planning ends."""
    with enable_x64(True):
        mdp = corridors()
        batch = walks(mdp, steps=H if horizon else 30)
        phi, weights = jnp.asarray(costs()), jnp.asarray([1.0, 0.5, 0.2, 0.1])
        rewards = partial(linear_reward, features=costs, initial=np.ones(F), param_dtype="float64")
        policy = planned(world=corridors, rewards=rewards, horizon=horizon, tolerance=1e-13)
        slope = jax.jit(jax.grad(lambda p: policy.token_logps(p, batch).sum()))({"weights": weights})[
            "weights"
        ]
        paid = mdp._replace(transitions=mdp.transitions.astype(float), rewards=phi @ weights)
        if horizon:
            expected = horizon_occupancy(paid, horizon_values(paid, H, 1.0)[2], started(batch))[1].sum(0)
        else:
            expected = occupancy(paid, values(paid, 1.0, tolerance=1e-13)[2], started(batch))
        matched = jnp.tensordot(counts(batch) - expected, phi, 2)
        np.testing.assert_allclose(slope, matched, atol=1e-10)
        assert jnp.abs(matched).max() > 0.1


def test_sft_descends_by_the_difference_of_feature_counts():
    """One step of gradient descent in the common algorithm: the mean over steps, negative likelihood."""
    mdp = corridors()
    batch = walks(mdp)
    policy = planned(world=corridors, rewards=partial(linear_reward, features=costs), horizon=H)
    algorithm = sft(policy, optimizer=partial(optax.sgd, 1.0))
    state = algorithm.init({"weights": jnp.ones(F) / 4})
    after, _ = jax.jit(algorithm.step)(state, batch, jax.random.key(0))
    paid = mdp._replace(rewards=jnp.asarray(costs(), jnp.float32) @ (jnp.ones(F) / 4))
    expected = horizon_occupancy(paid, horizon_values(paid, H, 1.0)[2], started(batch))[1].sum(0)
    matched = jnp.tensordot(counts(batch) - expected, jnp.asarray(costs(), jnp.float32), 2)
    np.testing.assert_allclose(
        after.params["weights"] - state.params["weights"], matched / batch.mask.sum(), rtol=1e-4, atol=1e-5
    )


def test_uncertain_outcomes_match_in_the_mean():
    """The discounted likelihood of what an expert does for ever has the gradient of feature matching."""
    with enable_x64(True):
        mdp, phi = chances(), jnp.asarray(features())
        reward = linear_reward(features=features, param_dtype="float64")
        policy = planned(world=chances, rewards=lambda: reward, temperature=0.5, tolerance=1e-13)
        start, expert = jnp.ones(S) / S, jax.nn.softmax(jnp.asarray(features()[..., 0]), -1)
        demonstrated = occupancy(mdp, expert, start)
        every = Segments(*jnp.meshgrid(jnp.arange(S), jnp.arange(A), indexing="ij"), jnp.ones((S, A), bool))
        weights = jnp.asarray([0.3, -0.5, 0.2, 0.1])

        def likelihood(params):
            return (demonstrated * policy.token_logps(params, every)).sum()

        slope = jax.jit(jax.grad(likelihood))({"weights": weights})["weights"]
        mine = occupancy(mdp, jnp.exp(policy.token_logps({"weights": weights}, every)), start)
        np.testing.assert_allclose(0.5 * slope, jnp.tensordot(demonstrated - mine, phi, 2), atol=1e-9)


def mce_irl_gradient(p, phi, weights, start, demonstrated):
    """The finite-horizon algorithm in plain numpy: backward pass, forward pass, counts of features."""
    r, v, policies = phi @ weights, np.zeros(S), []
    for _ in range(H):
        q = r + p @ v
        v = np.log(np.exp(q).sum(-1))
        policies.insert(0, np.exp(q - v[:, None]))
    np.testing.assert_allclose(np.log(policies[-1]), r - np.log(np.exp(r).sum(-1, keepdims=True)), atol=1e-12)
    gradient, here = np.zeros(F), start
    for t in range(H):
        acting = here[:, None] * policies[t]
        gradient += np.einsum("sa,saf->f", demonstrated[t] - acting, phi)
        here = np.einsum("sa,sat->t", acting, p)
    return gradient


def test_the_gradient_is_that_of_mce_irl():
    """Uncertain outcomes and a horizon: expected demonstrations of another policy."""
    with enable_x64(True):
        mdp = chances(1.0)
        start, expert = (
            jnp.asarray([0.5, 0.3, 0.2, 0.0, 0.0]),
            jax.nn.softmax(jnp.asarray(features()[..., 0]), -1),
        )
        demonstrated = horizon_occupancy(mdp, jnp.broadcast_to(expert, (H, S, A)), start)[1]
        policy = planned(
            world=partial(chances, 1.0),
            rewards=partial(linear_reward, features=features, param_dtype="float64"),
            horizon=H,
        )
        grid = jnp.asarray(np.broadcast_to(np.indices((S, A))[..., None], (2, S, A, H)))
        every = Segments(grid[0], grid[1], jnp.ones((S, A, H), bool))
        weights = np.array([0.3, -0.5, 0.2, 0.1])

        def likelihood(params):
            return (demonstrated * jnp.moveaxis(policy.token_logps(params, every), -1, 0)).sum()

        slope = jax.jit(jax.grad(likelihood))({"weights": jnp.asarray(weights)})["weights"]
        p = np.asarray(mdp.transitions)
        expected = mce_irl_gradient(p, features(), weights, np.asarray(start), np.asarray(demonstrated))
        np.testing.assert_allclose(slope, expected, atol=1e-10)


def test_bayesian_likelihood_is_boltzmann_in_the_optimal_values():
    """Against plain value iteration, and its gradient against finite differences."""
    with enable_x64(True):
        rewards = partial(linear_reward, features=features, param_dtype="float64")
        policy = planned(world=chances, rewards=rewards, temperature=0.5, optimal=True, tolerance=1e-13)
        mdp, weights = chances(), jnp.asarray([0.3, -0.5, 0.2, 0.1])
        q = np.zeros((S, A))
        for _ in range(300):
            q = features() @ weights + 0.8 * np.asarray(mdp.transitions) @ q.max(-1)
        shares = np.exp(2 * q) / np.exp(2 * q).sum(-1, keepdims=True)
        batch = walks(mdp)
        found = jax.jit(policy.token_logps)({"weights": weights}, batch)
        expected = np.where(batch.mask, np.log(shares)[batch.observations, batch.actions], 0)
        np.testing.assert_allclose(found, expected, atol=1e-10)

        @jax.jit
        def total(w):
            return policy.token_logps({"weights": w}, batch).sum()

        direction, step = jnp.asarray([1.0, 2.0, -1.0, 0.5]), 1e-6
        difference = (total(weights + step * direction) - total(weights - step * direction)) / (2 * step)
        np.testing.assert_allclose(jax.grad(total)(weights) @ direction, difference, rtol=1e-6)


def test_map_with_a_gaussian_prior_descends_the_posterior():
    """The update is the gradient of (nll - log prior) / count."""
    batch = walks(corridors())
    policy = planned(world=corridors, rewards=partial(linear_reward, features=costs), horizon=H, optimal=True)
    steps = float(batch.mask.sum())
    prior = partial(gaussian_log_prior, scale=0.7)
    optimizer = partial(with_prior, optimizer=partial(optax.sgd, 1.0), log_prior=prior, count=steps)
    algorithm = sft(policy, optimizer=optimizer)
    params = {"weights": jnp.linspace(-1, 1, F)}

    def posterior(p):
        return policy.token_logps(p, batch).sum() - (p["weights"] ** 2).sum() / (2 * 0.7**2)

    after, _ = jax.jit(algorithm.step)(algorithm.init(params), batch, jax.random.key(0))
    moved = after.params["weights"] - params["weights"]
    np.testing.assert_allclose(
        moved, jax.jit(jax.grad(posterior))(params)["weights"] / steps, rtol=1e-4, atol=1e-6
    )
    assert float(laplace_log_prior(params, scale=0.5)) == pytest.approx(
        -2 * float(jnp.abs(params["weights"]).sum())
    )
    with pytest.raises(ValueError, match=r"with_prior\.count"):
        with_prior(optimizer=optimizer, log_prior=prior, count=0)


def test_tables_and_networks_are_rewards_too():
    """One-hot features and a table of states are one policy; a network starts at rewards 0 and has slopes."""
    batch = walks(corridors(0.9))
    given = np.linspace(-1, 1, S)
    table = planned(world=corridors, horizon=H, rewards=partial(tabular_reward, states=S))
    linear = planned(world=corridors, horizon=H, rewards=partial(linear_reward, features=partial(np.eye, S)))
    found = jax.jit(table.token_logps)({"rewards": jnp.asarray(given[:, None])}, batch)
    np.testing.assert_allclose(
        found, jax.jit(linear.token_logps)({"weights": jnp.asarray(given)}, batch), atol=1e-6
    )
    deep = planned(world=corridors, horizon=H, rewards=partial(mlp_reward, features=features, hidden=(8,)))
    params = deep.init(jax.random.key(0))
    flat = jax.jit(table.token_logps)(table.init(jax.random.key(0)), batch)
    value, slope = jax.jit(jax.value_and_grad(lambda p: deep.token_logps(p, batch).sum()))(params)
    assert float(value) == pytest.approx(float(flat.sum()), abs=1e-4)
    assert float(jnp.abs(slope["layer_1"]["kernel"]).max()) > 0
    assert jax.tree.structure(deep.axes(), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(
        params
    )


def test_a_potential_changes_rewards_and_no_behaviour():
    given = partial(corridors, 0.9)
    shaped = partial(shaped_reward, rewards=partial(tabular_reward, states=S), world=given)
    plain, other = (planned(world=given, rewards=r) for r in (partial(tabular_reward, states=S), shaped))
    rewards = {"rewards": jnp.linspace(-1, 1, S)[:, None]}
    potential = jnp.asarray(np.random.default_rng(5).normal(size=S), jnp.float32)
    params = {"reward": rewards, "potential": potential}
    h = np.append(np.asarray(potential)[:-1], 0)
    expected = np.linspace(-1, 1, S)[:, None] + 0.9 * np.asarray(corridors().transitions) @ h - h[:, None]
    np.testing.assert_allclose(shaped().rewards(params), expected, atol=1e-5)
    batch = walks(corridors())
    found = jax.jit(plain.token_logps)(rewards, batch)
    np.testing.assert_allclose(jax.jit(other.token_logps)(params, batch), found, atol=1e-4)
    every = Segments(*np.indices((S, A))[..., None], jnp.ones((S, A, 1), bool))
    likeliest = jax.jit(plain.token_logps)(rewards, every)[..., 0].argmax(-1)
    np.testing.assert_array_equal(jax.jit(plain.act)(rewards, jnp.arange(S), None), likeliest)
    drawn = shaped().init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, drawn) == {"reward": {"rewards": (S, 1)}, "potential": (S,)}
    assert shaped().axes() == {"reward": {"rewards": (None, None)}, "potential": (None,)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature above 0"),
        ({"horizon": 0}, "horizon of 1 or more"),
        ({"rewards": partial(tabular_reward, states=S + 1)}, r"expected \[5, 3\] or \[5, 1\]"),
        ({"rewards": partial(linear_reward, features=partial(np.ones, S))}, "expected finite"),
        ({"rewards": partial(linear_reward, features=features, initial=(1,))}, "expected 4 weights, got"),
        ({"rewards": partial(tabular_reward, states=S, initial=(1,))}, "expected rewards of shape"),
        ({"rewards": partial(mlp_reward, features=features, hidden=())}, "one width or more"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        planned(**{"world": corridors, "rewards": partial(linear_reward, features=features)} | arguments)


def test_demonstrations_longer_than_the_horizon_are_an_error():
    policy = planned(world=corridors, rewards=partial(linear_reward, features=features), horizon=H - 1)
    with pytest.raises(ValueError, match="segments of 6 steps and a horizon of 5"):
        policy.token_logps(policy.init(jax.random.key(0)), walks(corridors()))


def test_values_without_a_limit_are_an_error_before_anything_runs():
    rewards = partial(linear_reward, features=costs)
    with pytest.raises(
        DivergentValues, match=r"not finite at discount 1 and temperature 1: .* spectral radius"
    ):
        planned(world=corridors, rewards=rewards)
    planned(world=corridors, rewards=rewards, optimal=True)  # at rewards 0 no loop is worth anything
    planned(world=corridors, rewards=rewards, horizon=H)
    planned(world=partial(corridors, 0.9), rewards=rewards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"observations": np.array([[[0, S, 0]]])}, r"step 1 is in state 5, and the world has states 0 to 4"),
        ({"observations": np.array([[[0, -1, 0]]])}, "step 1 is in state -1"),
        ({"observations": np.array([[[0, S - 1, 0]]])}, "step 1 acts in state 4, which is terminal"),
        ({"observations": np.zeros((1, 1, 3, 2))}, "expected segments of numbered states"),
    ],
)
def test_records_of_another_world_are_refused(change, message):
    """The last step is padding: whatever stands there."""
    given = {
        "observations": np.array([[[0, 1, S - 1]]]),
        "actions": np.zeros((1, 1, 3), np.int64),
        "step_lengths": np.array([[2]]),
    }
    check = planned(world=corridors, rewards=partial(linear_reward, features=features), horizon=H).check
    if message is None:
        return check(SegmentRecords(**given))
    with pytest.raises(ValueError, match=message):
        check(SegmentRecords(**(given | change)))
