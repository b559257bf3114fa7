"""placeholder"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxpref import losses
from jaxpref.algorithms import offline, online
from jaxpref.algorithms.bank import copied
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.actions import action_pairs, actions_tokenizer
from jaxpref.environments import uncovered_bandit
from jaxpref.evals import bandit_policy
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.tabular import tabular

ROUNDS = 6


def comparisons():
    """Every ordered pair of covered responses, weighted with how often the first of the two wins."""
    environment = uncovered_bandit()
    covered = np.flatnonzero(environment.covered[0])
    pairs = [(int(i), int(j)) for i in covered for j in covered if i != j]
    records = action_pairs(num_actions=4, pairs=pairs)
    return records.with_column("weights", np.array([environment.preferences[0, i, j] for i, j in pairs]))


def experiment(
    *, weight: float = 10.0, eta: float = 1.0, round_steps: int = 300, learning_rate: float = 0.03
) -> Experiment:
    """SPAC, single time-scale: held to the iterate before, whose samples keep the policy from rising."""
    return _learn(
        name=f"spac_{weight:g}_{eta:g}",
        algorithm=partial(_spac, loss=partial(losses.spac, weight=weight, eta=eta), round_steps=round_steps),
        round_steps=round_steps,
        learning_rate=learning_rate,
    )
