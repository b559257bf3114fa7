"""An experiment is a frozen tree of plain values and `functools.partial`s of module-level functions.

Nothing in it runs until the loop calls the leaves, so it can be described, compared and overridden.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref.algorithms.base import Algorithm
from jaxpref.algorithms.optimizers import lasting
from jaxpref.data.prepare import head
from jaxpref.judges import Judge
from jaxpref.policies.base import Policy
from jaxpref.types import Params

__all__ = ["Experiment", "MeshShape", "Stage", "Tournament", "smoke", "smoke_tournament"]


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh; -1 (at most once) takes what is left.

    `data` and `fsdp` split the batch, `fsdp` also the parameters, `tensor` the heads, MLP and vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of one algorithm on one data set. It starts from the params the stage before left."""

    name: str
    algorithm: Callable[[Policy], Algorithm]
    train: Callable[[], Any]  # -> data.Records
    num_steps: int
    batch_size: int  # prompts in a global batch
    evaluation: Callable[[], Any] | None = None  # -> data.Records, held out
    evaluators: tuple[Callable[..., Any], ...] = ()  # see `evals`: run when the stage starts and ends
    evaluate_every: int = 100  # steps between passes over `evaluation`; also at the start and the end
    evaluators_every: int | None = None  # steps between runs of `evaluators` in the stage; None: none there
    checkpoint_every: int = 500
    prompt_buckets: tuple[int, ...] = ()  # padded prompt lengths; empty: the records' longest
    response_buckets: tuple[int, ...] = ()
    shuffle: bool = True

    def build(self, policy: Policy) -> Algorithm:
        """The algorithm, whose schedules end with this stage (`algorithms.optimizers.lasting`).

        Raises:
          ValueError: an argument of the algorithm, its loss or its optimizer is wrong.
        """
        with lasting(self.num_steps):
            try:
                return self.algorithm(policy)
            except ValueError as error:
                raise ValueError(f"stages.{self.name}.algorithm: {error}") from error


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run depends on."""

    name: str
    policy: Callable[[], Policy]
    tokenizer: Callable[[], Any] | None  # -> data.Tokenizer; None: no text (control, states, routes)
    stages: tuple[Stage, ...]
    weights: Callable[[], Params] | None = None  # pretrained, numpy or lazy; None: `policy.init`
    mesh: MeshShape = MeshShape()
    seed: int = 0
    log_every: int = 10  # steps between lines on stdout and TensorBoard points; JSONL has every step
    keep_checkpoints: int = 2
    best_metric: str | None = None  # evaluation metric, higher is better; its best checkpoint is kept too
    non_finite: str = "stop"  # or "skip": drop the update, count it, go on
    arxiv: tuple[str, ...] = ()  # ids of what is used

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"stages: expected one or more with different names, got {names}")
        if self.non_finite not in ("stop", "skip"):
            raise ValueError(f"non_finite: expected 'stop' or 'skip', got {self.non_finite!r}")
        if not 0 <= self.seed < 2**32:  # jax takes 32 bits of it: another one would be the same run
            raise ValueError(f"seed: expected an integer in [0, 2^32), got {self.seed}")
        for field in ("log_every", "keep_checkpoints"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: expected 1 or more, got {getattr(self, field)}")
        for stage in self.stages:
            for field in (
                "num_steps",
                "batch_size",
                "evaluate_every",
                "checkpoint_every",
                "evaluators_every",
            ):
                value = getattr(stage, field)
                if value is not None and value < 1:
                    raise ValueError(f"stages.{stage.name}.{field}: expected 1 or more, got {value}")


@dataclasses.dataclass(frozen=True)
class Tournament:
    """How the trained policies of a sweep are compared: what a file's `tournament()` returns.

    Every policy answers the same prompts, and `judge` says who beats whom. It gets the params of "initial"
    (the base policy) and, where `judge_params` loads some, "judge". `jaxpref sweep` plays it when all runs
    are done."""

    records: Callable[[], Any]  # -> data.Records, held out; their prompts are answered
    judge: Callable[[], Judge]
    max_tokens: int
    judge_params: Callable[[], Params] | None = None
    compiled: bool = True  # False: a judge that reads values on the host, such as one of `text_scorer`
    base: str | None = None  # stage whose result is the base; None: what the last stage started from
    temperature: float = 1.0
    top_p: float | None = None
    num_prompts: int = 200
    num_samples: int = 1  # responses of each policy to each prompt
    batch_size: int = 64

    def __post_init__(self) -> None:
        for field in ("max_tokens", "num_prompts", "num_samples", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"tournament.{field}: expected 1 or more, got {getattr(self, field)}")


def smoke_tournament(tournament: Tournament) -> Tournament:
    """The same tournament on a few prompts."""
    return dataclasses.replace(tournament, num_prompts=min(4, tournament.num_prompts))


def smoke(experiment: Experiment, num_steps: int = 3) -> Experiment:
    """The same experiment cut to a few steps of a small batch, to see that it runs, not that it learns.

    A stage after the first one takes the params that it starts from as its reference where it reads one from
    its records (`reference="batch"`): what a cut stage leaves is not what those log-probs were made of.
    """
    first = experiment.stages[0]

    def cut(stage: Stage) -> Stage:
        return dataclasses.replace(
            stage,
            num_steps=min(num_steps, stage.num_steps),
            batch_size=min(4, stage.batch_size),
            evaluation=stage.evaluation and partial(head, records=stage.evaluation, num_prompts=16),
            evaluate_every=num_steps,
            checkpoint_every=num_steps,
            algorithm=_one_microbatch(stage.algorithm if stage is first else _no_column(stage.algorithm)),
            evaluators=tuple(_few_prompts(e) for e in stage.evaluators),
        )

    return dataclasses.replace(experiment, stages=tuple(map(cut, experiment.stages)), log_every=1)


def _one_microbatch(algorithm: Callable[..., Any]) -> Callable[..., Any]:
    divides = "microbatches" in inspect.signature(algorithm).parameters
    return partial(algorithm, microbatches=1) if divides else algorithm


def _no_column(algorithm: Callable[..., Any]) -> Callable[..., Any]:
    reference = inspect.signature(algorithm).parameters.get("reference")
    reads = reference is not None and reference.default == "batch"
    return partial(algorithm, reference="initial") if reads else algorithm


def _few_prompts(evaluator: Callable[..., Any]) -> Callable[..., Any]:
    return partial(evaluator, num_prompts=4)
