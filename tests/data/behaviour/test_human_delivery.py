"""Comparisons in the delivery domain: simulated ones, and files in the public format."""

import json
import pickle
import sys
import types
from functools import partial

import numpy as np
import pytest

from jaxpref.data.behaviour.human_delivery import delivery_board, human_delivery, write_human_delivery
from jaxpref.data.behaviour.simulated import (
    preferred_first,
    random_segments,
    simulated_agents,
    simulated_comparisons,
)
from jaxpref.environments import delivery
from jaxpref.environments.delivery import BOARD
from jaxpref.planning import score_by_regret, score_by_return, values
from jaxpref.types import check_segments

CELLS = np.array([[int(code, 16) for code in row] for row in BOARD])
world = partial(delivery, discount=0.99)
compared = partial(simulated_comparisons, world=world, num_pairs=300)


def test_simulated_people_compare_what_they_are_told_to():
    by_return = compared(score=score_by_return, temperature=0)
    check_segments(by_return.rows(np.arange(300)))
    rewards, mask = np.asarray(world().mdp.rewards), np.arange(3) < by_return.step_lengths[..., None]
    returns = (rewards[by_return.observations, by_return.actions] * mask).sum(-1)
    expected = 0.5 + 0.5 * np.sign(np.round(returns[:, 0] - returns[:, 1], 4))
    np.testing.assert_array_equal(by_return.preferences[:, 0, 1], expected)
    assert (expected >= 0.5).all()
    soft = compared(hard=False, temperature=4.0)
    chance = soft.preferences[:, 0, 1]
    assert 0.5 <= chance.min() < 0.6 < 0.9 < chance.max()


def test_drawn_labels_have_their_frequencies():
    """The likelier side is drawn as often as the probabilities say."""
    settings = {"num_pairs": 3000, "temperature": 4.0, "seed": 3}
    chance, hard = compared(hard=False, **settings), compared(**settings)
    # The same segments, perhaps in the other order.
    same = (chance.observations == hard.observations).all((1, 2)) & (chance.actions == hard.actions).all(
        (1, 2)
    )
    assert same.mean() == pytest.approx(chance.preferences[:, 0, 1].mean(), abs=0.03)


@pytest.mark.parametrize("shares", [[[0.5, np.nan]], [[1.5, -0.5]], [[0.5, 0.4]], [[1.0]]])
def test_shares_that_are_no_probabilities_are_refused(shares):
    with pytest.raises(ValueError, match="expected one probability for each of 2 budgets"):
        simulated_agents(world=world, budgets=(1, 2), shares=shares, num_segments=2)


def test_segments_stop_where_episodes_do():
    built, generator = world(), np.random.default_rng(0)
    states, actions, steps = random_segments(built, count=2000, length=6, generator=generator)
    terminal, following = np.asarray(built.mdp.terminal), np.asarray(built.mdp.transitions).argmax(-1)
    assert 1 <= steps.min() < steps.max() == 6
    real = np.arange(6) < steps[:, None]
    assert not terminal[states][real].any()
    assert terminal[states][~real].all()
    went = following[states[:, :-1], actions[:, :-1]]
    np.testing.assert_array_equal(states[:, 1:][real[:, 1:]], went[real[:, 1:]])
    whole = random_segments(built, count=500, length=6, generator=generator, absorbing=False)
    np.testing.assert_array_equal(whole[2], np.full(500, 6))
    ends = partial(random_segments, delivery(board=("01",)), count=10, generator=generator)
    with pytest.raises(ValueError, match="use shorter segments or absorbing=True"):
        ends(length=30, absorbing=False)


def test_preferred_first_turns_everything():
    records = compared(hard=False, temperature=1.0)
    turned = preferred_first(records.take(np.arange(300)))
    np.testing.assert_array_equal(turned.preferences, records.preferences)
    with pytest.raises(ValueError, match="expected pairs, got 1"):
        preferred_first(records.flat())


@pytest.fixture
def files(tmp_path):
    """Two conditions on our board, with an end in the middle of some segments."""
    v = values(world().mdp)[0]
    for condition, seed in (("Pr-Trained", 0), ("Regret-Trained", 1)):
        records = compared(num_pairs=80, seed=seed)
        write_human_delivery(tmp_path, condition, world=world(), board=CELLS, records=records, values=v)
    return tmp_path


def read(root, **settings):
    return human_delivery(
        data_root=str(root),
        world=partial(delivery, board=delivery_board(str(root)), discount=0.99),
        **({"conditions": ("Pr-Trained", "Regret-Trained")} | settings),
    )


def test_files_in_the_public_format_are_what_was_written(files):
    np.testing.assert_array_equal(delivery_board(str(files)), CELLS)
    written, found = compared(num_pairs=80, seed=1), read(files, conditions=("Regret-Trained",))
    mask = np.arange(3) < written.step_lengths[..., None]
    np.testing.assert_array_equal(found.step_lengths, written.step_lengths)
    assert (written.step_lengths < 3).any()
    np.testing.assert_array_equal(found.observations[mask], written.observations[mask])
    np.testing.assert_array_equal(found.actions[mask], written.actions[mask])
    np.testing.assert_array_equal(found.preferences, written.preferences)
    both = read(files)
    assert len(both) == 160
    assert set(both.columns["annotators"]) == {0, 1}
    # The public sign: 1 says that the second segment is preferred.
    flipped = np.load(files / "human_data" / "Pr-Trained_full_filtered_Y.npy")
    np.save(files / "human_data" / "Pr-Trained_full_filtered_Y.npy", 1 - flipped)
    turned, before = read(files, conditions=("Pr-Trained",)), compared(num_pairs=80, seed=0)
    decided = before.preferences[:, 0, 1] != 0.5
    np.testing.assert_array_equal(
        turned.observations[decided][:, 0, 0], before.observations[decided][:, 1, 0]
    )


