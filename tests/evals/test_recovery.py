"""What is said of learnt rewards: exact at the truth, blind to shaping where behaviour is."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.environments import gridworld
from jaxpref.evals import policy_recovery, reward_recovery
from jaxpref.evals.base import Context
from jaxpref.planning import policy_values, values
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


def evaluated(rewards, **settings):
    table = partial(tabular_reward, states=STATES, actions=ACTIONS)
    learnt = context(planned(world=world, rewards=table), {"rewards": jnp.asarray(rewards, jnp.float32)})
    return reward_recovery(learnt, world=world, rewards=table, start=anywhere, **settings)


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


def test_hidden_and_learnt_rewards_are_drawn_and_other_policies_stand_beside():
    true = np.broadcast_to(np.array(HIDDEN)[:, None], (STATES, ACTIONS))
    beside = {"best": lambda: values(world())[2], "uniform": lambda: np.full((STATES, ACTIONS), 0.2)}
    found = evaluated(-true, width=3, beside=beside)
    hidden, learnt = found.pictures
    assert (hidden.kind, hidden.title, learnt.title) == ("grid policy", "hidden", "learnt")
    np.testing.assert_allclose(hidden.data["values"], np.reshape(HIDDEN, (2, 3)), atol=1e-4)
    np.testing.assert_allclose(learnt.data["values"], -np.reshape(HIDDEN, (2, 3)), atol=1e-4)
    expert = np.reshape(values(world())[2], (2, 3, ACTIONS))
    np.testing.assert_allclose(hidden.data["policy"], expert, atol=1e-3)
    assert np.argmax(learnt.data["policy"][1][0]) in (0, 4)
    assert found.metrics["value share, best"].mean == pytest.approx(1, abs=1e-5)
    assert found.metrics["value share, uniform"].mean == pytest.approx(0, abs=1e-5)


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


def test_learners_are_drawn_by_their_values_or_by_the_discriminators_rewards():
    table = state_table(states=STATES, actions=ACTIONS)
    given = jnp.arange(STATES, dtype=jnp.float32)[:, None]
    learnt = dataclasses.replace(
        context(table, {"logits": jnp.zeros((STATES, ACTIONS))}),
        member={"discriminator": {"reward": {"rewards": given}}}.__getitem__,
    )
    inside = {"discriminator": partial(tabular_reward, states=STATES), "part": "reward"}
    by_value, by_reward = (
        policy_recovery(learnt, world=world, start=anywhere, width=3, **more) for more in ({}, inside)
    )
    uniform = jnp.full((STATES, ACTIONS), 0.2)
    shown = [np.ravel(p.data["values"]) for p in (by_value.pictures[1], *by_reward.pictures)]
    np.testing.assert_allclose(shown[0], policy_values(world(), uniform), atol=1e-3)
    np.testing.assert_allclose(shown[1], HIDDEN, atol=1e-4)
    np.testing.assert_allclose(shown[2], range(STATES))
    assert by_value.pictures[0].data["label"] == "true value of the policy (hidden)"
    np.testing.assert_allclose(by_value.pictures[1].data["policy"], 0.2)
    expected = np.corrcoef(HIDDEN, range(STATES))[0, 1]
    assert by_reward.metrics["reward correlation"].mean == pytest.approx(expected, abs=1e-5)
    assert "reward correlation" not in by_value.metrics
