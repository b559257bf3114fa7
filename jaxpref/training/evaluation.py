"""Evaluates a state: one pass over held-out records, and the evaluators of a stage."""

import dataclasses
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import numpy as np

from jaxpref.algorithms import Algorithm
from jaxpref.data.loader import Loader
from jaxpref.evals.base import Context, Evaluation, TextSample
from jaxpref.evals.intervals import recorded
from jaxpref.experiment import Stage
from jaxpref.metrics import Metrics, merge, to_floats
from jaxpref.policies.base import check_records
from jaxpref.training import sharding
from jaxpref.training.context import RunContext
from jaxpref.training.params import left_by, started_from
from jaxpref.types import Params

__all__ = [
    "CutShort",
    "context_of",
    "evaluate_stage",
    "evaluations",
    "held_out_loader",
    "held_out_pass",
    "summary",
]


class CutShort(Exception):
    """An evaluation was asked to stop between two of its parts."""


def held_out_loader(run: RunContext, stage: Stage) -> Loader | None:
    """Batches of the stage's held-out records; None where it has none."""
    if stage.evaluation is None:
        return None
    sharding.check_batch_size(stage.batch_size, run.mesh, where=stage.name)
    records = run.table(stage.evaluation)
    check_records(run.policy, records)
    return Loader(records, batch_size=stage.batch_size, seed=0, shuffle=False)


def held_out_pass(
    evaluate: Callable[[Any, Any, int, int], Metrics],
    state: Any,
    loader: Loader,
    mesh: jax.sharding.Mesh,
    step: int,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """The algorithm's metrics over all held-out records, after `step` steps, and how many those are.

    Raises:
      CutShort: `stop()`, which is asked between batches, said so.
    """
    parts, running = [], None
    for index in range(loader.evaluation_steps()):
        if index and stop():
            raise CutShort
        batch = sharding.put_batch(partial(loader.evaluation_batch, index), loader.batch_size, mesh)
        begun = evaluate(state, batch, step, index)
        # Read one batch late: with many programs of several devices in flight, XLA's collectives on CPU can
        # wait for threads that other programs hold.
        parts += [] if running is None else [jax.device_get(running)]
        running = begun
    total = reduce(merge, [*parts, jax.device_get(running)])
    return to_floats(total) | {"num_rows": float(len(loader.records))}


def evaluations(
    run: RunContext, stage: Stage, step: int, algorithm: Algorithm, state: Any
) -> list[Evaluation]:
    """Runs the stage's evaluators.

    Raises:
      CutShort: a signal asked for an end, and there is something to save (`Preemption.reached`).
    """
    context = context_of(run, state.params, stage=stage, step=step, state=state, rewards=algorithm.rewards)
    made = []
    for evaluator in stage.evaluators:
        if run.preemption.reached():
            raise CutShort
        made.append(evaluator(context))
    names = [evaluation.name for evaluation in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"stage {stage.name}: two evaluators are called {twice[0]!r}, and would share keys and samples; "
            "give one another name="
        )
    return made


def context_of(
    run: RunContext,
    params: Params,
    *,
    stage: Stage,
    step: int = 0,
    state: Any = None,
    rewards: Callable[[Any, Any], Any] | None = None,
) -> Context:
    """What evaluators of `params` may use, at this step of this stage; `state`: the algorithm's, if any."""
    mesh = run.mesh
    scored = None if rewards is None else sharding.on_mesh(rewards, mesh)

    def no_rewards(batch: Any) -> Any:
        raise ValueError("rewards: there is no algorithm here whose rewards these could be")

    def put(batch: Any) -> Any:
        def read(rows: np.ndarray) -> Any:
            return jax.tree.map(lambda x: np.asarray(x)[rows], batch)

        return sharding.put_batch(read, len(jax.tree.leaves(batch)[0]), mesh)

    return Context(
        policy=run.policy._replace(sample=sharding.OnMesh(run.policy.sample, mesh)),
        params=None if params is None else run.whole(params),
        tokenizer=run.tokenizer,
        seed=run.experiment.seed,
        stage=stage.name,
        step=step,
        rewards=no_rewards if scored is None else lambda batch: scored(state, batch),
        put=put,
        fetch=sharding.fetch,
        compiled=lambda function: sharding.on_mesh(function, mesh),
        rows_multiple=sharding.batch_shards(mesh),
        baseline=_baseline(run, stage, step),
        member=_members(run, stage, params, state),
    )


def _baseline(run: RunContext, stage: Stage, step: int) -> Callable[[str], list[TextSample]]:
    """What an evaluator sampled when the stage began, or at the end of those before it."""
    names = [s.name for s in run.experiment.stages]
    before = names[: names.index(stage.name)]
    earlier = [
        sample
        for sample in run.files.read("samples.jsonl")
        if sample["stage"] in before or (sample["stage"] == stage.name and sample["step"] == 0 < step)
    ]
    fields = [field.name for field in dataclasses.fields(TextSample)]

    def baseline(name: str) -> list[TextSample]:
        samples = [sample for sample in earlier if sample["evaluator"] == name]
        last = [
            sample
            for sample in samples
            if (sample["stage"], sample["step"]) == (samples[-1]["stage"], samples[-1]["step"])
        ]
        return [TextSample(**{field: sample[field] for field in fields}) for sample in last]

    return baseline


def _members(run: RunContext, stage: Stage, params: Params, state: Any) -> Callable[[str], Params]:
    """Params by name, see `evals.base.Context`. What is read from disk is read once."""
    names = [s.name for s in run.experiment.stages]
    before = names[: names.index(stage.name)]
    by_name = dict(getattr(state, "everyone", {})) | {"policy": params}
    if params is not None:
        by_name["policy"] = run.whole(params)

    def member(name: str) -> Params:
        if name not in by_name:
            if name == "initial":
                by_name[name] = run.whole(started_from(run, stage.name))
            elif name in before:
                by_name[name] = run.whole(left_by(run, name))
            else:
                known = list(dict.fromkeys([*by_name, "initial", *before]))
                raise ValueError(f"no params called {name!r} in stage {stage.name}; there are {known}")
        return by_name[name]

    return member


def evaluate_stage(run: RunContext, stage: Stage, step: int, algorithm: Algorithm, state: Any) -> None:
    """Runs the evaluators and writes their results to the run's files."""
    files = run.files
    for evaluation in evaluations(run, stage, step, algorithm, state):
        at = {"stage": stage.name, "step": step, "evaluator": evaluation.name}
        metrics = {name: recorded(e) for name, e in evaluation.metrics.items()}
        files.append("evaluations.jsonl", [at | {"metrics": metrics}])
        files.append("samples.jsonl", [at | dataclasses.asdict(s) for s in evaluation.samples])
        if evaluation.pictures:
            files.append("pictures.jsonl", [at | dataclasses.asdict(p) for p in evaluation.pictures])
        files.write(stage.name, "evaluations", step, {n: e.mean for n, e in evaluation.metrics.items()})
        files.log(f"{stage.name}  {step}/{stage.num_steps} {summary(evaluation)}")
    files.flush()  # other processes read the samples


def summary(evaluation: Evaluation) -> str:
    """`checker: accuracy 0.612 [0.543, 0.677] (n=200)`: means with their 95 % intervals."""
    shown = "  ".join(f"{name} {estimate}" for name, estimate in evaluation.metrics.items())
    return f"{evaluation.name}: {shown}"