def test_parts_do_not_share_a_pair(files):
    pieces = [read(files, part=part) for part in ((0.0, 0.8), (0.8, 1.0))]
    assert sum(map(len, pieces)) == 160
    assert not set(pieces[0].group) & set(pieces[1].group)


def broken(name, change):
    def apply(root):
        path = root / "human_data" / f"Pr-Trained_full_filtered_{name}.npy"
        array = np.load(path)
        np.save(path, change(array))

    return apply


def _set(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "human_data/Pr-Trained_full_filtered_Y.npy").unlink(),
            r"no file .*Y\.npy; get",
        ),
        (
            lambda root: (root / "human_data/Pr-Trained_full_filtered_Y.npy").write_bytes(b"gone"),
            r"not a readable \.npy file",
        ),
        (broken("Y", _set(3, 0.7)), r"Y\.npy: row 3: label 0.7 is not 0, 0.5 or 1"),
        (broken("Y", _set(3, np.nan)), r"Y\.npy: row 3: label nan is not 0, 0.5 or 1"),
        (
            broken("Y", lambda y: y[:-1]),
            r"X\.npy: expected \(79, 3\), as Pr-Trained_full_filtered_Y\.npy has 79",
        ),
        (broken("Y", lambda y: y[:, None]), r"Y\.npy: expected labels \[n\], one or more, got \(80, 1\)"),
        (broken("Y", lambda y: y.astype(str)), r"Y\.npy: expected one array of numbers, got <U"),
        (broken("Y", lambda y: y > 0), r"Y\.npy: expected one array of numbers, got bool"),
        (broken("segment_pairs", lambda m: m[:, :, :3]), r"segment_pairs\.npy: expected \(80, 2, 4, 2\)"),
        (
            broken("segment_pairs", lambda m: m + 0.5),
            r"segment_pairs\.npy: row 0: expected whole numbers, got",
        ),
        (
            broken("X", _set((4, 0), 9.0)),
            r"partial returns of 1 of 80 pairs are not those of _X\.npy \(row 4",
        ),
        (broken("X", _set((4, 0), np.nan)), r"partial returns of 1 of 80 pairs .* \(row 4"),
        (broken("segment_pairs", _set((5, 0, 0), (10, 0))), "row 5 starts outside the board of 10 x 10"),
        (broken("segment_pairs", _set((5, 0, 1), (1, 1))), "row 5 has a move that is none of"),
        (broken("segment_pairs", _set((5, 0, 1), (0, 0))), "row 5 stands still before its episode ends"),
        (broken("segment_pairs", _set((5, 0, 0), (1, 8))), "row 5 starts where its episode has ended"),
        (lambda root: (root / "delivery_mdp/board.npy").unlink(), r"no board: expected .*board\.npy"),
        (
            lambda root: np.save(root / "delivery_mdp/board.npy", CELLS + 0.5),
            r"board\.npy: row 0: expected whole numbers, got 0.5",
        ),
        (
            lambda root: np.save(root / "delivery_mdp/board.npy", CELLS.ravel()),
            r"board\.npy: expected a board of cell codes \[rows, columns\], got int64 \(100,\)",
        ),
    ],
)
def test_what_is_wrong_with_files_is_said(files, damage, message):
    damage(files)
    with pytest.raises(ValueError, match=message):
        read(files)


def test_what_is_wrong_with_a_request_is_said(files):
    with pytest.raises(ValueError, match="no condition"):
        read(files, conditions=("Trained",))
    with pytest.raises(ValueError, match="part: expected"):
        read(files, part=(0.8, 0.2))


def test_the_board_is_read_from_the_released_pickle_and_nothing_is_run(files, monkeypatch):
    """A pickle as the released class leaves it, and one that asks for a function."""
    module = types.ModuleType("released_grid")
    environment = type("GridWorldEnv", (), {"__module__": "released_grid"})
    module.GridWorldEnv = environment
    monkeypatch.setitem(sys.modules, "released_grid", module)
    held = environment()
    held.board, held.reward_array, held.height = CELLS.astype(float), [-1, 50], np.int64(10)
    (files / "delivery_mdp/board.npy").unlink()
    path = files / "delivery_mdp/delivery_env.pickle"
    path.write_bytes(pickle.dumps(held))
    monkeypatch.delitem(sys.modules, "released_grid")
    np.testing.assert_array_equal(delivery_board(str(files)), CELLS)
    assert len(read(files)) == 160
    for bad, message in ((json.loads, "json.*, which is not loaded"), ([1], "no board could be read")):
        path.write_bytes(pickle.dumps(bad))
        with pytest.raises(ValueError, match=message):
            delivery_board(str(files))


def test_regret_is_what_they_were_written_by():
    """Regret labels at temperature 0 agree with the sign of the score, on masked segments too."""
    records = compared(temperature=0)
    batch = records.rows(np.arange(300))
    built = world()
    found = np.asarray(
        score_by_regret(built, built.weights, batch.observations, batch.actions, batch.step_mask), np.float64
    )
    assert ((found[:, 0] - found[:, 1]) > -1e-3).all()
