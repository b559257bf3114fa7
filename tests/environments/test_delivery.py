"""The delivery domain: what each kind of cell does, boards that are refused, and random boards."""

import numpy as np
import pytest

from jaxpref.environments import delivery, random_delivery, varied_delivery
from jaxpref.environments.delivery import FEATURES
from jaxpref.planning import values

UP, DOWN, LEFT, RIGHT = range(4)
BOARD = (
    "0431",
    "6a20",
    "5b70",
)  # blank coin sheep goal; mud, muddy coin, house, blank; block, muddy block, ...


@pytest.fixture(scope="module")
def world():
    return delivery(board=BOARD)


@pytest.mark.parametrize(
    ("cell", "action", "to", "seen", "reward"),
    [
        (0, RIGHT, 1, {"gas": 1, "coin": 1}, 0),
        (0, DOWN, 4, {"mud": 1}, -2),
        (0, UP, 0, {"gas": 1}, -1),  # off the board
        (1, LEFT, 0, {"gas": 1}, -1),
        (1, UP, 1, {"gas": 1}, -1),  # staying finds no coin
        (1, RIGHT, 2, {"sheep": 1}, -50),
        (1, DOWN, 5, {"mud": 1, "coin": 1}, -1),
        (4, LEFT, 4, {"mud": 1}, -2),
        (5, RIGHT, 5, {"mud": 1}, -2),  # into a house, on mud
        (5, DOWN, 9, {"mud": 1, "roadblock": 1}, -3),
        (4, DOWN, 8, {"gas": 1, "roadblock": 1}, -2),
        (8, DOWN, 8, {"gas": 1}, -1),  # staying meets no roadblock
        (9, RIGHT, 10, {"goal": 1}, 50),  # a goal on mud
        (7, UP, 3, {"goal": 1}, 50),
        (7, LEFT, 7, {"gas": 1}, -1),  # into a house
        (3, DOWN, 3, {}, 0),  # it is over
        (6, UP, 6, {}, 0),  # nobody is in a house
    ],
)
def test_what_a_move_does(world, cell, action, to, seen, reward):
    assert int(world.mdp.transitions[cell, action].argmax()) == to
    expected = [seen.get(name, 0) for name in FEATURES]
    np.testing.assert_array_equal(world.features[cell, action], expected)
    assert float(world.mdp.rewards[cell, action]) == reward
    assert float(world.features[cell, action] @ world.weights) == pytest.approx(reward)


def test_ends_and_starts(world):
    np.testing.assert_array_equal(np.flatnonzero(world.mdp.terminal), [2, 3, 6, 10])
    np.testing.assert_allclose(world.start, np.where(world.mdp.terminal, 0, 1 / 8))
    assert world.shape == (3, 4)
    codes = delivery(board=np.array([[int(c, 16) for c in row] for row in BOARD]))
    np.testing.assert_array_equal(codes.features, world.features)


def test_our_board_is_worth_delivering_on():
    """Without discount every cell is worth the goal less its way there, and none the sheep."""
    world = delivery(discount=1.0)
    v = np.asarray(values(world.mdp)[0])[np.asarray(world.start) > 0]
    assert v.max() == 50
    assert 20 < v.min() < 45
    assert np.asarray(world.mdp.terminal).sum() == 18


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"board": ("00", "0")}, r"rows are \[1, 2\] cells long"),
        ({"board": np.full((2, 2), 12)}, r"codes 0 to 11 \[rows, columns\], got \[12\]"),
        ({"board": np.zeros(3)}, r"got \(3,\)"),
        ({"board": ("11",)}, "leave one to start in"),
        ({"board": ("0201",), "discount": 1.0}, r"no episode from cell \(0, 0\) ends"),
        ({"discount": 0.0}, r"discount: expected a number in \(0, 1\], got 0.0"),
        ({"weights": (1.0, 2.0)}, "weights: expected one for each of"),
    ],
)
def test_bad_boards_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        delivery(**settings)


def test_random_boards_have_their_shares_and_reach_the_goal():
    world = random_delivery(seed=5, rows=8, columns=7, sheep=0.2, coins=0.1, houses=0.1, mud=0.5)
    again = random_delivery(seed=5, rows=8, columns=7, sheep=0.2, coins=0.1, houses=0.1, mud=0.5)
    np.testing.assert_array_equal(world.mdp.transitions, again.mdp.transitions)
    assert int(np.asarray(world.mdp.terminal).sum()) == 1 + 11 + 5
    goal = world._replace(mdp=world.mdp._replace(rewards=world.features[..., 1], discount=1.0))
    np.testing.assert_allclose(values(goal.mdp, max_sweeps=60)[1].max(-1)[world.start > 0], 1, rtol=1e-5)
    with pytest.raises(ValueError, match="do not fit into 56 cells"):
        random_delivery(seed=0, rows=8, columns=7, sheep=0.9, coins=0.2)
    with pytest.raises(ValueError, match="in 1,000 draws"):
        random_delivery(seed=0, rows=8, columns=7, sheep=0.8)


def test_varied_boards_are_what_the_generator_says():
    seen = [varied_delivery(seed=seed) for seed in range(12)]
    assert {w.shape[0] for w in seen} <= {3, 6, 10, 15}
    assert {w.shape[1] for w in seen} <= {5, 6, 10}
    assert len({w.shape for w in seen}) > 3
    assert {float(w.weights[1]) for w in seen} <= {0, 1, 5, 10, 50}
