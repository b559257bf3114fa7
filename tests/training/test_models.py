"""Models of other runs: what a checkpoint holds comes back, and what is missing is said."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import keys
from jaxpref.algorithms.base import TrainState
from jaxpref.policies.tabular import tabular
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.models import random_model, trained_model

TABLE = ((0.1, 0.2, 0.7), (1.0, -1.0, 0.0))
policy = partial(tabular, prompts=2, vocab=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    with Checkpoints(root / "checkpoints" / "preferences") as checkpoints:
        for step in (1, 2):
            params = {"logits": jnp.asarray(TABLE) * step}
            checkpoints.save(step, TrainState(jnp.int32(step), params, ()), {})
    return str(root)


def test_params_of_the_last_or_a_named_step(run):
    model = trained_model(policy=policy, workdir=run, stage="preferences")
    assert isinstance(model.params["logits"], np.ndarray)
    np.testing.assert_array_equal(model.params["logits"], np.asarray(TABLE, np.float32) * 2)
    assert model.axes == policy().axes()
    first = trained_model(policy=policy, workdir=run, stage="preferences", step=1)
    np.testing.assert_array_equal(first.params["logits"], np.asarray(TABLE, np.float32))


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(ValueError, match="is no folder of a trained run; train the model first"):
        trained_model(policy=policy, workdir=str(tmp_path), stage="preferences")
    with pytest.raises(ValueError, match="has the stages preferences"):
        trained_model(policy=policy, workdir=run, stage="reward")
    with pytest.raises(ValueError, match="no checkpoint 7"):
        trained_model(policy=policy, workdir=run, stage="preferences", step=7)
    with pytest.raises(ValueError, match="shapes differ"):
        trained_model(policy=partial(policy, vocab=4), workdir=run, stage="preferences")


def test_a_random_model_says_so(caplog):
    with caplog.at_level("INFO", logger="jaxpref"):
        model = random_model(policy=policy, seed=3)
    np.testing.assert_array_equal(model.params["logits"], policy().init(keys.key(3, None, "model"))["logits"])
    assert "RANDOM" in caplog.text
