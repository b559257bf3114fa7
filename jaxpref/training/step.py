"""The compiled step: an algorithm's step, plus the guard that keeps the last finite state."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref.algorithms import Algorithm
from jaxpref.metrics import Mean
from jaxpref.training.sharding import OnMesh

__all__ = ["compiled_evaluation", "compiled_step"]

GUARDED = ("loss", "grad_norm")


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


def compiled_evaluation(algorithm: Algorithm, mesh: Mesh, *, seed: int) -> OnMesh:
    """`(state, batch) -> metrics`, replicated on every device."""

    def evaluate(state, batch):
        return algorithm.evaluate(state, batch, jax.random.key(seed))

    return OnMesh(jax.jit(evaluate, out_shardings=NamedSharding(mesh, PartitionSpec())), mesh)
