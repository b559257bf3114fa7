"""The experiments on delivery grids run, on simulated people and on files of people's judgements."""

import pathlib

import numpy as np
import pytest
from launch import smoke_run

from jaxpref import config
from jaxpref.data.behaviour.human_delivery import write_human_delivery
from jaxpref.data.behaviour.simulated import simulated_comparisons
from jaxpref.environments.delivery import BOARD, delivery
from jaxpref.planning import values

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1] / "experiments"


def _smoke(file, workdir, *overrides):
    return smoke_run(config.load(str(EXPERIMENTS / file), list(overrides)), workdir)


def test_budgets_run(tmp_path):
    said = _smoke("latent_budgets_grid.py", tmp_path, "num_segments=50")
    assert "budgets: agent 0, 1 steps" in said


SMOKES = [
    ("human_delivery_regret.py", (), "weights: gas"),
    ("random_mdp_greedy_advantage.py", ("num_pairs=200",), "greedy: scaled return"),
]
OTHERS = [  # the same recipes with another score or policy, whose own tests are elsewhere
    ("human_delivery_regret.py:partial_return", (), "planned: scaled return"),
    ("human_delivery_regret.py:successors", ("num_policies=3",), "planned: scaled return"),
    ("human_delivery_regret.py:scale_of_regret", (), "3/3 held out: loss"),
    ("random_mdp_greedy_advantage.py:by_regret", ("num_pairs=200",), "planned with: scaled return"),
    ("latent_budgets_grid.py:boltzmann", ("num_segments=50",), "3/3 held out: loss"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "knobs", "said"),
    [*SMOKES, *(pytest.param(*other, marks=pytest.mark.exhaustive) for other in OTHERS)],
)
def test_they_run(tmp_path, file, knobs, said):
    assert said in _smoke(file, tmp_path, *knobs)


def test_peoples_judgements_are_read_from_their_folder(tmp_path):
    world = delivery()
    board = np.array([[int(code, 16) for code in row] for row in BOARD])
    records = simulated_comparisons(world=delivery, num_pairs=60)
    v = values(world.mdp)[0]
    write_human_delivery(tmp_path / "data", "Pr-Trained", world=world, board=board, records=records, values=v)
    settings = (f"data_root={tmp_path / 'data'}", 'conditions=("Pr-Trained",)')
    assert "planned: scaled return" in _smoke("human_delivery_regret.py", tmp_path / "run", *settings)
