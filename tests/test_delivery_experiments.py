"""The experiments on delivery grids run, on simulated people and on files of people's judgements."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from launch import smoke_run

from jaxpref import config
from jaxpref.data.behaviour.human_delivery import write_human_delivery
from jaxpref.data.behaviour.simulated import simulated_comparisons
from jaxpref.environments.delivery import BOARD, FEATURES, delivery
from jaxpref.planning import optimal_policy, scaled_return, score_by_return, values

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


def test_partial_return_is_optimal_where_its_loss_is_least():
    """What training has to converge to, by Newton's method: the loss is convex in the weights. After 1,000
    steps at a constant rate coins were still worth more than gas costs (1.5), and the scaled return 0.668."""
    stage = config.load(str(EXPERIMENTS / "human_delivery_regret.py:partial_return")).stages[0]
    world, table = delivery(), stage.train()
    batch = table.rows(np.arange(len(table)))
    unit = np.eye(len(FEATURES), dtype=np.float32)
    sums = [
        score_by_return(world, w, batch.observations, batch.actions, batch.step_mask)
        for w in jnp.asarray(unit)
    ]
    x = np.diff(np.asarray(sums, np.float64), axis=2)[..., 0].T  # second minus first: rejected minus chosen
    p_first = np.asarray(batch.preferences, np.float64)[:, 0, 1]
    weights = np.zeros(len(FEATURES))
    for _ in range(30):
        p = 1 / (1 + np.exp(x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, x.T @ (p_first - p))
    right = 1 / (1 + np.exp(x @ weights))
    assert np.abs(x.T @ (p_first - right)).max() < 1e-3
    # No pair was preferred for its sheep, so their weight falls for ever; the other weights are found.
    assert weights[2] < -20
    assert weights[[1, 3, 4, 5]] / -weights[0] == pytest.approx([0.384, 0.704, -1.011, -1.731], abs=0.01)
    infimum = -(p_first * np.log(right) + (1 - p_first) * np.log1p(-right)).mean()
    assert infimum == pytest.approx(0.53593, abs=1e-4)  # training: 0.53605
    rewards = jnp.asarray(np.asarray(world.features) @ weights, world.mdp.rewards.dtype)
    policy = optimal_policy(world.mdp._replace(rewards=rewards))
    assert float(scaled_return(world.mdp, policy, world.start)) == pytest.approx(1, abs=1e-4)
