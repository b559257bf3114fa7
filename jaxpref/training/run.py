"""A whole run: the stages in order, each from its last checkpoint or from where the one before ended."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence

import jax

from jaxpref.algorithms import Algorithm
from jaxpref.config import describe, leaves
from jaxpref.experiment import Experiment, Stage
from jaxpref.paths import AnyPath, as_folder, reachable
from jaxpref.training import sharding
from jaxpref.training.best import check_best_metric
from jaxpref.training.context import RunContext
from jaxpref.training.distributed import joined
from jaxpref.training.files import RunFiles, show_choices
from jaxpref.training.job import current
from jaxpref.training.lock import locked
from jaxpref.training.loop import StageRun
from jaxpref.training.maintenance import watched
from jaxpref.training.params import (
    check_base,
    has_checkpoints,
    initial_params,
    saved_params,
    stage_checkpoints,
)
from jaxpref.training.preemption import Preemption, entered, listening
from jaxpref.training.profiling import Window, check_window
from jaxpref.training.provenance import devices
from jaxpref.training.record import checked_record
from jaxpref.training.references import check_reference
from jaxpref.training.start import check_same_run
from jaxpref.training.writers import DEFAULT
from jaxpref.types import Params

__all__ = ["Result", "run_folder", "open_run", "train"]


@dataclasses.dataclass(frozen=True)
class Result:
    params: Params
    directory: AnyPath
    compiles: dict[str, int]  # stage -> programs compiled for its step: one for each bucket that occurred


def train(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    allow_changes: bool = False,
    docstring: str = "",
    source: str | None = None,
    writers: Sequence[str] = DEFAULT,
    profile: Window | None = None,
    log: Callable[[str], None] = print,
) -> Result:
    """Runs all stages; an interrupted run with the same `workdir` goes on where it was, bit for bit.

    Args:
      workdir: a folder, or one of an object store (`gs://bucket/run`); all processes must see it.
      source: the experiment file, for the commit in experiment.json.
      writers: where metrics go beside metrics.jsonl, see `training.writers`.
      profile: steps to trace into `workdir`/profile, see `training.profiling`.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; the state is saved. A second Ctrl-C is a KeyboardInterrupt at once.
      NonFiniteError: a loss or gradient was not finite; the last finite state is saved.
      ValueError: the mesh, batch size, data, weights or checkpoint do not fit; the message says how to fix.
        A run that has not made a step yet leaves no file then.
    """
    if profile is not None:
        check_window(profile, experiment)
    with listening() as preemption, _noticing(preemption, log):
        run = open_run(experiment, workdir, preemption=preemption, writers=writers, log=log)
        run = dataclasses.replace(run, allow_changes=allow_changes, profile=profile)
        files = run.files
        with files.discarded_if_nothing_ran(), locked(files.directory, current(), files.log):
            mesh = sharding.describe_mesh(run.mesh)
            _check_bases(run)
            write = checked_record(
                files,
                experiment,
                mesh=mesh,
                docstring=docstring,
                tokenizer=getattr(run.tokenizer, "fingerprint", None),
                source=source,
                allow_changes=allow_changes,
            )
            parameters = sum(x.size for x in jax.tree.leaves(run.abstract_params))
            files.log(
                f"{experiment.name}: {parameters:,} parameters, mesh {mesh} on {devices()}, in {workdir}"
            )
            return _run_stages(run, write)


@contextlib.contextmanager
def _noticing(preemption: Preemption, log: Callable[[str], None]) -> Iterator[None]:
    """With an eye on what announces that the machine will be taken away."""
    end = watched(preemption.ask, log)
    try:
        yield
    finally:
        end()
        preemption.unsaved = False


def run_folder(workdir: str | os.PathLike[str]) -> AnyPath:
    """The path of a run.

    Raises:
      ValueError: it is a file, or its store does not answer or is one that Orbax cannot write checkpoints to.
    """
    for scheme in ("s3", "az", "hf"):
        if str(workdir).startswith(f"{scheme}://"):
            raise ValueError(
                f"workdir={workdir}: Orbax writes checkpoints to folders and to gs://, not to {scheme}://; "
                "mount it and give the mounted path"
            )
    return reachable(as_folder(workdir, "workdir"))


def open_run(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    preemption: Preemption | None = None,
    writers: Sequence[str] = DEFAULT,
    other_base: bool = False,
    log: Callable[[str], None] = print,
) -> RunContext:
    """Builds mesh, policy and tokenizer, and checks that they fit one another.

    `other_base`: its checkpoints may be read above another base than they were trained above, for whoever
    only reads them; `train` never goes on there.
    """
    check_same_run(joined(), lambda: {"workdir": str(workdir), **leaves(describe(experiment))})
    mesh = sharding.make_mesh(experiment.mesh)
    policy, tokenizer = experiment.policy(), experiment.tokenizer and experiment.tokenizer()
    if other_base and policy.constants is None:
        raise ValueError(f"--other-base: {experiment.name} has no base below what it trains; leave it out")
    if tokenizer is not None and tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            f"vocabulary mismatch: the tokenizer has {tokenizer.vocab_size} ids and the model "
            f"{policy.vocab_size}; give the model that many, or change the tokenizer"
        )
    for stage in experiment.stages:
        if not re.fullmatch(r"\w[\w.+-]*", stage.name):
            raise ValueError(
                f"stage {stage.name!r}: its name is that of a folder; use letters, digits, _ - . +"
            )
    if isinstance(writers, str):
        raise ValueError(f"writers: expected names, such as ({writers!r},), got the text {writers!r}")
    files = RunFiles(run_folder(workdir), active=jax.process_index() == 0, log=log, names=writers)
    show_choices(files.log)
    return RunContext(
        experiment=experiment,
        files=files,
        mesh=mesh,
        policy=policy,
        tokenizer=tokenizer,
        abstract_params=jax.eval_shape(policy.init, jax.random.key(0)),
        axes=policy.axes(),
        preemption=preemption or entered(),
        other_base=other_base,
    )


def _check_bases(run: RunContext) -> None:
    for stage in run.experiment.stages:
        if not has_checkpoints(run, stage.name):
            continue
        with stage_checkpoints(run, stage.name) as checkpoints:
            latest = checkpoints.latest
        if latest is not None:
            check_base(run, checkpoints, latest)


def _run_stages(run: RunContext, record: Callable[[], None]) -> Result:
    """`record` writes what the run is, once its first stage is known to fit what the folder holds."""
    params, compiles = None, {}
    stages = run.experiment.stages
    algorithms = [_algorithm(run, stage) for stage in stages]
    check_best_metric(run, algorithms)
    for stage, algorithm in zip(stages, algorithms, strict=True):
        check_reference(run, stage, algorithm)
    for stage, algorithm in zip(stages, algorithms, strict=True):
        run.preemption.reached()
        with stage_checkpoints(run, stage.name) as checkpoints:
            latest = checkpoints.latest
            if latest is not None and stage is not stages[-1] and _done(run, stage, latest):
                run.files.log(f"{stage.name}: done at step {latest}")
                params = saved_params(run, checkpoints, latest)
                continue
            params = initial_params(run) if params is None else params
            with _named(stage.name):
                check_reference(run, stage, algorithm, params)
                started = StageRun(run, stage, algorithm, params, checkpoints)
            run.tables.clear()
            record()
            with _named(stage.name):
                params, compiles[stage.name] = started.train()
    return Result(params, run.files.directory, compiles)


def _done(run: RunContext, stage: Stage, latest: int) -> bool:
    """Whether a stage has ended, with its last evaluation."""
    return latest >= stage.num_steps and not run.was_cut_short(stage.name, latest)


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Mistakes name the stage that they are in."""
    try:
        yield
    except ValueError as error:
        if re.search(rf"\b{re.escape(stage)}\b", str(error)):
            raise
        raise ValueError(f"{stage}: {error}") from error


def _algorithm(run: RunContext, stage: Stage) -> Algorithm:
    """The algorithm of a stage, made before the first stage trains, so that errors come before training."""
    algorithm = stage.build(run.policy)
    sharding.check_batch_size(stage.batch_size, run.mesh, parts=algorithm.parts, where=stage.name)
    return algorithm
