"""What a checkpoint lacks is said, and a NaN is never the best."""

import jax
import jax.numpy as jnp
import pytest

from jaxpref.algorithms.base import TrainState
from jaxpref.training.checkpoint import Checkpoints, restore_params


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"logits": jnp.full(3, float(step))}, ())


@pytest.mark.parametrize("values", [(1.0, 3.0, float("nan"), 2.0), (1.0, 3.0, 2.0, float("nan"))])
def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path, values):
    with Checkpoints(tmp_path, keep=1, best_metric="accuracy") as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(step, state(step), {}, {"accuracy": value})
            checkpoints.wait()
        assert checkpoints.best == 2
        assert float(restore_params(tmp_path, 2, state(0).params)["logits"][0]) == 2


def test_params_that_a_checkpoint_lacks_are_an_error(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})
    wanted = {
        "logits": jax.ShapeDtypeStruct((3,), jnp.float32),
        "head": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    with pytest.raises(ValueError, match=r"it has no \['params'\]\['head'\], 1 arrays in all"):
        restore_params(tmp_path, 1, wanted)
