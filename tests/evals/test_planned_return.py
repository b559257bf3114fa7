"""What an evaluator says of tables of rewards, and the pictures it asks for."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.environments import delivery
from jaxpref.evals import budget_shares, planned_return, value_sweeps
from jaxpref.evals.base import Context
from jaxpref.evals.planned import grid_picture, learned_rewards, step_scores
from jaxpref.planning import greedy_policy, optimal_policy, policy_values, score_by_return
from jaxpref.policies.rewarded import linear_scores

BOARD = ("0041", "0230")


def world():
    return delivery(board=BOARD, discount=0.9)


def context(weights):
    policy = linear_scores(world=world)

    def rewards(batch):
        return score_by_return(world(), weights, batch.observations, batch.actions, batch.step_mask)

    return Context(policy, {"weights": weights}, None, 0, rewards, put=lambda x: x, fetch=np.asarray)


def test_true_weights_are_optimal_and_tables_are_read_as_told():
    truth = world().weights
    for table in (step_scores, learned_rewards):
        entries = table(context(truth), world())
        np.testing.assert_allclose(entries, world().mdp.rewards, atol=1e-5)
        found = planned_return(context(truth), world=world, table=table)
        assert found.metrics["scaled return"].mean == pytest.approx(1, abs=1e-5)
        assert found.metrics["largest entry"].mean == pytest.approx((-1 + 0 + 50 - 1 + 50) / 5, abs=1e-4)
    greedy = planned_return(context(truth), world=world, read=greedy_policy, name="greedy")
    assert greedy.metrics["scaled return"].mean < 0.9
    worst = planned_return(context(-truth), world=world)
    assert worst.metrics["scaled return"].mean < 0


def test_a_policy_on_a_grid_is_drawn_with_its_values_and_its_ends():
    built = world()
    best = optimal_policy(built.mdp)
    picture = grid_picture("best", built, best)
    assert picture.kind == "grid policy"
    assert picture.data["marks"] == [["", "", "", "+"], ["", "x", "-", ""]]
    values = picture.data["values"]
    assert values[0][3] is None
    np.testing.assert_allclose(values[0][:3], policy_values(built.mdp, best)[:3], atol=1e-3)
    np.testing.assert_allclose(picture.data["policy"][0][2], [0, 0, 0, 1])
    np.testing.assert_allclose(picture.data["policy"][0][3], 0)
    assert planned_return(context(built.weights), world=world).pictures[0].title == "planned"


def test_sweeps_with_a_table_that_pays_for_loops_do_not_converge():
    truth = world().weights
    converged = value_sweeps(context(truth), world=world, sweeps=30)
    assert converged.metrics["residual"].mean == 0
    loops = jnp.array([10.0, -50, -50, 0, 0, 0])  # gas pays: going round is worth 100, the ends nothing
    paid = value_sweeps(context(loops), world=world, sweeps=30)
    lines = {name: line["y"] for name, line in paid.pictures[0].data["lines"].items()}
    assert lines["true rewards"] == converged.pictures[0].data["lines"]["true rewards"]["y"]
    np.testing.assert_allclose(np.array(lines["learned"][1:]) / lines["learned"][:-1], 0.9, rtol=1e-3)
    assert lines["bound: discount^sweep"][0] == lines["true rewards"][0]


def test_shares_of_budgets():
    logits = np.log([[0.25, 0.75], [0.5, 0.5]])
    shown = Context(
        linear_scores(world=world), {"budget_logits": logits}, None, 0, lambda b: b, lambda x: x, np.asarray
    )
    found = budget_shares(shown, budgets=(1, 5)).metrics
    assert found["agent 0, 5 steps"].mean == pytest.approx(0.75)
    assert found["agent 0, mean steps"].mean == pytest.approx(4)
    assert found["agent 1, 1 steps"].mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="3 budgets, and the policy has 2"):
        budget_shares(shown, budgets=(1, 2, 3))
