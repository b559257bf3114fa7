"""The compiled step: an algorithm's step, plus the guard that keeps the last finite state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.metrics import Mean, Metrics
from jaxpref.training.sharding import OnMesh

__all__ = ["collecting", "compiled_evaluation", "compiled_step"]

GUARDED = ("loss", "grad_norm")


def compiled_step(
    algorithm: Algorithm, shardings: Any, mesh: Mesh, *, seed: int, stage: str, skip_non_finite: bool
) -> OnMesh:
    """`(state, alive, batch, step) -> (state, alive, metrics)`; donates the state.

    An update whose loss or gradient norm is not finite is not applied: with `skip_non_finite` it is dropped
    and counted (`skipped`), else `alive` turns False for good and the state stays the last finite one, so
    the host may find out a step later and still save it.
    """

    def step(state, alive, batch, index):
        new, metrics = algorithm.step(state, batch, keys.key(seed, stage, "step", index))
        watched = [metrics[name].value for name in GUARDED if name in metrics]
        finite = jnp.isfinite(jnp.stack(watched)).all()
        apply = finite if skip_non_finite else finite & alive
        if skip_non_finite:
            metrics = metrics | {"skipped": Mean(1.0 - finite.astype(jnp.float32), jnp.float32(0))}
        return jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, state), alive & finite, metrics

    whole = NamedSharding(mesh, PartitionSpec())
    return OnMesh(jax.jit(step, donate_argnums=(0, 1), out_shardings=(shardings, whole, whole)), mesh)


Collect = Callable[[Any, Any, int], tuple[Any, Metrics]]


def collecting(algorithm: Algorithm, mesh: Mesh, *, seed: int, stage: str) -> Collect | None:
    """`(state, batch, index) -> (what step takes, metrics)` with the mesh in context; None without `collect`.

    Not compiled as a whole, since a judge may run on the host. Draws depend on (seed, stage, index) alone.
    """
    collect = algorithm.collect
    if collect is None:
        return None
    on_mesh = OnMesh(collect, mesh)
    key_of = jax.jit(lambda index: keys.key(seed, stage, "collect", index))
    return lambda state, batch, index: on_mesh(state, batch, key_of(index))


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

    compiled = OnMesh(jax.jit(evaluate, out_shardings=NamedSharding(mesh, PartitionSpec())), mesh)
    if algorithm.collect is None:
        return compiled
    collect, draw_key = OnMesh(algorithm.collect, mesh), jax.jit(partial(key_of, part="collect"))

    def evaluated(state: Any, batch: Any, step: int, index: int) -> Metrics:
        batch, drawn = collect(state, batch, draw_key(step, index))
        return compiled(state, batch, step, index) | drawn

    return evaluated
