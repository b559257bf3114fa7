"""What a checkpoint lacks is said, and a NaN is never the best."""

import dataclasses

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


def shaped(size: int, dtype: str = "float32"):
    return jax.ShapeDtypeStruct((size,), dtype)


FITTING = shaped(3)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"logits": FITTING, "head": FITTING}, "it has no head, 1 arrays in all"),
        ({"logit": FITTING}, "it has no logit, 1 arrays in all"),
        ({}, "the model has no place for its logits, 1 arrays in all"),
        (
            {"logits": shaped(4)},
            r"logits is float32 \[3\] there and float32 \[4\]",
        ),
        (
            {"logits": shaped(2)},
            r"logits is float32 \[3\] there and float32 \[2\]",
        ),
        (
            {"logits": shaped(3, "bfloat16")},
            r"logits is float32 \[3\] there and bfloat16 \[3\]",
        ),
    ],
)
def test_params_of_a_checkpoint_are_those_of_the_model(tmp_path, wanted, message):
    """Orbax gave a shape for what is not there, left out what nobody asked for, cast to another dtype, and
    took another shape for the one that was asked for."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})
        checkpoints.wait()
        with pytest.raises(ValueError, match=message):
            restore_params(tmp_path, 1, wanted)
        if wanted.keys() == {"logits"}:
            with pytest.raises(ValueError, match=message):
                checkpoints.restore(1, dataclasses.replace(state(0), params=wanted))
    assert float(restore_params(tmp_path, 1, {"logits": FITTING})["logits"][0]) == 1
