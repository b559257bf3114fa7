"""The gradient through planning is f-IRL's covariance over trajectories, and descent ends at the expert."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.occupancy_matching import occupancy_matching
from jaxpref.losses import conjugates
from jaxpref.planning import TabularMDP, deterministic_mdp, occupancy
from jaxpref.policies.planned import planned
from jaxpref.policies.reward_functions import tabular_reward
from jaxpref.policies.states import state_table
from jaxpref.types import Segments

S, A, H = 4, 2, 3
SUCCESSORS = np.random.default_rng(5).integers(0, S, (S, A))
KEY = jax.random.key(0)


def corridors():
    return deterministic_mdp(SUCCESSORS, np.zeros((S, A)), np.zeros(S, bool))


def every_plan():
    """All plans of actions from state 0, as segments."""
    plans = np.array(list(itertools.product(range(A), repeat=H)))
    states = np.zeros(plans.shape, int)
    for i, plan in enumerate(plans):
        for t in range(H - 1):
            states[i, t + 1] = SUCCESSORS[states[i, t], plan[t]]
    return states, plans


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_planning_differentiates_to_the_covariance_of_f_irl(kind):
    """Rewards of states and actions; at rewards 0 all trajectories are alike, as `losses.f_irl` asks."""
    with enable_x64(True):
        states, plans = every_plan()
        weights = np.random.default_rng(0).dirichlet(np.ones(len(plans)))
        batch = Segments(
            jnp.asarray(states)[:, None],
            jnp.asarray(plans)[:, None],
            jnp.ones((len(plans), 1, H), bool),
            columns={"weights": jnp.asarray(weights)},
        )
        rewards = partial(tabular_reward, states=S, actions=A, param_dtype="float64")
        policy = planned(world=corridors, rewards=rewards, horizon=H)
        algorithm = occupancy_matching(
            policy,
            world=corridors,
            optimizer=partial(optax.sgd, 1.0),
            divergence=getattr(conjugates, f"{kind}_divergence"),
            horizon=H,
            smoothing=0.0,
        )
        counts = np.zeros((len(plans), S, A))
        for i in range(len(plans)):
            np.add.at(counts[i], (states[i], plans[i]), 1)
        expert, mine = weights @ counts.reshape(-1, S * A) / H, counts.mean(0).reshape(-1) / H
        assert mine.min() > 0  # plans from state 0 go everywhere
        ratios = np.log(expert / mine).reshape(S, A)[states, plans]

        def surrogate(r):
            returns = jnp.einsum("nsa,sa->n", jnp.asarray(counts), r)
            return losses.f_irl(
                returns[:, None],
                jnp.asarray(ratios)[:, None],
                batch.mask,
                weights=getattr(conjugates, f"{kind}_weights"),
            ).mean()

        expected = jax.grad(surrogate)(jnp.zeros((S, A)))
        state = algorithm.init({"rewards": jnp.zeros((S, A))})
        after, metrics = jax.jit(algorithm.step)(state, batch, KEY)
        found = state.params["rewards"] - after.params["rewards"]
        np.testing.assert_allclose(found, expected, atol=1e-10)
        assert float(jnp.abs(expected).max()) > 0.01
        assert float(metrics["loss"].total) > 0
        assert float(metrics["occupancy/distance"].total) == pytest.approx(np.abs(expert - mine).sum() / 2)


def chances():
    transitions = np.random.default_rng(3).dirichlet(np.ones(S), (S, A))
    return TabularMDP(jnp.asarray(transitions, jnp.float32), jnp.zeros((S, A)), jnp.zeros(S, bool), 0.8)


@pytest.mark.parametrize("player", ["planned", "table"])
def test_descent_ends_at_the_expert(player):
    start = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    expert = jax.nn.softmax(jnp.asarray(np.random.default_rng(4).normal(size=(S, A)), jnp.float32), -1)
    states, actions = (jnp.asarray(x.reshape(-1, 1, 1)) for x in np.indices((S, A)))
    often = occupancy(chances(), expert, jnp.asarray(start)).reshape(-1)
    batch = Segments(states, actions, jnp.ones(states.shape, bool), columns={"weights": often})
    if player == "planned":
        policy = planned(world=chances, rewards=partial(tabular_reward, states=S, actions=A))
    else:
        policy = state_table(states=S, actions=A)
    algorithm = occupancy_matching(
        policy, world=chances, optimizer=partial(optax.adam, 0.05), start=lambda: start, smoothing=0.0
    )
    state = algorithm.init(policy.init(KEY))

    @jax.jit
    def descend(state):
        return jax.lax.scan(lambda s, _: algorithm.step(s, batch, KEY), state, None, length=300)

    state, metrics = descend(state)
    assert float(metrics["loss"].total[-1]) < 1e-5 < float(metrics["loss"].total[0])
    every = Segments(*np.indices((S, A))[..., None], jnp.ones((S, A, 1), bool))
    np.testing.assert_allclose(jnp.exp(policy.token_logps(state.params, every))[..., 0], expert, atol=3e-3)


def test_arrivals_are_the_states_after_the_actions():
    """A table that steers: the divergence of next states alone, with a little of everything mixed in."""
    batch = Segments(jnp.asarray([[[0]]]), jnp.asarray([[[1]]]), jnp.ones((1, 1, 1), bool))
    algorithm = occupancy_matching(
        state_table(states=S, actions=A),
        world=chances,
        optimizer=partial(optax.sgd, 1.0),
        horizon=1,
        arrivals=True,
        smoothing=0.1,
    )
    metrics = jax.jit(algorithm.evaluate)(algorithm.init({"logits": jnp.zeros((S, A))}), batch, KEY)
    p = np.asarray(chances().transitions)
    expert, mine = (0.9 * x + 0.1 / S for x in (p[0, 1], p[0].mean(0)))
    assert float(metrics["loss"].total) == pytest.approx((mine * np.log(mine / expert)).sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smoothing": 1.0}, "smoothing"),
        ({"horizon": 0}, "horizon: expected 1 or more"),
        ({"world": lambda: chances()._replace(rewards=jnp.zeros((S, 3)))}, "3 actions, and the policy 2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    given = {"world": chances, "optimizer": partial(optax.sgd, 1.0)} | arguments
    with pytest.raises(ValueError, match=message):
        occupancy_matching(state_table(states=S, actions=A), **given)
