"""Draws of an algorithm, and its evaluation, as the loop calls them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref.algorithms import Algorithm
from jaxpref.metrics import Metrics
from jaxpref.training.sharding import OnMesh

__all__ = ["collecting", "compiled_evaluation"]

_DRAWS = 2**31  # a stream of its own: steps fold their index, which is smaller, into the key of the seed

Collect = Callable[[Any, Any, int], tuple[Any, Metrics]]


def collecting(algorithm: Algorithm, mesh: Mesh, *, seed: int) -> Collect | None:
    """`(state, batch, index) -> (what step eats, metrics)` with the mesh in context; None without `collect`.

    Not compiled as a whole, since a judge may run on the host. Draws depend on (seed, index) alone.
    """
    collect = algorithm.collect
    if collect is None:
        return None
    on_mesh = OnMesh(collect, mesh)

    def collected(state: Any, batch: Any, index: int) -> tuple[Any, Metrics]:
        stream = jax.random.fold_in(jax.random.key(seed), _DRAWS)
        return on_mesh(state, batch, jax.random.fold_in(stream, index))

    return collected


def compiled_evaluation(algorithm: Algorithm, mesh: Mesh, *, seed: int) -> Callable[[Any, Any, int], Metrics]:
    """`(state, batch, index) -> metrics`, replicated on every device.

    An algorithm that draws responses does so for the prompts of `batch`, from (seed, index) alone.
    """

    def evaluate(state, batch):
        return algorithm.evaluate(state, batch, jax.random.key(seed))

    compiled = OnMesh(jax.jit(evaluate, out_shardings=NamedSharding(mesh, PartitionSpec())), mesh)
    collect = collecting(algorithm, mesh, seed=seed + 1)

    def evaluated(state: Any, batch: Any, index: int) -> Metrics:
        if collect is None:
            return compiled(state, batch)
        batch, drawn = collect(state, batch, index)
        return compiled(state, batch) | drawn

    return evaluated
