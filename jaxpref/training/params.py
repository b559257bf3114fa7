"""Params of a run by what they are: initial, of a checkpoint, or what a stage started from.

All of them are read from the weights and the checkpoints when they are needed, so an evaluation keeps nothing
in memory, and a resumed run reads the same ones.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from jaxpref import keys
from jaxpref.models.hub.lazy import cast
from jaxpref.policies.base import Policy
from jaxpref.training import constants, sharding
from jaxpref.training.checkpoint import Checkpoints, restore_params, saved_meta
from jaxpref.training.context import RunContext
from jaxpref.trees import joined
from jaxpref.types import Params, PRNGKey

__all__ = [
    "check_base",
    "has_checkpoints",
    "initial_params",
    "left_by",
    "may_start",
    "saved_params",
    "stage_checkpoints",
    "started_from",
    "trained_params",
]


def trained_params(run: RunContext, *, stage: str | None = None, step: int | None = None) -> Params:
    """Params of the last (or named) stage's best (or named) checkpoint; says which these are.

    Raises:
      ValueError: there is no such stage or checkpoint. Only an experiment with pretrained weights has params
        that mean something before it is trained.
    """
    experiment, directory = run.experiment, run.files.directory
    names = [s.name for s in experiment.stages]
    if stage is not None and stage not in names:
        raise ValueError(f"unknown stage {stage!r}; this experiment has {', '.join(names)}")
    for name in [stage] if stage else reversed(names):
        if not has_checkpoints(run, name):
            continue
        with stage_checkpoints(run, name) as checkpoints:
            chosen, steps = checkpoints.best if step is None else step, checkpoints.steps
        if chosen is not None:
            if chosen not in steps:
                raise ValueError(f"{directory} has no checkpoint {chosen} of stage {name}; it has {steps}")
            run.files.log(f"params of stage {name} at step {chosen}")
            return saved_params(run, checkpoints, chosen)
    pretrained = experiment.weights is not None or run.policy.given is not None
    if stage is not None or step is not None or not pretrained:
        raise ValueError(
            f"{directory} has no checkpoint{f' of stage {stage}' if stage else ''}, so there is no "
            "trained model; train it first (`jaxpref train` with the same overrides), or give the workdir= "
            "of a run"
        )
    run.files.log(f"{directory} has no checkpoint: these are the pretrained weights, untrained here")
    return initial_params(run)


def has_checkpoints(run: RunContext, stage: str) -> bool:
    """Whether a stage has a folder of checkpoints, without making one: what the first process sees, which may
    have made it by the time that another one looks, and all of them have to go the same way."""
    there = (run.files.directory / "checkpoints" / stage).is_dir()
    return bool(multihost_utils.broadcast_one_to_all(np.array(there)))


def stage_checkpoints(run: RunContext, stage: str) -> Checkpoints:
    return Checkpoints(
        run.files.directory / "checkpoints" / stage,
        keep=run.experiment.keep_checkpoints,
        best_metric=run.experiment.best_metric,
    )


def saved_params(run: RunContext, checkpoints: Checkpoints, step: int) -> Params:
    """Params of one checkpoint, laid out over the mesh.

    Raises:
      ValueError: they were trained beside other constants of the policy, which they mean nothing without.
    """
    check_base(run, checkpoints, step)
    shardings = sharding.param_shardings(run.abstract_params, run.axes, run.mesh)
    target = sharding.with_shardings(run.abstract_params, shardings)
    return restore_params(checkpoints.directory, step, target)


def check_base(run: RunContext, checkpoints: Checkpoints, step: int) -> None:
    """Raises ValueError where it was written above another base than the run's, unless that is asked for, or
    with adapters of another scale."""
    meta = saved_meta(checkpoints.directory, step)
    constants.check_adapters(checkpoints.directory, meta, run.policy)
    constants.check_base(
        checkpoints.directory,
        meta.get("constants", {}),
        run.constants.fingerprints,
        other_base=run.other_base,
        option="--other-base (export, chat, sample, evaluate)",
        say=run.files.log,
    )


def left_by(run: RunContext, stage: str) -> Params:
    """Params of the last checkpoint of a stage: what the next one starts from.

    Raises:
      ValueError: the stage has no checkpoint.
    """
    with stage_checkpoints(run, stage) as checkpoints:
        if checkpoints.latest is None:
            raise ValueError(
                f"{run.files.directory} has no checkpoint of stage {stage}; train it first, or give the "
                "workdir of the run"
            )
        return saved_params(run, checkpoints, checkpoints.latest)


def may_start(run: RunContext, stage: str) -> bool:
    """Whether what a stage starts from is known: it is the first one, or the one before has ended."""
    stages = run.experiment.stages
    index = [s.name for s in stages].index(stage)
    if index == 0:
        return True
    before = stages[index - 1]
    if not has_checkpoints(run, before.name):
        return False
    with stage_checkpoints(run, before.name) as checkpoints:
        return (checkpoints.latest or 0) >= before.num_steps


def started_from(run: RunContext, stage: str) -> Params:
    """Params that a stage starts from: what the stage before left, or the initial ones."""
    names = [s.name for s in run.experiment.stages]
    index = names.index(stage)
    return left_by(run, names[index - 1]) if index else initial_params(run)


def initial_params(run: RunContext) -> Params:
    """What the policy (`Policy.given`) and the experiment give, else `policy.init`, laid out over the mesh.

    Weights are whole: only what a policy adds to pretrained ones (`Policy.adds`: a head, adapters) is drawn
    where they lack it. Of lazy ones a process reads the slices that its devices hold.

    Raises:
      ValueError: they do not fit the policy.
    """
    experiment, policy = run.experiment, run.policy
    shardings = sharding.param_shardings(run.abstract_params, run.axes, run.mesh)
    weights = [load() for load in (policy.given, experiment.weights) if load is not None]
    given = _by_name(functools.reduce(joined, weights, {}))
    wanted, laid_out = _by_name(run.abstract_params), _by_name(shardings)
    drawn = [name for name in wanted if name not in given and (not weights or _added(policy, name))]
    _check_fit(given, {name: x for name, x in wanted.items() if name not in drawn})

    def init(key: PRNGKey) -> dict[str, Array]:
        every = _by_name(policy.init(key))
        return {name: every[name] for name in drawn}

    draw = jax.jit(init, out_shardings={name: laid_out[name] for name in drawn})
    made = draw(keys.key(experiment.seed, None, "init"))
    # Cast as they are read, so that there is no second copy of the model.
    read = {name: cast(x, wanted[name].dtype) for name, x in given.items()}
    made |= sharding.put_params(read, {name: laid_out[name] for name in read})
    return jax.tree.map_with_path(lambda path, _: made[jax.tree_util.keystr(path)], run.abstract_params)


def _by_name(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _added(policy: Policy, name: str) -> bool:
    return any(name.endswith(f"['{added}']") for added in policy.adds)


def _check_fit(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    shapes = [{name: tuple(np.shape(x)) for name, x in tree.items()} for tree in (given, wanted)]
    differing = [k for k in sorted(given.keys() | wanted.keys()) if shapes[0].get(k) != shapes[1].get(k)]
    if differing:
        k = differing[0]
        raise ValueError(
            f"weights do not fit the model: {k} is {shapes[0].get(k, 'missing')} in the file and "
            f"{shapes[1].get(k, 'unknown')} in the model ({len(differing)} arrays differ); check the sizes "
            "and the vocabulary"
        )
