"""`collect` and `evaluate` of an algorithm, as the loop calls them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.metrics import Metrics
from jaxpref.training.sharding import OnMesh, on_mesh

__all__ = ["collecting", "compiled_evaluation"]

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


Evaluate = Callable[[Any, Any, int, int], Metrics]


def compiled_evaluation(algorithm: Algorithm, mesh: Mesh, *, seed: int, stage: str) -> Evaluate:
    """`(state, batch, step, index) -> metrics`, replicated on every device.

    `index`: of the batch in the pass after `step` steps. An algorithm that draws responses does so for the
    prompts of `batch`, from (seed, stage, step, index) alone.
    """

    def key_of(step, index, part: str):
        return keys.key(seed, stage, "evaluation", step, index, part)

    def evaluate(state, batch, step, index):
        return algorithm.evaluate(state, batch, key_of(step, index, "loss"))

    compiled = on_mesh(evaluate, mesh, out_shardings=NamedSharding(mesh, PartitionSpec()))
    if algorithm.collect is None:
        return compiled
    collect, draw_key = OnMesh(algorithm.collect, mesh), jax.jit(partial(key_of, part="collect"))

    def evaluated(state: Any, batch: Any, step: int, index: int) -> Metrics:
        batch, drawn = collect(state, batch, draw_key(step, index))
        return compiled(state, batch, step, index) | drawn

    return evaluated
