"""The host loop of one stage. Every algorithm runs through here."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.data.loader import Loader
from jaxpref.experiment import Stage
from jaxpref.policies.base import check_records
from jaxpref.training import sharding
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.evaluation import evaluate_stage, held_out_loader, held_out_pass
from jaxpref.training.params import stage_checkpoints, started_from
from jaxpref.training.peak import matmul_peak
from jaxpref.training.progress import NonFiniteError, StepLog
from jaxpref.training.setting import Setting
from jaxpref.training.step import collecting, compiled_evaluation, compiled_step
from jaxpref.types import Params

__all__ = ["Interrupted", "run_stage", "trained_state"]


class Interrupted(Exception):
    """SIGTERM arrived; the state was saved."""


def run_stage(setting: Setting, stage: Stage, params: Params, checkpoints: Checkpoints) -> tuple[Params, int]:
    """Trains from `params`, or from the last checkpoint. Returns the params and the programs compiled.

    Within a step: batch -> (collect) -> step -> metrics of the step before. At its end, in this order:
    held-out pass, evaluators, checkpoint; so a checkpoint never knows more than the files beside it.
    """
    experiment, files, mesh = setting.experiment, setting.files, setting.mesh
    sharding.check_batch_size(stage.batch_size, mesh)
    algorithm = stage.algorithm(setting.policy)
    loader, held_out = _loader(setting, stage), held_out_loader(setting, stage)
    start = checkpoints.latest or 0
    state, shardings = _state(setting, stage, algorithm, params, checkpoints, loader)
    files.forget_after(
        [s.name for s in experiment.stages], stage.name, -1 if checkpoints.latest is None else start
    )
    skip = experiment.non_finite == "skip"
    place = {"seed": experiment.seed, "stage": stage.name}
    step_function = compiled_step(algorithm, shardings, mesh, **place, skip_non_finite=skip)
    collect = collecting(algorithm, mesh, **place)
    evaluation_function = compiled_evaluation(algorithm, mesh, **place)
    alive = jax.device_put(jnp.bool_(True), NamedSharding(mesh, PartitionSpec()))
    peak, _ = matmul_peak()
    meta = {"data": loader.description}

    def evaluated(step: int) -> dict[str, float] | None:
        """One pass over the held-out records."""
        if held_out is None:
            return None
        values = held_out_pass(evaluation_function, state, held_out, mesh, step)
        files.append(
            "metrics.jsonl",
            [{"stage": stage.name, "step": step, "split": "eval", "time": time.time()} | values],
        )
        files.points(stage.name, "eval", step, values)
        shown = "  ".join(f"{k} {values[k]:.4g}" for k in ("loss", "rewards/accuracies") if k in values)
        files.log(f"{stage.name}  {step}/{stage.num_steps} held out: {shown}")
        return values

    def run_evaluators(step: int) -> None:
        evaluate_stage(setting, stage, step, algorithm, state)

    if start == 0:
        run_evaluators(0)
        evaluated(0)
    log = StepLog(files, stage.name, start, stage.num_steps, experiment.log_every, peak)
    with ThreadPoolExecutor(1) as pool:  # the next batch is put together while the device works
        upcoming = pool.submit(loader.batch, start)
        for step in range(start, stage.num_steps):
            batch = sharding.put_batch(upcoming.result(), mesh)
            upcoming = pool.submit(loader.batch, step + 1)
            drawn = {}
            if collect is not None:
                batch, drawn = collect(state, batch, step)
            state, alive, metrics = step_function(state, alive, batch, step)
            metrics = metrics | drawn
            done = step + 1
            last = done == stage.num_steps
            stop = setting.preemption.reached(done)
            look = last or done % stage.evaluate_every == 0
            probe = last or (stage.evaluators_every is not None and done % stage.evaluators_every == 0)
            keep = last or stop or done % stage.checkpoint_every == 0
            try:
                log.push(step, metrics, algorithm.flops(batch))
                if look or keep or probe:
                    log.flush()
            except NonFiniteError as error:
                checkpoints.save(error.step, state, meta)
                checkpoints.wait()
                # The state is the one whose loss was not finite: that update was not applied.
                explain = setting.policy.explain
                cause = explain(sharding.fetch(state.params)) if explain else None
                advice = "Lower the learning rate, or set non_finite=skip to drop such updates"
                raise NonFiniteError(
                    f"{error}; the state before that update is saved. {cause or advice}", error.step
                ) from None
            values = evaluated(done) if look or (keep and experiment.best_metric) else None
            if probe:
                # Before a checkpoint of this step: a run killed in between evaluates again instead of never.
                run_evaluators(done)
            if keep:
                checkpoints.save(done, state, meta, values)
            if stop and not last:
                checkpoints.wait()
                raise Interrupted(
                    f"{stage.name}: interrupted and saved at step {done}; run the same command to go on"
                )
            if look or keep or probe:
                log.resume_clock()
    checkpoints.wait()
    return state.params, step_function.programs


def _loader(setting: Setting, stage: Stage) -> Loader:
    """Training batches of this process; says what there is."""
    records = stage.train()
    check_records(setting.policy, records)
    loader = Loader(
        records,
        batch_size=stage.batch_size,
        seed=keys.number(setting.experiment.seed, stage.name, "data"),
        prompt_buckets=stage.prompt_buckets or None,
        response_buckets=stage.response_buckets or None,
        shuffle=stage.shuffle,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    drops = {k: v for k, v in dict(records.metadata.get("drops", {})).items() if v}
    setting.files.log(
        f"{stage.name}: {len(records):,} records ({loader.steps_per_epoch:.1f} steps an epoch), "
        f"{stage.num_steps} steps of {stage.batch_size}"
        + (f"; dropped while preparing: {drops}" if drops else "")
    )
    return loader


def _state(
    setting: Setting,
    stage: Stage,
    algorithm: Algorithm,
    params: Params,
    checkpoints: Checkpoints,
    loader: Loader,
) -> tuple[Any, Any]:
    """The algorithm's state, new or restored, and its shardings."""
    models, abstract, shardings = _laid_out(setting, algorithm)
    step = checkpoints.latest
    if step is None:
        return jax.jit(algorithm.init, out_shardings=shardings)(params, *models), shardings
    state, meta = checkpoints.restore(step, sharding.with_shardings(abstract, shardings))
    saved, now = meta["data"], loader.description
    differing = {k: (saved.get(k), v) for k, v in now.items() if saved.get(k) != v}
    if differing:
        raise ValueError(
            f"{stage.name}: the checkpoint was written with other data (saved, now): {differing}; resume "
            "with the same data and batch settings, or start in a new workdir"
        )
    setting.files.log(f"{stage.name}: resumed at step {step}")
    return state, shardings


