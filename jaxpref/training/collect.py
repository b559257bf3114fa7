"""`collect` and `evaluate` of an algorithm, as the loop calls them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.metrics import Metrics
from jaxpref.training.sharding import OnMesh, on_mesh

__all__ = ["collecting", "compiled_evaluation", "evaluation_program"]

Collect = Callable[[Any, Any, int], tuple[Any, Metrics]]


def collecting(algorithm: Algorithm, mesh: Mesh, *, seed: int, stage: str) -> Collect | None:
    """`(state, batch, index) -> (what step takes, metrics)` with the mesh in context; None without `collect`.

    Not compiled as a whole, since a judge may run on the host. Samples depend on (seed, stage, index) alone.
    """
    collect = algorithm.collect
    if collect is None:
        return None
    collected = OnMesh(collect, mesh)
    key_of = jax.jit(lambda index: keys.key(seed, stage, "collect", index))
    return lambda state, batch, index: collected(state, batch, key_of(index))


def evaluation_program(algorithm: Algorithm, mesh: Mesh, *, seed: int, stage: str) -> OnMesh:
    """`(state, record, step, index) -> metrics`, replicated, of a record that nothing has to be drawn for."""

    def evaluate(state, record, step, index):
        key = keys.key(seed, stage, "evaluation", step, index, "loss")
        return algorithm.evaluate(state, record, key)

    return on_mesh(evaluate, mesh, out_shardings=NamedSharding(mesh, PartitionSpec()))


Evaluate = Callable[[Any, Any, int, int], Metrics]


def compiled_evaluation(algorithm: Algorithm, mesh: Mesh, *, seed: int, stage: str) -> Evaluate:
    """`(state, batch, step, index) -> metrics`, replicated on every device.

    `index`: of the batch in the pass after `step` steps. An algorithm that draws responses does so for the
    prompts of `batch`, from (seed, stage, step, index) alone.
    """

    compiled = evaluation_program(algorithm, mesh, seed=seed, stage=stage)
    if algorithm.collect is None:
        return compiled
    collect = OnMesh(algorithm.collect, mesh)
    draw_key = jax.jit(lambda step, index: keys.key(seed, stage, "evaluation", step, index, "collect"))

    def evaluated(state: Any, batch: Any, step: int, index: int) -> Metrics:
        batch, drawn = collect(state, batch, draw_key(step, index))
        return compiled(state, batch, step, index) | drawn

    return evaluated
