"""What is said of learnt rewards: exact at the truth, blind to shaping where behaviour is."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.environments import gridworld
from jaxpref.evals import reward_recovery
from jaxpref.evals.base import Context
from jaxpref.policies.planned import planned
from jaxpref.policies.reward_functions import reward_table_of_states

STATES, ACTIONS = 6, 5
HIDDEN = (0.0, -1.0, 0.0, 0.5, 0.0, 1.0)
world = partial(gridworld, height=2, width=3, rewards=HIDDEN, discount=0.8)


def recovered(rewards):
    table = partial(reward_table_of_states, states=STATES, actions=ACTIONS)
    context = Context(
        policy=planned(world=world, rewards=table),
        params={"rewards": jnp.asarray(rewards, jnp.float32)},
        tokenizer=None,
        seed=0,
        rewards=lambda batch: batch,
        put=jnp.asarray,
        fetch=np.asarray,
    )
    found = reward_recovery(context, world=world, rewards=table, start=lambda: np.full(STATES, 1 / STATES))
    return {name: estimate.mean for name, estimate in found.metrics.items()}


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
