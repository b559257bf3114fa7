"""Two players on tables: the learner ends at the expert, and what the discriminator knows then."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpref import losses
from jaxpref.algorithms.adversarial import adversarial
from jaxpref.losses.imitation import airl_rewards, gail_rewards
from jaxpref.planning import TabularMDP, occupancy
from jaxpref.policies.reward_functions import tabular_reward
from jaxpref.policies.states import state_table
from jaxpref.types import Segments

S, A = 4, 3
KEY = jax.random.key(0)
START = np.array([0.4, 0.3, 0.2, 0.1], np.float32)


def world():
    transitions = np.random.default_rng(3).dirichlet(np.ones(S), (S, A))
    return TabularMDP(jnp.asarray(transitions, jnp.float32), jnp.zeros((S, A)), jnp.zeros(S, bool), 0.8)


EXPERT = jax.nn.softmax(jnp.asarray(np.random.default_rng(4).normal(size=(S, A)), jnp.float32), -1)


def everything():
    """Each state and action once, with the expert's occupancy as its weight."""
    states, actions = (jnp.asarray(x.reshape(-1, 1, 1)) for x in np.indices((S, A)))
    often = occupancy(world(), EXPERT, jnp.asarray(START)).reshape(-1)
    return Segments(states, actions, jnp.ones(states.shape, bool), columns={"weights": often})


def players(**arguments):
    given: dict = {
        "world": world,
        "rewards": partial(tabular_reward, states=S, actions=A),
        "optimizer": partial(optax.adam, 0.05),
        "start": lambda: START,
    }
    return adversarial(state_table(states=S, actions=A), **given | arguments)


def played(algorithm, steps):
    state = algorithm.init({"logits": jnp.zeros((S, A))})

    @jax.jit
    def play(state):
        return jax.lax.scan(lambda s, _: algorithm.step(s, everything(), KEY), state, None, length=steps)

    return play(state)


@pytest.mark.parametrize(
    ("loss", "earns", "settings"),
    [
        (losses.gail, gail_rewards, {"step_size": 0.2}),
        (losses.airl, airl_rewards, {"step_size": 0.2}),
    ],
)
def test_the_learner_ends_at_the_expert(loss, earns, settings):
    state, metrics = played(players(loss=loss, earns=earns, discriminator_steps=5, **settings), 800)
    assert float(metrics["occupancy/distance"].total[0]) > 0.1
    assert float(metrics["occupancy/distance"].total[-1]) < 2e-3
    np.testing.assert_allclose(metrics["loss"].total[-1], 2 * np.log(2), atol=1e-3)
    np.testing.assert_allclose(jax.nn.softmax(state.params["logits"], -1), EXPERT, atol=5e-3)
    if loss is losses.airl:
        np.testing.assert_allclose(state.discriminator["rewards"], jnp.log(EXPERT), atol=0.02)


def test_one_step_is_what_it_says():
    """The discriminator by plain sums, then the learner by the values of what it earns."""
    algorithm = players(optimizer=partial(optax.sgd, 0.3), step_size=0.4, temperature=0.1)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(S, A)), jnp.float32)
    state = algorithm.init({"logits": logits})
    after, metrics = jax.jit(algorithm.step)(state, everything(), KEY)
    pi = np.asarray(jax.nn.softmax(logits, -1), np.float64)
    p = np.asarray(world().transitions, np.float64)

    def share(policy):
        kernel = np.einsum("sa,sat->st", policy, p)
        visits = np.linalg.solve(np.eye(S) - 0.8 * kernel.T, START)
        return 0.2 * visits[:, None] * policy

    expert, mine = share(np.asarray(EXPERT, np.float64)), share(pi)
    discriminator = 0.3 * (expert - mine) / 2  # the slope of softplus at 0 is a half
    np.testing.assert_allclose(after.discriminator["rewards"], discriminator, atol=1e-6)
    earned = np.log1p(np.exp(discriminator)) - 0.1 * np.log(pi)
    kernel = np.einsum("sa,sat->st", pi, p)
    v = np.linalg.solve(np.eye(S) - 0.8 * kernel, (pi * earned).sum(-1))
    new = pi * np.exp(0.4 * (earned + 0.8 * p @ v))
    np.testing.assert_allclose(
        jax.nn.softmax(after.params["logits"], -1), new / new.sum(-1, keepdims=True), atol=1e-5
    )
    found = {name: float(m.total) for name, m in metrics.items()}
    assert found["loss"] == pytest.approx(2 * np.log(2), rel=1e-6)
    assert found["occupancy/distance"] == pytest.approx(np.abs(expert - mine).sum() / 2, rel=1e-4)
    assert found["nll"] == pytest.approx(-(expert * np.log(pi)).sum(), rel=1e-5)
    assert found["entropy"] == pytest.approx(-(mine * np.log(pi)).sum(), rel=1e-5)


def test_first_states_and_discounts_are_those_of_the_demonstrations():
    """Two steps each: the second weighs the discount, and the learner starts where they do."""
    algorithm = players(start=None)
    batch = Segments(
        jnp.asarray([[[1, 2]], [[3, 0]]]), jnp.asarray([[[0, 1]], [[2, 2]]]), jnp.ones((2, 1, 2), bool)
    )
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(S, A)), jnp.float32)
    state = algorithm.init({"logits": logits})
    metrics = jax.jit(algorithm.evaluate)(state, batch, KEY)
    expert = np.zeros((S, A))
    expert[[1, 3], [0, 2]], expert[[2, 0], [1, 2]] = 1 / 3.6, 0.8 / 3.6
    begun = jnp.asarray([0, 0.5, 0, 0.5], jnp.float32)
    logps = jax.nn.log_softmax(logits, -1)
    mine = 0.2 * occupancy(world(), jnp.exp(logps), begun)
    assert float(metrics["nll"].total) == pytest.approx(-float((expert * logps).sum()), rel=1e-5)
    assert float(metrics["occupancy/distance"].total) == pytest.approx(
        float(np.abs(expert - mine).sum() / 2), rel=1e-4
    )
    rewards = algorithm.rewards(dataclass_with(state, jnp.arange(12.0).reshape(S, A)), batch)
    np.testing.assert_allclose(rewards[:, 0], [3 + 7, 11 + 2])


def dataclass_with(state, rewards):
    return type(state)(state.step, state.params, {"rewards": rewards}, state.opt_state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"temperature": -1.0}, "temperature"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"world": lambda: world()._replace(rewards=jnp.zeros((S, A + 1)))}, "expected a policy with params"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        players(**arguments)
