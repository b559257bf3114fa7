"""A whole run: the stages in order, each from its last checkpoint or from where the one before ended."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpref.experiment import Experiment
from jaxpref.training import sharding
from jaxpref.training.checkpoint import Checkpoints, restore_params
from jaxpref.training.loop import run_stage
from jaxpref.training.preemption import Preemption
from jaxpref.training.record import record_experiment
from jaxpref.training.setting import Setting
from jaxpref.training.writer import RunFiles, show_choices
from jaxpref.types import Params

__all__ = ["Result", "setting_of", "train", "trained_params"]


@dataclasses.dataclass(frozen=True)
class Result:
    params: Params
    directory: pathlib.Path
    compiles: dict[str, int]  # stage -> programs compiled for its step: one for each bucket that occurred


def train(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    allow_changes: bool = False,
    docstring: str = "",
    log: Callable[[str], None] = print,
) -> Result:
    """Runs all stages; an interrupted run with the same `workdir` goes on where it was, bit for bit.

    Raises:
      Interrupted: SIGTERM; the state is saved.
      NonFiniteError: a loss or gradient was not finite; the last finite state is saved.
      ValueError: the mesh, batch size, data, weights or checkpoint do not fit; the message says how to fix.
    """
    with Preemption() as preemption:
        setting = setting_of(experiment, workdir, preemption=preemption, log=log)
        files = setting.files
        try:
            mesh = sharding.describe_mesh(setting.mesh)
            record_experiment(files, experiment, mesh=mesh, docstring=docstring, allow_changes=allow_changes)
            parameters = sum(x.size for x in jax.tree.leaves(setting.abstract_params))
            device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
            files.log(f"{experiment.name}: {parameters:,} parameters, mesh {mesh} on {device}, in {workdir}")
            return _run_stages(setting)
        finally:
            files.close()


def setting_of(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    preemption: Preemption | None = None,
    log: Callable[[str], None] = print,
) -> Setting:
    """Builds mesh, policy and tokenizer, and checks that they fit one another."""
    mesh = sharding.make_mesh(experiment.mesh)
    policy, tokenizer = experiment.policy(), experiment.tokenizer()
    if tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            f"vocabulary mismatch: the tokenizer has {tokenizer.vocab_size} ids and the model "
            f"{policy.vocab_size}; give the model that many, or change the tokenizer"
        )
    files = RunFiles(pathlib.Path(workdir), active=jax.process_index() == 0, log=log)
    show_choices(files.log)
    return Setting(
        experiment=experiment,
        files=files,
        mesh=mesh,
        policy=policy,
        tokenizer=tokenizer,
        abstract_params=jax.eval_shape(policy.init, jax.random.key(0)),
        axes=policy.axes(),
        preemption=preemption or Preemption(),
    )


def trained_params(setting: Setting, *, stage: str | None = None, step: int | None = None) -> Params:
    """Params of the last (or named) stage's best (or named) checkpoint; the initial ones if there is none."""
    experiment = setting.experiment
    names = [s.name for s in experiment.stages]
    if stage is not None and stage not in names:
        raise ValueError(f"unknown stage {stage!r}; this experiment has {', '.join(names)}")
    for name in [stage] if stage else reversed(names):
        with _checkpoints(setting, name) as checkpoints:
            found = checkpoints.best if step is None else step
        if found is not None:
            return restore_params(checkpoints.directory, found, _target(setting))
    if stage is not None or step is not None:
        raise ValueError(f"{setting.files.directory} has no checkpoint of stage {stage or names[-1]}")
    return _initial_params(setting)


def _checkpoints(setting: Setting, stage: str) -> Checkpoints:
    return Checkpoints(
        setting.files.directory / "checkpoints" / stage,
        keep=setting.experiment.keep_checkpoints,
        best_metric=setting.experiment.best_metric,
    )


def _target(setting: Setting) -> Any:
    shardings = sharding.param_shardings(setting.abstract_params, setting.axes, setting.mesh)
    return sharding.with_shardings(setting.abstract_params, shardings)


def _run_stages(setting: Setting) -> Result:
    params, compiles = None, {}
    stages = setting.experiment.stages
    for stage in stages:
        with _checkpoints(setting, stage.name) as checkpoints:
            latest = checkpoints.latest
            if latest is not None and latest >= stage.num_steps and stage is not stages[-1]:
                setting.files.log(f"{stage.name}: done at step {latest}")
                params = restore_params(checkpoints.directory, latest, _target(setting))
                continue
            params = _initial_params(setting) if params is None else params
            params, compiles[stage.name] = run_stage(setting, stage, params, checkpoints)
    return Result(params, setting.files.directory, compiles)


def _initial_params(setting: Setting) -> Params:
    """Pretrained weights, or those of `policy.init`, laid out over the mesh."""
    experiment, abstract = setting.experiment, setting.abstract_params
    shardings = sharding.param_shardings(abstract, setting.axes, setting.mesh)
    if experiment.weights is None:
        init = jax.jit(setting.policy.init, out_shardings=shardings)
        return init(jax.random.key(experiment.seed))
    weights = experiment.weights()
    if "head" in abstract and "head" not in weights:
        # Pretrained language models have no reward head: it starts as in a model from scratch.
        weights = weights | {"head": setting.policy.init(jax.random.key(experiment.seed))["head"]}
    given = {jax.tree_util.keystr(p): jnp.shape(x) for p, x in jax.tree.leaves_with_path(weights)}
    wanted = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree.leaves_with_path(abstract)}
    differing = [k for k in sorted(given.keys() | wanted.keys()) if given.get(k) != wanted.get(k)]
    if differing:
        k = differing[0]
        raise ValueError(
            f"weights do not fit the model: {k} is {given.get(k, 'missing')} in the file and "
            f"{wanted.get(k, 'unknown')} in the model ({len(differing)} arrays differ); check the sizes and "
            "the vocabulary"
        )
    return sharding.put_params(jax.tree.map(lambda x, a: x.astype(a.dtype), weights, abstract), shardings)
