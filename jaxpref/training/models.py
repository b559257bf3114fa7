"""Models of other runs, for a run that learns with them (judges, critics, teachers) or starts from them."""

import logging
from collections.abc import Callable

import jax
import numpy as np

from jaxpref import keys, shapes
from jaxpref.paths import as_path
from jaxpref.policies.base import Model, Policy, model_of
from jaxpref.training.checkpoint import Checkpoints, restore_params, saved_meta
from jaxpref.training.constants import check_adapters, check_base, fingerprint
from jaxpref.types import Params

__all__ = ["random_model", "run_params", "trained_model"]

logger = logging.getLogger("jaxpref.models")


def _shapes(policy: Policy) -> Model:
    return model_of(policy, jax.eval_shape(policy.init, jax.random.key(0)))


def trained_model(
    *,
    policy: Callable[[], Policy],
    workdir: str,
    stage: str,
    step: int | None = None,
    other_base: bool = False,
) -> Model:
    """The trained params of a stage of a finished run: host arrays, and their logical axes.

    For `online(models={"judge": partial(trained_model, ...)})`. Every process reads the whole model.

    Args:
      policy: builds the policy of that run, as its experiment does.
      workdir: the folder of that run, or its URL. stage: whose checkpoint.
      step: which checkpoint; None: the last one.
      other_base: read adapters above another base than they were trained above, and say so.

    Raises:
      ValueError: there is no such run, stage or checkpoint, or its shapes are not those of `policy`; its
        adapters were trained above another base.
    """
    if shapes.are_enough():
        return _shapes(policy())
    return _read(policy(), "trained_model", workdir, stage, step, other_base)[1]


def run_params(
    *,
    policy: Callable[[], Policy],
    workdir: str,
    stage: str,
    step: int | None = None,
    other_base: bool = False,
) -> Params:
    """The params that a stage of another run trained, for `Experiment.weights`: what this one starts from.

    Of a run of adapters these are the adapters (and what else it trained), without the base. Arguments and
    errors are those of `trained_model`.
    """
    return _read(policy(), "run_params", workdir, stage, step, other_base)[0]


def _read(
    built: Policy, caller: str, workdir: str, stage: str, step: int | None, other_base: bool
) -> tuple[Params, Model]:
    """Params of a checkpoint, and the model that they are with the policy's constants."""
    root = as_path(workdir)
    directory = root / "checkpoints" / stage
    if not directory.is_dir():
        known = sorted(p.name for p in (root / "checkpoints").glob("*") if p.is_dir())
        there = f"has the stages {', '.join(known)}" if known else "is no folder of a trained run"
        raise ValueError(
            f"{caller}: no checkpoint of stage {stage!r}: {root} {there}; train the model first "
            "(`jaxpref train ... workdir=...`) and name that workdir"
        )
    with Checkpoints(directory) as checkpoints:
        checkpoint_step = checkpoints.latest if step is None else step
    if checkpoint_step is None or not (directory / str(checkpoint_step)).is_dir():
        raise ValueError(f"{caller}: {directory} has no checkpoint{'' if step is None else f' {step}'}")
    base = None if built.constants is None else built.constants()
    meta = saved_meta(directory, checkpoint_step)
    check_adapters(directory, meta, built)
    check_base(
        directory,
        meta.get("constants", {}),
        {} if base is None else {"policy": fingerprint(base.params)},
        other_base=other_base,
        option="other_base=True",
        say=logger.warning,
    )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        jax.eval_shape(built.init, jax.random.key(0)),
    )
    params = jax.tree.map(np.asarray, restore_params(directory, checkpoint_step, target))
    logger.info("%s: %s at step %d of %s", caller, stage, checkpoint_step, root)
    read_once = built if base is None else built._replace(constants=lambda: base)
    return params, model_of(read_once, params)


def random_model(*, policy: Callable[[], Policy], seed: int = 0) -> Model:
    """An untrained model, `policy.init`, for a dry run of memory and speed; logs that it is one."""
    built = policy()
    if shapes.are_enough():
        return _shapes(built)
    params = jax.jit(built.init)(keys.key(seed, None, "model"))
    logger.info("random_model: RANDOM weights, for a dry run; what a judge of them says means nothing")
    return model_of(built, jax.tree.map(np.asarray, params))
