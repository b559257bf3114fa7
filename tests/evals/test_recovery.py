"""What is said of learnt rewards: exact at the truth, blind to shaping where behaviour is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.environments import gridworld
from jaxpref.evals import policy_recovery, reward_recovery
from jaxpref.evals.base import Context
from jaxpref.planning import values
from jaxpref.policies.planned import planned
from jaxpref.policies.reward_functions import tabular_reward
from jaxpref.policies.states import state_table

STATES, ACTIONS = 6, 5
HIDDEN = (0.0, -1.0, 0.0, 0.5, 0.0, 1.0)
world = partial(gridworld, height=2, width=3, rewards=HIDDEN, discount=0.8)


def context(policy, params):
    return Context(
        policy=policy,
        params=params,
        tokenizer=None,
        seed=0,
        rewards=lambda batch: batch,
        put=jnp.asarray,
        fetch=jax.device_get,
    )


def anywhere():
    return np.full(STATES, 1 / STATES)


def evaluated(rewards):
    table = partial(tabular_reward, states=STATES, actions=ACTIONS)
    learnt = context(planned(world=world, rewards=table), {"rewards": jnp.asarray(rewards, jnp.float32)})
    return reward_recovery(learnt, world=world, rewards=table, start=anywhere, width=3)


def recovered(rewards):
    return {name: estimate.mean for name, estimate in evaluated(rewards).metrics.items()}


def test_the_truth_and_what_behaves_alike_are_recovered():
    true = np.broadcast_to(np.array(HIDDEN)[:, None], (STATES, ACTIONS))
    found = recovered(true)
    assert found == pytest.approx(
        {"policy KL": 0, "reward correlation": 1, "value difference": 0, "value share": 1}, abs=2e-5
    )
    potential = np.random.default_rng(0).normal(size=STATES)
    shaped = true + 0.8 * np.asarray(world().transitions) @ potential - potential[:, None]
    found = recovered(shaped)
    assert found["policy KL"] == pytest.approx(0, abs=2e-5)
    assert found["value difference"] == pytest.approx(0, abs=2e-5)
    assert found["reward correlation"] < 0.9


def test_rewards_upside_down_are_not():
    true = np.broadcast_to(np.array(HIDDEN)[:, None], (STATES, ACTIONS))
    found = recovered(-true)
    assert found["reward correlation"] == pytest.approx(-1, abs=1e-5)
    assert found["policy KL"] > 0.1
    assert found["value difference"] > 1
    assert found["value share"] < 0
    assert recovered(np.zeros((STATES, ACTIONS)))["value share"] == pytest.approx(0, abs=1e-5)
    assert recovered(np.zeros((STATES, ACTIONS)))["reward correlation"] == 0


def test_moves_and_rewards_are_shown():
    true = np.broadcast_to(np.array(HIDDEN)[:, None], (STATES, ACTIONS))
    moves, rewards = evaluated(-true).samples
    assert rewards.prompt == "4 0 4\n7 4 9"
    assert rewards.response == "4 9 4\n2 4 0"
    assert moves.prompt.splitlines()[0][-1] == "↓"
    assert moves.response.splitlines()[0][2] in "o↑"


def test_policies_are_held_against_the_soft_expert():
    """The expert itself, uniform choices, and better than the expert for being greedy."""
    table = state_table(states=STATES, actions=ACTIONS)

    def found(logits):
        learnt = context(table, {"logits": jnp.asarray(logits, jnp.float32)})
        metrics = policy_recovery(learnt, world=world, start=anywhere).metrics
        return [metrics[name].mean for name in ("policy KL", "value share")]

    expert = jnp.log(values(world(), 1.0)[2])
    assert found(expert) == pytest.approx([0, 1], abs=2e-5)
    assert found(jnp.zeros((STATES, ACTIONS)))[1] == pytest.approx(0, abs=1e-5)
    greedy = found(3 * expert)
    assert greedy[0] > 0.05
    assert greedy[1] > 1.1
