"""Grids, their features, and walks on them."""

import numpy as np
import pytest

from jaxpref.data.behaviour.demonstrations import demonstrations
from jaxpref.environments import gridworld, object_features
from jaxpref.planning import horizon_occupancy, horizon_values, values


def grid(**arguments):
    return gridworld(**{"height": 2, "width": 3} | arguments)


def test_moves_stay_on_the_grid():
    """Cells   0 1 2
    3 4 5 ; up, down, left, right, stay."""
    after = np.asarray(grid().transitions)
    np.testing.assert_array_equal(after.argmax(-1)[0], [0, 3, 0, 1, 0])
    np.testing.assert_array_equal(after.argmax(-1)[5], [2, 5, 4, 5, 5])
    np.testing.assert_allclose(after.sum(-1), 1)
    slipped = np.asarray(grid(slip=0.5).transitions)
    np.testing.assert_allclose(slipped[0, 1], [0.3, 0.1, 0, 0.6, 0, 0], atol=1e-6)


def test_the_best_walk_goes_to_the_reward():
    mdp = grid(rewards=(0, 0, 0, 0, 0, 1), discount=0.9)
    policy = values(mdp)[2]
    assert policy[5, 1] > 0  # stays at the corner, by one of three moves
    assert float(policy[0, 1] + policy[0, 3]) == pytest.approx(1, abs=1e-6)
    ended = grid(rewards=(-1.0,) * 6, terminal=(5,), discount=1.0)
    np.testing.assert_allclose(values(ended)[0], [-3, -2, -1, -2, -1, 0], atol=1e-5)


def test_features_are_closeness():
    found = object_features(height=4, width=5, objects=5, kinds=2, reach=2.0, seed=3)
    assert found.shape == (20, 2)
    assert ((found > 0) & (found <= 1)).all()
    np.testing.assert_array_equal((found == 1).sum(0), [3, 2])  # objects 0, 2, 4 and 1, 3
    steps = -2 * np.log(found)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)


def test_walks_do_what_the_policy_says():
    """Shares of states and actions at each time step are the occupancies; walks end on arrival."""
    mdp = grid(rewards=(-1.0, 0.5, 0.0, -0.5, 0.0, 0.0), slip=0.2, terminal=(5,), discount=0.9)
    steps, num = 4, 20_000
    policies, start = np.asarray(horizon_values(mdp, steps, 0.7)[2]), np.array([0.6, 0.4, 0, 0, 0, 0])
    policies = policies / policies.sum(-1, keepdims=True)
    walks = demonstrations(mdp, policies, start=start, num=num, steps=steps)
    _, expected = horizon_occupancy(mdp, policies, start.astype(np.float32))
    for t in range(steps):
        going = walks.step_lengths[:, 0] > t
        found = np.zeros((6, 5))
        np.add.at(found, (walks.observations[going, 0, t], walks.actions[going, 0, t]), 1 / num)
        np.testing.assert_allclose(found, expected[t], atol=4 * 0.5 / num**0.5)
    assert (walks.step_lengths < steps).any()
    again = demonstrations(mdp, policies, start=start, num=10, steps=steps, seed=0)
    assert (
        again.observations == demonstrations(mdp, policies, start=start, num=10, steps=steps).observations
    ).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: grid(height=0), "height and width of 1 or more"),
        (lambda: grid(slip=1.5), r"slip in \[0, 1\]"),
        (lambda: grid(terminal=(6,)), "numbers of states below 6"),
        (lambda: grid(rewards=(1.0,)), "expected 6 numbers"),
        (lambda: object_features(height=2, width=2, objects=5, kinds=2), "kinds <= objects <= cells"),
        (lambda: walk(policy=np.ones((6, 4)) / 4), "expected a policy"),
        (lambda: walk(policy=np.ones((6, 5))), "off a sum of 1 by 4"),
        (lambda: walk(policy=np.full((6, 5), np.nan)), "off a sum of 1 by nan"),
        (lambda: walk(start=np.eye(6)[5]), "start has probability in a terminal state"),
        (lambda: walk(num=0), "num and steps of 1 or more"),
    ],
)
def test_bad_worlds_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def walk(**arguments):
    given = {"policy": np.full((6, 5), 0.2), "start": np.eye(6)[0], "num": 1, "steps": 3} | arguments
    return demonstrations(grid(terminal=(5,)), given.pop("policy"), **given)
