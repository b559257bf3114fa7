"""draft"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import SegmentRecords
from jaxpref.data.human_delivery import CONDITIONS, delivery_board, human_delivery
from jaxpref.data.simulated import simulated_comparisons
from jaxpref.environments.delivery import FEATURES, delivery
from jaxpref.evals import learned_weights, planned_return
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import (
    World,
    greedy_policy,
    optimal_policy,
    score_by_regret,
    score_by_return,
)
from jaxpref.policies.rewarded import linear_rewards

CONTROL = tuple(c for c in CONDITIONS if c.endswith("Control"))


def experiment(
    *,
    data_root: str | None = None,
    conditions: tuple[str, ...] = CONDITIONS,
    num_steps: int = 1000,
    learning_rate: float = 0.05,
    temperature: float = 0.05,
) -> Experiment:
    """The regret model, with the values of soft value iteration."""
    score = partial(score_by_regret, temperature=temperature, max_sweeps=100)
    return _learn("regret", score, greedy_policy, data_root, conditions, num_steps, learning_rate)


def partial_return(
    *,
    data_root: str | None = None,
    conditions: tuple[str, ...] = CONDITIONS,
    num_steps: int = 1000,
    learning_rate: float = 0.05,
) -> Experiment:
    """The partial return model."""
    return _learn(
        "partial_return", score_by_return, optimal_policy, data_root, conditions, num_steps, learning_rate
    )


def board_world(*, data_root: str | None) -> World:
    """The board that people saw, or ours."""
    return delivery() if data_root is None else delivery(board=delivery_board(data_root))


def comparisons(
    *, data_root: str | None, conditions: tuple[str, ...], part: tuple[float, float]
) -> SegmentRecords:
    """People's judgements; without a directory those of simulated people who compare by regret."""
    world = partial(board_world, data_root=data_root)
    if data_root is not None:
        return human_delivery(data_root=data_root, world=world, conditions=conditions, part=part)
    count = round(5000 * (part[1] - part[0]))
    return simulated_comparisons(world=world, num_pairs=count, temperature=TEMP, seed=round(100 * part[0]))


import os

TEMP = float(os.environ.get("TEMP_", "4"))


def _learn(
    name: str,
    score: Callable[..., Any],
    read: Callable[..., Any],
    data_root: str | None,
    conditions: tuple[str, ...],
    num_steps: int,
    learning_rate: float,
) -> Experiment:
    world = partial(board_world, data_root=data_root)
    pairs = partial(comparisons, data_root=data_root, conditions=conditions)
    return Experiment(
        name=f"delivery_{name}",
        policy=partial(linear_rewards, world=world, score=score),
        tokenizer=None,
        stages=(
            Stage(
                name="preferences",
                algorithm=partial(
                    offline,
                    loss=losses.bradley_terry_soft,
                    optimizer=partial(adamw, schedule=partial(constant, value=learning_rate), clip_norm=None),
                    reference=None,
                ),
                train=partial(pairs, part=(0.0, 0.8)),
                evaluation=partial(pairs, part=(0.8, 1.0)),
                evaluators=(
                    partial(planned_return, world=world, read=read),
                    partial(learned_weights, features=FEATURES),
                ),
                num_steps=num_steps,
                batch_size=512,
                evaluate_every=250,
                evaluators_every=250,
                checkpoint_every=1000,
            ),
        ),
        log_every=100,
        arxiv=("2206.02231",),
    )
