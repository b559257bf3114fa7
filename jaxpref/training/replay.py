"""Does one step of a run again: from the last checkpoint before it, or from the beginning of its stage.

Batches, draws and updates are functions of the seed and the step, so on the same devices and versions this is
the step of the run bit for bit. Nothing is written into the run's folder.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from jaxpref import keys
from jaxpref.experiment import Stage
from jaxpref.metrics import to_floats
from jaxpref.training import sharding
from jaxpref.training.context import RunContext
from jaxpref.training.loop import StageRun
from jaxpref.training.params import has_checkpoints, stage_checkpoints, started_from

__all__ = ["Replayed", "replay"]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A step done again. `rows` are those of its batch, each with what the algorithm evaluates of it by
    itself, before the update."""

    stage: str
    step: int
    began: int  # step of the checkpoint that it began from; 0: the beginning of the stage
    metrics: dict[str, float]
    recorded: dict[str, float]  # what metrics.jsonl has of the step; empty: nothing
    batch: Any  # numpy, as the step took it
    rows: list[dict[str, float]]

    @property
    def differing(self) -> list[str]:
        """Metrics whose recorded value is another one."""
        return [
            name
            for name, value in self.metrics.items()
            if name in self.recorded and not _same(value, self.recorded[name])
        ]


def replay(run: RunContext, stage: Stage, step: int) -> Replayed:
    """Does `step` of `stage` again.

    Raises:
      ValueError: the stage has no such step, or has not begun.
    """
    if step >= stage.num_steps:
        raise ValueError(f"{stage.name} has no step {step}: it has {stage.num_steps}, the first is 0")
    if not has_checkpoints(run, stage.name):
        raise ValueError(
            f"{run.files.directory} has no stage {stage.name} that has begun; give the workdir= of the run"
        )
    algorithm = stage.build(run.policy)
    sharding.check_batch_size(stage.batch_size, run.mesh, parts=algorithm.parts, where=stage.name)
    with stage_checkpoints(run, stage.name) as checkpoints:
        began = max((at for at in checkpoints.steps if at <= step), default=0)
        run.files.log(f"{stage.name}: steps {began} to {step}")
        work = StageRun(run, stage, algorithm, started_from(run, stage.name), checkpoints, at=began)
        for index in range(began, step):
            work.step(work.batch(index), index)
        batch, drawn = work.collected(work.batch(step), step)
        host = sharding.fetch(batch)
        rows = _evaluated(work, host, step)
        values = to_floats(sharding.fetch(work.update(batch, step) | drawn))
    return Replayed(stage.name, step, began, values, _recorded(run, stage, step), host, rows)


def _evaluated(work: StageRun, batch: Any, step: int) -> list[dict[str, float]]:
    """Metrics of each row by itself, before the update: of as many copies of it as the mesh splits a batch
    into, so that their mean is the row's own."""
    mesh = work.run.mesh
    evaluate = sharding.on_mesh(work.algorithm.evaluate, mesh)
    key = keys.key(work.run.experiment.seed, work.stage.name, "step", step)

    def of_row(row: int) -> dict[str, float]:
        def copies(rows: np.ndarray) -> Any:
            return jax.tree.map(lambda x: np.asarray(x)[np.full(len(rows), row)], batch)

        placed = sharding.put_batch(copies, sharding.batch_shards(mesh), mesh)
        return to_floats(sharding.fetch(evaluate(work.whole, placed, key)))

    return [of_row(row) for row in range(len(jax.tree.leaves(batch)[0]))]


def _recorded(run: RunContext, stage: Stage, step: int) -> dict[str, float]:
    found = [
        row
        for row in run.files.read("metrics.jsonl")
        if (row["stage"], row.get("split"), row["step"]) == (stage.name, "train", step)
    ]
    skipped = ("stage", "step", "split", "time", "tokens_per_second", "mfu")
    return {name: float(x) for name, x in found[-1].items() if name not in skipped} if found else {}


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
