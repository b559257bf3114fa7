"""Models of other runs, for a run that learns with them: judges, critics, teachers."""

import logging
from collections.abc import Callable

import jax
import numpy as np

from jaxpref import keys
from jaxpref.paths import as_path
from jaxpref.policies.base import Model, Policy, model_of
from jaxpref.training.checkpoint import Checkpoints, restore_params, saved_meta
from jaxpref.training.constants import check_same, fingerprint

__all__ = ["random_model", "trained_model"]

logger = logging.getLogger("jaxpref.models")


def trained_model(
    *, policy: Callable[[], Policy], workdir: str, stage: str, step: int | None = None
) -> Model:
    """The trained params of a stage of a finished run: host arrays, and their logical axes.

    For `online(models={"judge": partial(trained_model, ...)})`. Every process reads the whole model.

    Args:
      policy: builds the policy of that run, as its experiment does.
      workdir: the folder of that run, or its URL. stage: whose checkpoint.
      step: which checkpoint; None: the last one.

    Raises:
      ValueError: there is no such run, stage or checkpoint, or its shapes are not those of `policy`.
    """
    root = as_path(workdir)
    directory = root / "checkpoints" / stage
    if not directory.is_dir():
        known = sorted(p.name for p in (root / "checkpoints").glob("*") if p.is_dir())
        there = f"has the stages {', '.join(known)}" if known else "is no folder of a trained run"
        raise ValueError(
            f"trained_model: no checkpoint of stage {stage!r}: {root} {there}; train the model first "
            "(`jaxpref train ... workdir=...`) and name that workdir"
        )
    with Checkpoints(directory) as checkpoints:
        checkpoint_step = checkpoints.latest if step is None else step
    if checkpoint_step is None or not (directory / str(checkpoint_step)).is_dir():
        raise ValueError(f"trained_model: {directory} has no checkpoint{'' if step is None else f' {step}'}")
    built = policy()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(built.init, jax.random.key(0)),
    )
    params = jax.tree.map(np.asarray, restore_params(directory, checkpoint_step, target))
    saved = saved_meta(directory, checkpoint_step).get("constants", {})
    model = model_of(built, params)
    base = {name: value for name, value in model.params.items() if name not in params}
    own = {"policy": fingerprint(base)} if built.constants is not None else {}
    check_same(directory, {name: value for name, value in saved.items() if name == "policy"}, own)
    logger.info("trained_model: %s at step %d of %s", stage, checkpoint_step, root)
    return model


def random_model(*, policy: Callable[[], Policy], seed: int = 0) -> Model:
    """An untrained model, `policy.init`, for a dry run of memory and speed; logs that it is one."""
    built = policy()
    params = jax.jit(built.init)(keys.key(seed, None, "model"))
    logger.info("random_model: RANDOM weights, for a dry run; what a judge of them says means nothing")
    return model_of(built, jax.tree.map(np.asarray, params))
