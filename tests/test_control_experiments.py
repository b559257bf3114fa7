"""Experiments in control run: those of worlds that are not installed here in a toy of the same shape."""

import dataclasses
from functools import partial

import numpy as np
from launch import smoke_run

from jaxpref import config
from jaxpref.evals import control_returns


class Hop:
    """Eleven numbers to see, three to act; it pays for acting and ends after five steps."""

    def reset(self, *, seed=None):
        self.left = 5
        return np.full(11, 0.01 * seed), {}

    def step(self, action):
        self.left -= 1
        return np.full(11, float(self.left)), float(np.abs(action).sum()), self.left == 0, False, {}

    def close(self):
        pass


def test_hopper_smoke_on_the_real_labels(tmp_path, repository, data_root):
    file = repository / "experiments/cpl_hopper_human.py"
    built = config.load(str(file), [f"data_root={data_root}"])
    toy = partial(control_returns, world=Hop, name="hopper")
    stages = tuple(dataclasses.replace(stage, evaluators=(toy,)) for stage in built.stages)
    printed = smoke_run(dataclasses.replace(built, stages=stages), tmp_path)
    assert "imitation: 200 records" in printed
    assert "opinions: 100 records" in printed
    assert "opinions  3/3 hopper: return" in printed
    assert "episode length 5.000" in printed


def test_tabular_smoke(tmp_path, repository):
    printed = smoke_run(config.load(str(repository / "experiments/cpl_tabular.py")), tmp_path)
    assert "opinions: 10,296 records" in printed
    assert "opinions  3/3 soft optimum: max |pi - pi*|" in printed
