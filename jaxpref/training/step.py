"""The compiled step: an algorithm's step, plus the guard that keeps the last finite state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref.algorithms import Algorithm
from jaxpref.metrics import Mean, Metrics
from jaxpref.training.sharding import OnMesh

__all__ = ["collecting", "compiled_evaluation", "compiled_step"]

GUARDED = ("loss", "grad_norm")
_DRAWS = 2**31  # a stream of its own: steps fold their index, which is smaller, into the key of the seed


def compiled_step(
    algorithm: Algorithm, shardings: Any, mesh: Mesh, *, seed: int, skip_non_finite: bool
) -> OnMesh:
    """`(state, alive, batch, step) -> (state, alive, metrics)`; donates the state.

    An update whose loss or gradient norm is not finite is not applied: with `skip_non_finite` it is dropped
    and counted (`skipped`), else `alive` turns False for good and the state stays the last finite one, so
    the host may find out a step later and still save it.
    """

    def step(state, alive, batch, index):
        key = jax.random.fold_in(jax.random.key(seed), index)
        new, metrics = algorithm.step(state, batch, key)
        watched = [metrics[name].value for name in GUARDED if name in metrics]
        finite = jnp.isfinite(jnp.stack(watched)).all()
        apply = finite if skip_non_finite else finite & alive
        if skip_non_finite:
            metrics = metrics | {"skipped": Mean(1.0 - finite.astype(jnp.float32), jnp.float32(0))}
        return jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, state), alive & finite, metrics

    whole = NamedSharding(mesh, PartitionSpec())
    return OnMesh(jax.jit(step, donate_argnums=(0, 1), out_shardings=(shardings, whole, whole)), mesh)


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
