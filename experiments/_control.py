"""What the control experiments share: imitation of all segments, then another algorithm on comparisons.

Method    Hejna et al. (2023), arXiv:2310.13639.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref.algorithms import offline, sft
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.controllers import deterministic_controller


def preferences(loss: Callable[..., Any], optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """No reference: what holds the controller to the data is in the loss."""
    return partial(offline, loss=loss, optimizer=optimizer, reference=None)


def imitation_then(
    algorithm: Callable[..., Any],
    *,
    name: str,
    stage_name: str,
    optimizer: Callable[..., Any],
    observation_size: int,
    action_size: int,
    width: int,
    evaluator: Callable[..., Any],
    imitated: Callable[..., Any],
    train: Callable[..., Any],
    steps: int,
    bc_batch_size: int,
    batch_size: int,
    bc_steps: int,
    num_steps: int,
    evaluate_every: int,
    log_every: int,
    seed: int,
    arxiv: tuple[str, ...] = ("2310.13639",),
) -> Experiment:
    """Stages `imitation` of segments of at most `steps` steps, and `stage_name`, which goes on from it."""
    stage = partial(Stage, response_buckets=(steps,), evaluators=(evaluator,), evaluate_every=evaluate_every)
    return Experiment(
        name=name,
        policy=partial(
            deterministic_controller,
            observation_size=observation_size,
            action_size=action_size,
            hidden=(width, width),
        ),
        tokenizer=None,
        stages=(
            stage(
                name="imitation",
                algorithm=partial(sft, optimizer=optimizer),
                train=imitated,
                num_steps=bc_steps,
                batch_size=bc_batch_size,
                checkpoint_every=bc_steps,
            ),
            stage(
                name=stage_name,
                algorithm=algorithm,
                train=train,
                num_steps=num_steps,
                batch_size=batch_size,
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        log_every=log_every,
        arxiv=arxiv,
    )
