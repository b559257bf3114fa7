"""Checkpoints of one stage: atomic, asynchronous, the last few kept, and the best by a metric.

A checkpoint holds the algorithm's whole state and the step. The data position is the step (batches are a
pure function of it), so a resumed run sees the same batches whatever number of examples came before. Beside
the state stands a checksum of each of its arrays, which is computed again from what a restore gives.
"""

import contextlib
import math
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from jaxpref.paths import AnyPath, absolute
from jaxpref.training.checksums import checksums, named
from jaxpref.training.job import Job, current

__all__ = ["Checkpoints", "restore_params", "saved_meta"]

_CHECKSUMS = "checksums"  # in the meta of a checkpoint
_LATE = 20.0  # seconds that a shared file system may be behind
_DELETE = "delete that folder: the run then resumes from the one before, or starts its stage again"


class Checkpoints:
    """Orbax manager of `directory`, with errors that say what to do."""

    def __init__(self, directory: AnyPath, *, keep: int = 2, best_metric: str | None = None) -> None:
        self.directory = directory
        self._best = best_metric

        def value(metrics: dict[str, float]) -> float:
            # Orbax takes what follows a NaN for the best one there is (`findings/`).
            given = float(metrics[best_metric or ""])
            return -math.inf if math.isnan(given) else given

        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if best_metric is not None:
            policies.append(
                checkpoint_managers.BestN(get_metric_fn=value, n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=None if best_metric is None else value,
            enable_async_checkpointing=True,
        )
        try:
            self._manager = ocp.CheckpointManager(
                absolute(directory), item_names=("state", "meta"), options=options
            )
        except OSError as error:
            raise ValueError(
                f"{directory} cannot be written: {error}; see that its parent is there and that you may "
                "write to it, or choose another workdir"
            ) from error
        self._agree(current())

    def _agree(self, job: Job) -> None:
        """Waits until this process sees what the first one does: a file system that several machines share
        may show it late, and all of them have to go on from one checkpoint.

        Raises:
          ValueError: another process does not come to see it; in all of them.
        """
        first = job.of_first("checkpoints", lambda: self.steps)
        until = time.monotonic() + _LATE
        while self.steps != first and time.monotonic() < until:
            time.sleep(0.5)
            self._manager.reload()
        seen = job.gather("checkpoints", self.steps)
        blind = [i for i, steps in enumerate(seen) if steps != first]
        if blind:
            raise ValueError(
                f"{self.directory}: {job.name(blind[0])} sees the checkpoints {seen[blind[0]]} there, and "
                f"process 0 {first}; give a workdir that all workers see alike"
            )

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the best checkpoint by the metric; the latest where none is tracked or has it."""
        best = self._manager.best_step() if self._best else None
        return self.latest if best is None else best

    def save(
        self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Starts writing; returns once the arrays are off the device. A step already there is kept, whoever
        wrote it.

        metrics: of the held-out pass; without the metric that says which is best, this is not the best one.

        Raises:
          ValueError: there is no room for it, or two arrays have one name.
        """
        if self._best not in (metrics or {}):
            metrics = None
        try:
            if self._reached(step):
                return
            meta = meta | {_CHECKSUMS: checksums(state)}
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
                metrics=metrics,
            )
        except OSError as error:
            raise self._disk_error(error, step) from error

    def _reached(self, step: int) -> bool:
        """Whether this step, or a later one, is on disk by now: the same answer in all processes.

        Of what another job has written here since this one began, a process of it that was thought to be
        dead, Orbax knows nothing, and it replaces such a step even while somebody reads it."""
        self._manager.wait_until_finished()  # else what is being written is forgotten, and never deleted
        self._manager.reload()
        there = self.latest is not None and self.latest >= step
        if jax.process_count() > 1:  # one may look before it is there and one after, and Orbax waits for all
            there = bool(multihost_utils.process_allgather(np.array(there)).any())
        return there

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """State laid out as `target` (arrays or ShapeDtypeStructs with shardings), and the saved meta."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        _check_arrays(self.directory / str(step), target)
        try:
            out = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()),
            )
        except Exception as error:
            raise _unreadable(self.directory / str(step), error) from error
        state, meta = out["state"], out["meta"] or {}
        _check_sums(self.directory, step, meta, state)
        return state, meta

    def wait(self) -> None:
        """Blocks until what was saved is on disk under its final name."""
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise self._disk_error(error, None) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def _disk_error(self, error: OSError, step: int | None) -> ValueError:
        at = "" if step is None else f" at step {step}"
        return ValueError(
            f"checkpoint{at} could not be written to {self.directory}: {error}. Free space (or choose "
            f"another workdir) and run the same command again: it resumes from step {self._safe_latest()}"
        )

    def _safe_latest(self) -> int | str:
        """Last step on disk, after what was being written before has ended one way or the other."""
        with contextlib.suppress(OSError):
            self._manager.wait_until_finished()
        steps = sorted(int(p.name) for p in self.directory.glob("[0-9]*") if p.name.isdigit())
        return steps[-1] if steps else "0"


def saved_meta(directory: AnyPath, step: int) -> dict[str, Any]:
    """What was saved beside the state of a checkpoint."""
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            return checkpointer.restore(absolute(directory) / str(step) / "meta") or {}
    except Exception as error:
        raise _unreadable(directory / str(step), error) from error


def restore_params(directory: AnyPath, step: int, target: Any) -> Any:
    """Only `params` of a saved state, laid out as `target`.

    Raises:
      ValueError: they are not those of the checkpoint by name, shape and dtype, all of them and no others, or
        not what was saved.
    """
    item = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, target)}
    path = absolute(directory) / str(step) / "state"
    _check_arrays(directory / str(step), target, part="params")
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(
                path,
                args=ocp.args.PyTreeRestore(
                    item=item,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                    partial_restore=True,
                ),
            )
    except Exception as error:
        raise _unreadable(directory / str(step), error) from error
    _check_sums(directory, step, saved_meta(directory, step), restored)
    return restored["params"]


def _check_sums(directory: AnyPath, step: int, meta: dict[str, Any], tree: Any) -> None:
    """Compares arrays with the checksums that were saved beside them; checkpoints of before there were any
    are taken as they are.

    Raises:
      ValueError: some are not what was saved.
    """
    saved = meta.get(_CHECKSUMS)
    if saved is None:
        return
    damaged = [name for name, value in checksums(tree).items() if saved.get(name) != value]
    if damaged:
        raise ValueError(
            f"checkpoint {directory / str(step)} is damaged: {damaged[0]} is not what was saved at "
            f"step {step} (its checksum differs; {len(damaged)} arrays in all); {_DELETE}"
        )


def _check_arrays(path: AnyPath, target: Any, *, part: str | None = None) -> None:
    """Compares the arrays of a checkpoint with those asked for, by dtype and shape, and where only a part is
    asked for by name.

    Orbax gives back the shape of what is not there (`findings/`), leaves out what nobody asked for, casts to
    another dtype, and takes another shape where no sharding is asked for."""
    try:
        # Of the handler: a `Checkpointer` warns that this part of a step has no metadata of its own.
        there = ocp.PyTreeCheckpointHandler().metadata(epath.Path(absolute(path) / "state"))
        if there is None:
            raise ValueError("nothing is there")
        saved, wanted = _kinds(there.tree[part] if part else there.tree), _kinds(target)
    except Exception as error:
        raise _unreadable(path, error) from error
    missing, beyond = wanted.keys() - saved.keys(), saved.keys() - wanted.keys()
    differing = [n for n in sorted(saved.keys() & wanted.keys()) if saved[n] != wanted[n]]
    why = None
    if missing and part:
        why = f"it has no {min(missing)}, {len(missing)} arrays in all"
    elif beyond and part:
        why = f"the model has no place for its {min(beyond)}, {len(beyond)} arrays in all"
    elif differing:
        name = differing[0]
        why = f"{name} is {saved[name]} there and {wanted[name]} here, {len(differing)} arrays in all"
    if why is not None:
        raise _unreadable(path, ValueError(why))


def _kinds(tree: Any) -> dict[str, str]:
    """Dtype and shape of arrays by name."""
    return {name: f"{x.dtype} {list(x.shape)}" for name, x in named(tree).items() if hasattr(x, "shape")}


def _unreadable(path: AnyPath, error: BaseException) -> ValueError:
    while error.__cause__ is not None:  # the first of them names the array
        error = error.__cause__
    reason = str(error).strip().splitlines()
    if "structures do not match" in str(error):
        return ValueError(
            f"checkpoint {path} holds another state than this algorithm's: it is of another one, or of an "
            "older jaxpref. Its params can still be read (`jaxpref sample`, or a new stage, --allow-changes)"
        )
    return ValueError(
        f"checkpoint {path} cannot be read ({type(error).__name__}: {reason[0][:300] if reason else ''}). "
        f"If it is damaged, {_DELETE}. If shapes differ, the model or tokenizer of this experiment is not "
        "the one that wrote it"
    )