def trained_state(setting: Setting, stage: Stage, algorithm: Algorithm, step: int | None = None) -> Any:
    """The whole state of the best (or named) checkpoint of a stage, so that a policy which the stage copies
    or averages is the one it had. Without a checkpoint: what training would start with."""
    models, abstract, shardings = _laid_out(setting, algorithm)
    with stage_checkpoints(setting, stage.name) as checkpoints:
        found = checkpoints.best if step is None else step
        if found is not None:
            return checkpoints.restore(found, sharding.with_shardings(abstract, shardings))[0]
    params = started_from(setting, stage.name)
    return jax.jit(algorithm.init, out_shardings=shardings)(params, *models)


def _laid_out(setting: Setting, algorithm: Algorithm) -> tuple[tuple[dict[str, Params], ...], Any, Any]:
    """What `init` takes beside the params, the abstract state and its shardings."""
    models, theirs = _models(setting, algorithm)
    abstract = jax.eval_shape(algorithm.init, setting.abstract_params, *models)
    shardings = sharding.state_shardings(abstract, setting.abstract_params, setting.axes, setting.mesh)
    if models:
        shardings = dataclasses.replace(shardings, bank=shardings.bank | theirs)
    return models, abstract, shardings


def _models(setting: Setting, algorithm: Algorithm) -> tuple[tuple[dict[str, Params], ...], dict[str, Any]]:
    """What `init` takes beside the params (nothing, or the other models on the mesh), and its shardings."""
    if algorithm.models is None:
        return (), {}
    loaded = algorithm.models()
    shardings = {
        name: sharding.param_shardings(model.params, model.axes, setting.mesh)
        for name, model in loaded.items()
    }
    return ({n: sharding.put_params(model.params, shardings[n]) for n, model in loaded.items()},), shardings
