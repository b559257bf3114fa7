"""The guard around an algorithm's step: what was not finite is never applied, nor what came after it."""

import jax
import jax.numpy as jnp
import pytest

from jaxpref.algorithms.base import Algorithm, TrainState
from jaxpref.experiment import MeshShape
from jaxpref.metrics import Mean
from jaxpref.training.loop import compiled_step
from jaxpref.training.sharding import make_mesh


def _adding() -> Algorithm:
    """Adds the batch to the params; its loss is the batch."""

    def step(state, batch, key):
        new = TrainState(state.step + 1, state.params + batch, state.opt_state)
        return new, {"loss": Mean(batch, jnp.float32(1)), "grad_norm": Mean(batch, jnp.float32(1))}

    return Algorithm(None, step, None, None, None)


@pytest.mark.parametrize(("skip", "steps", "total"), [(False, 1, 1.0), (True, 2, 1.0 + 3.0)])
def test_what_follows_a_step_that_was_not_finite(skip, steps, total):
    """The host hears of it a step late: by default nothing is applied any more; with `skip` that update alone
    is left out."""
    mesh = make_mesh(MeshShape(data=8))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = TrainState(jnp.int32(0), jnp.float32(0), ())
    state, alive = jax.device_put((state, jnp.bool_(True)), whole)
    shardings = jax.tree.map(lambda _: whole, state)
    step = compiled_step(_adding(), shardings, mesh, seed=0, stage="add", skip_non_finite=skip)
    for index, batch in enumerate((1.0, jnp.nan, 3.0)):
        state, alive, _ = step(state, alive, {}, jax.device_put(jnp.float32(batch), whole), index)
    assert (int(state.step), float(state.params)) == (steps, total)
