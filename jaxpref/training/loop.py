"""The host loop of one stage, and the step that it compiles. Every algorithm runs through here."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.data.account import account
from jaxpref.data.content import content_of
from jaxpref.data.loader import Loader
from jaxpref.experiment import Stage
from jaxpref.metrics import Mean, Metrics
from jaxpref.policies.base import check_records
from jaxpref.training import sharding
from jaxpref.training.batches import check_batch
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.clock import Clock
from jaxpref.training.collect import collecting, compiled_evaluation
from jaxpref.training.constants import adapters_of, fingerprint, other_scheme
from jaxpref.training.context import RunContext
from jaxpref.training.evaluation import (
    CutShort,
    evaluate_stage,
    held_out_loader,
    held_out_pass,
)
from jaxpref.training.peak import matmul_peak
from jaxpref.training.profiling import Profiler
from jaxpref.training.progress import NonFiniteError, StepLog
from jaxpref.training.sharding import OnMesh, on_mesh
from jaxpref.training.spikes import SpikeWatch
from jaxpref.training.state import Layout, moving, with_constants
from jaxpref.types import Params

__all__ = ["Interrupted", "StageRun", "compiled_step"]

GUARDED = ("loss", "grad_norm")


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; the state was saved. `status`: that of the process, 128 + the signal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def compiled_step(
    algorithm: Algorithm, shardings: Any, mesh: Mesh, *, seed: int, stage: str, skip_non_finite: bool
) -> OnMesh:
    """`(state, alive, constants, batch, step) -> (state, alive, metrics)`; donates state and `alive`.

    The state is the part that moves (`state.moving`). An update whose loss or gradient norm is not finite is
    not applied: with `skip_non_finite` it is dropped and counted (`skipped`), else `alive` turns False for
    good and the state stays the last finite one, so the host may find out a step later and still save it."""

    def step(state, alive, constants, batch, index):
        key = keys.key(seed, stage, "step", index)
        new, metrics = algorithm.step(with_constants(state, constants), batch, key)
        watched = [metrics[name].value for name in GUARDED if name in metrics]
        finite = jnp.isfinite(jnp.stack(watched)).all()
        apply = finite if skip_non_finite else finite & alive
        if skip_non_finite:
            metrics = metrics | {"skipped": Mean(1.0 - finite.astype(jnp.float32), jnp.float32(0))}
        kept = jax.tree.map(lambda n, o: jnp.where(apply, n, o), moving(new), state)
        return kept, alive & finite, metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    out = (shardings, everywhere, everywhere)
    return on_mesh(step, mesh, donate_argnums=(0, 1), out_shardings=out)


class _Due(NamedTuple):
    """What the loop has to do after a step."""

    last: bool
    stop: bool  # SIGTERM or Ctrl-C
    look: bool  # held-out pass
    probe: bool  # evaluators
    keep: bool  # checkpoint

    @property
    def anything(self) -> bool:
        return self.look or self.probe or self.keep


class StageRun:
    """One stage while it runs: from `params`, or from the last checkpoint. Nothing is written before `train`.

    Within a step: batch -> (collect) -> step -> metrics of the step before. At its end, in this order:
    held-out pass, evaluators, checkpoint; so a checkpoint never knows more than the files beside it, and a
    run killed in between evaluates again instead of never.

    `at`: the checkpoint to begin from, 0 for the start of the stage; None: the last one."""

    def __init__(
        self,
        run: RunContext,
        stage: Stage,
        algorithm: Algorithm,
        params: Params,
        checkpoints: Checkpoints,
        *,
        at: int | None = None,
    ) -> None:
        self.clock = Clock("start")
        self.run, self.stage, self.algorithm = run, stage, algorithm
        self.checkpoints = checkpoints
        experiment, mesh = run.experiment, run.mesh
        self.loader, self.held_out = _loader(run, stage), held_out_loader(run, stage)
        layout = Layout.of(run, self.algorithm)
        self.constants = layout.constants
        self.meta = {
            "data": self.loader.description,
            "constants": layout.fingerprints,
            "adapters": adapters_of(run.policy),
            "held_out": self.held_out and content_of(self.held_out.records),
            "started_from": _start_of(run, stage, params),
        }
        at = checkpoints.latest if at is None else at
        self.start = at or 0
        fresh = at is None or at not in checkpoints.steps
        # The evaluation at the step that it goes on from was cut short.
        self.cut = run.was_cut_short(stage.name, at)
        place = {"seed": experiment.seed, "stage": stage.name}
        key = keys.key(experiment.seed, stage.name, "start")
        self.state: Any = layout.start(params, key) if fresh else self._restored(layout)
        done = -1 if fresh else self.start - self.cut
        self.forget = partial(
            run.files.forget_after, [s.name for s in experiment.stages], stage.name, self.start, done
        )
        self.alive = jax.device_put(jnp.bool_(True), NamedSharding(mesh, PartitionSpec()))
        self.train_step = compiled_step(
            self.algorithm,
            layout.shardings,
            mesh,
            **place,
            skip_non_finite=experiment.non_finite == "skip",
        )
        self.collect = collecting(self.algorithm, mesh, **place)
        self.evaluation = compiled_evaluation(self.algorithm, mesh, **place)
        steps = (self.start, stage.num_steps, experiment.log_every)
        self.watch = SpikeWatch(run.files, stage.name, ids=self.loader.indices, nearest=self.nearest)
        self.log = StepLog(run.files, stage.name, *steps, *matmul_peak(), self.clock, self.watch)

    @property
    def whole(self) -> Any:
        """The state as algorithms see it."""
        return with_constants(self.state, self.constants)

    def train(self) -> tuple[Params, int]:
        """Returns the params and the number of programs compiled for a step."""
        self.forget()
        self.note_data()
        check_batch(self.stage.name, self.loader, self.start, self.run.mesh)
        if self.start > 0:
            self.watch.go_on(self.run.files.read("metrics.jsonl"))
        self.clock.turn("other")
        if self.start == 0:
            self.run_evaluators(0)
            self.run_held_out(0)
        elif self.cut:
            self.evaluate(self._due(self.start), self.start)
            self.run.files.cut_short(self.stage.name, None)
        profiler = self._profiler()
        with (
            ThreadPoolExecutor(1) as pool,  # the next batch is put together while the device works
            contextlib.closing(profiler),
        ):
            upcoming = pool.submit(self.batch, self.start)
            for index in range(self.start, self.stage.num_steps):
                with profiler.step(index):
                    with self.clock.spent("data"):
                        batch = upcoming.result()
                    upcoming = pool.submit(self.batch, index + 1)
                    batch, metrics = self.step(batch, index)
                self.after(batch, metrics, index + 1)
        self.run.preemption.unsaved = False
        return self.state.params, self.train_step.programs

    def note_data(self) -> None:
        """What the stage trains on, in data.json."""
        records = self.loader.records
        lines = [f"{len(records):,} records to train on", *account(records)]
        self.run.files.note("data.json", self.stage.name, lines)

    def batch(self, index: int) -> Any:
        """The records of a step, on the devices that learn from them."""
        return sharding.put_batch(partial(self.loader.batch, index), self.loader.batch_size, self.run.mesh)

    def step(self, batch: Any, index: int) -> tuple[Any, Metrics]:
        """One step of training; returns what it learnt from, and its metrics."""
        batch, drawn = self.collected(batch, index)
        return batch, self.update(batch, index) | drawn

    def collected(self, batch: Any, index: int) -> tuple[Any, Metrics]:
        """What the algorithm learns from, drawn and judged where it does that, and the metrics of that."""
        if self.collect is None:
            return batch, {}
        with self.clock.spent("collect"):
            return self.collect(self.whole, batch, index)

    def update(self, batch: Any, index: int) -> Metrics:
        """Takes the state a step on; returns the step's metrics."""
        with self.clock.spent("step"):
            self.state, self.alive, metrics = self.train_step(
                self.state, self.alive, self.constants, batch, index
            )
        return metrics

    def after(self, batch: Any, metrics: Metrics, done: int) -> None:
        """Logs a step, and does what is due after it."""
        self.run.preemption.unsaved = True
        due = self._due(done)
        try:
            self.log.push(done - 1, metrics, self.algorithm.flops(batch))
            self.log.settle()  # of the steps before; what is done now belongs to this one
            if due.anything:
                self.log.flush()
        except NonFiniteError as error:
            raise self._saved(error) from None
        if not due.anything:
            return
        try:
            values = self.evaluate(due, done)
        except CutShort:  # whoever goes on from here makes that evaluation first
            due, values = due._replace(last=False, stop=True, keep=True), None
            self.run.files.cut_short(self.stage.name, done)
        if due.keep:
            self.save(done, values, wait=due.stop or due.last)
        self.log.settle(done if due.stop or due.last else None)
        if due.stop and not due.last:
            raise Interrupted(
                f"{self.stage.name}: interrupted and saved at step {done}; run the same command to go on",
                self.run.preemption.status,
            )
        self.log.resume_clock()

    def _due(self, done: int) -> _Due:
        stage = self.stage
        last, stop = done == stage.num_steps, self.run.preemption.reached()
        probe = stage.evaluators_every is not None and done % stage.evaluators_every == 0
        return _Due(
            last,
            stop,
            look=last or done % stage.evaluate_every == 0,
            probe=last or probe,
            keep=last or stop or done % stage.checkpoint_every == 0,
        )

    def evaluate(self, due: _Due, step: int) -> dict[str, float] | None:
        """The evaluations that are due; returns the means of the held-out pass, if there was one."""
        watched = due.look or (due.keep and self.run.experiment.best_metric is not None)
        values = self.run_held_out(step) if watched else None
        if due.probe:
            self.run_evaluators(step)
        return values

    def save(self, step: int, values: dict[str, float] | None = None, *, wait: bool) -> None:
        """Starts a checkpoint, once the files beside it are written; with `wait`, it is on disk."""
        with self.clock.spent("checkpoint"):
            self.run.files.flush()
            self.checkpoints.save(step, self.state, self.meta, values)
            if wait:
                self.checkpoints.wait()

    def nearest(self, step: int) -> int | None:
        """The last checkpoint that is not after `step`."""
        return max((at for at in self.checkpoints.steps if at <= step), default=None)

    def run_held_out(self, step: int) -> dict[str, float] | None:
        """One pass over the held-out records."""
        if self.held_out is None:
            return None
        stage, files = self.stage, self.run.files
        stop = self.run.preemption.reached
        with self.clock.spent("evaluation"):
            values = held_out_pass(self.evaluation, self.whole, self.held_out, self.run.mesh, step, stop=stop)
        files.write(stage.name, "eval", step, values)
        shown = "  ".join(f"{k} {values[k]:.4g}" for k in ("loss", "rewards/accuracies") if k in values)
        files.log(f"{stage.name}  {step}/{stage.num_steps} held out: {shown}  (n={values['num_rows']:.0f})")
        return values

    def run_evaluators(self, step: int) -> None:
        with self.clock.spent("evaluation"):
            evaluate_stage(self.run, self.stage, step, self.algorithm, self.whole)

    def _profiler(self) -> Profiler:
        return Profiler(
            self.run.profile,
            self.stage.name,
            start=self.start,
            num_steps=self.stage.num_steps,
            directory=self.run.files.directory,
            wait=lambda: jax.block_until_ready(self.state),
            log=self.run.files.log,
        )

    def _saved(self, error: NonFiniteError) -> NonFiniteError:
        """The error that ends a run whose loss was not finite; the state is the one before that update."""
        self.save(error.step, wait=True)
        self.log.settle()
        explain = self.run.policy.explain
        cause = explain(sharding.fetch(self.run.whole(self.state.params))) if explain else None
        advice = "Lower the learning rate, or set non_finite=skip to drop such updates"
        return NonFiniteError(
            f"{error}; the state before that update is saved. {cause or advice}", error.step
        )

    def _restored(self, layout: Layout) -> Any:
        state, meta = layout.restore(self.checkpoints, self.start)
        saved, now = meta["data"], self.meta["data"]
        counts = {k: v for k, v in now.items() if k != "content"}
        differing = {k: (saved.get(k), v) for k, v in counts.items() if saved.get(k) != v}
        if differing:
            raise ValueError(
                f"{self.stage.name}: the checkpoint was written with other data (saved, now): {differing}; "
                "resume with the same data and batch settings, or start in a new workdir"
            )
        self._check_content(meta)
        self.run.files.log(f"{self.stage.name}: resumed at step {self.start}")
        return state

    def _check_content(self, meta: dict[str, Any]) -> None:
        """Raises ValueError where what the checkpoint was written beside has changed under the same names and
        counts, unless the run allows changes. Checkpoints of before this was saved say nothing."""
        told = " (as another version of jaxpref tells them)" if other_scheme(meta.get("started_from")) else ""
        pairs = {
            "training records": (meta["data"].get("content"), self.meta["data"]["content"]),
            "held-out records": (meta.get("held_out"), self.meta["held_out"]),
            f"params that the stage starts from{told}": (meta.get("started_from"), self.meta["started_from"]),
        }
        changed = [name for name, (saved, now) in pairs.items() if None not in (saved, now) and saved != now]
        if not changed:
            return
        said = f"{self.stage.name}: the content of its {' and '.join(changed)} is not what it began with"
        if not self.run.allow_changes:
            raise ValueError(
                f"{said}, though names and counts are; restore it, start in a new workdir, or pass "
                "--allow-changes to go on"
            )
        self.run.files.log(said)


def _start_of(run: RunContext, stage: Stage, params: Params) -> str | None:
    """Fingerprint of what a stage starts from; None for params drawn from the seed, since another machine may
    draw them with another rounding."""
    weights = (run.experiment.weights, run.policy.given)
    drawn = weights == (None, None) and stage.name == run.experiment.stages[0].name
    return None if drawn else fingerprint(params)


def _loader(run: RunContext, stage: Stage) -> Loader:
    """Training batches; says what there is."""
    records = run.table(stage.train)
    check_records(run.policy, records)
    loader = Loader(
        records,
        batch_size=stage.batch_size,
        seed=keys.number(run.experiment.seed, stage.name, "data"),
        prompt_buckets=stage.prompt_buckets or None,
        response_buckets=stage.response_buckets or None,
        shuffle=stage.shuffle,
    )
    run.files.log(
        f"{stage.name}: {len(records):,} records ({loader.steps_per_epoch:.1f} steps an epoch), "
        f"{stage.num_steps} steps of {stage.batch_size}"
    )
    for line in account(records):
        run.files.log(f"{stage.name}: data: {line}")
    return loader
