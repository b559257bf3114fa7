"""Whether the metric that says which checkpoint is best is one that a stage has."""

import jax

from jaxpref.algorithms import Algorithm
from jaxpref.training import sharding
from jaxpref.training.context import RunContext
from jaxpref.training.evaluation import held_out_loader
from jaxpref.training.state import Layout, with_constants

__all__ = ["check_best_metric"]


def check_best_metric(run: RunContext, algorithms: list[Algorithm]) -> None:
    """Looks for `Experiment.best_metric` among what the held-out passes report, before anything trains.

    Of a stage that lacks it the last checkpoint counts, which is said.

    Raises:
      ValueError: no stage has it.
    """
    wanted = run.experiment.best_metric
    if wanted is None:
        return
    found: dict[str, list[str] | None] = {
        stage.name: _names(run, index, algorithm)
        for index, (stage, algorithm) in enumerate(zip(run.experiment.stages, algorithms, strict=True))
    }
    without = [name for name, names in found.items() if names is not None and wanted not in names]
    if len(without) == len(found):
        there = "; ".join(
            f"{name} has {', '.join(names)}" if names else f"{name} has no held-out records (evaluation=)"
            for name, names in found.items()
        )
        raise ValueError(f"best_metric={wanted}: no stage reports it: {there}. Give one of these, or None")
    for name in without:
        run.files.log(f"{name}: no best_metric {wanted} in its held-out pass; its last checkpoint counts")


def _names(run: RunContext, index: int, algorithm: Algorithm) -> list[str] | None:
    """Names of the metrics of a stage's held-out pass, without running it; None where it draws first."""
    stage = run.experiment.stages[index]
    loader = held_out_loader(run, stage)
    if loader is None:
        return []
    if algorithm.collect is not None:
        return None
    layout = Layout.of(run, algorithm)
    batch = sharding.put_batch(lambda rows: loader.evaluation_batch(0, rows), loader.batch_size, run.mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(run.mesh):
        state = with_constants(layout.abstract, layout.constants)
        return sorted(jax.eval_shape(algorithm.evaluate, state, batch, key))
