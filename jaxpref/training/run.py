"""The host loop: stages in order, each resumed from its last checkpoint. Every algorithm runs through here."""

import dataclasses
import pathlib
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp

from jaxpref.algorithms import Algorithm
from jaxpref.config import describe, leaves
from jaxpref.data.loader import Loader
from jaxpref.experiment import Experiment, Stage
from jaxpref.metrics import Metrics, merge, to_floats
from jaxpref.policies.base import Policy
from jaxpref.training import sharding
from jaxpref.training.checkpoint import Checkpoints, restore_params
from jaxpref.training.evaluation import evaluate_stage
from jaxpref.training.peak import matmul_peak
from jaxpref.training.preemption import Preemption
from jaxpref.training.step import compiled_evaluation, compiled_step
from jaxpref.training.writer import Clock, RunFiles, progress_line
from jaxpref.types import Params

__all__ = ["Interrupted", "NonFiniteError", "Result", "train"]


class Interrupted(Exception):
    """SIGTERM arrived; the state was saved."""


class NonFiniteError(Exception):
    """A loss or gradient was not finite; the last finite state was saved."""


@dataclasses.dataclass(frozen=True)
class Result:
    params: Params
    directory: pathlib.Path
    compiles: dict[str, int]  # stage -> programs compiled for its step: one for each bucket that occurred


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What all stages of a run share."""

    experiment: Experiment
    files: RunFiles
    mesh: jax.sharding.Mesh
    policy: Policy
    tokenizer: Any
    abstract_params: Any
    axes: Any
    preemption: Preemption


def train(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    *,
    allow_changes: bool = False,
    command: str = "",
    docstring: str = "",
    log: Callable[[str], None] = print,
) -> Result:
    """Runs all stages; an interrupted run with the same `workdir` goes on where it was, bit for bit.

    Raises:
      Interrupted: SIGTERM; the state is saved.
      NonFiniteError: a loss or gradient was not finite (with the step).
      ValueError: the mesh, batch size, data, weights or checkpoint do not fit; the message says how to fix.
    """
    directory = pathlib.Path(workdir)
    mesh = sharding.make_mesh(experiment.mesh)
    files = RunFiles(directory, active=jax.process_index() == 0, log=log)
    policy, tokenizer = experiment.policy(), experiment.tokenizer()
    if tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            f"vocabulary mismatch: the tokenizer has {tokenizer.vocab_size} ids and the model "
            f"{policy.vocab_size}; build the model with vocab_size >= {tokenizer.vocab_size} or change the tokenizer"
        )
    _record(files, experiment, mesh, allow_changes, command, docstring)
    abstract_params = jax.eval_shape(policy.init, jax.random.key(0))
    axes = policy.axes()
    files.log(
        f"{experiment.name}: {sum(x.size for x in jax.tree.leaves(abstract_params)):,} parameters, mesh "
        f"{sharding.describe_mesh(mesh)} on {jax.device_count()} x {jax.devices()[0].device_kind}, in {directory}"
    )
    with Preemption() as preemption:
        setting = _Setting(experiment, files, mesh, policy, tokenizer, abstract_params, axes, preemption)
        try:
            return _run_stages(setting)
        finally:
            files.close()


def _run_stages(setting: _Setting) -> Result:
    experiment, directory = setting.experiment, setting.files.directory
    shardings = sharding.param_shardings(setting.abstract_params, setting.axes, setting.mesh)
    target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), setting.abstract_params, shardings
    )
    params, compiles = None, {}
    for index, stage in enumerate(experiment.stages):
        checkpoints = Checkpoints(
            directory / "checkpoints" / stage.name,
            keep=experiment.keep_checkpoints,
            best_metric=experiment.best_metric,
        )
        try:
            last = index == len(experiment.stages) - 1
            if checkpoints.latest is not None and checkpoints.latest >= stage.num_steps and not last:
                setting.files.log(f"{stage.name}: done at step {checkpoints.latest}")
                params = restore_params(checkpoints.directory, checkpoints.latest, target)
                continue
            if params is None:
                params = _initial_params(setting, shardings)
            params, compiles[stage.name] = _run_stage(setting, stage, params, checkpoints)
        finally:
            checkpoints.close()
    return Result(params, directory, compiles)


def _initial_params(setting: _Setting, shardings: Any) -> Params:
    experiment = setting.experiment
    if experiment.weights is None:
        init = jax.jit(setting.policy.init, out_shardings=shardings)
        return init(jax.random.key(experiment.seed))
    weights = experiment.weights()
    given = {jax.tree_util.keystr(p): jnp.shape(x) for p, x in jax.tree.leaves_with_path(weights)}
    wanted = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree.leaves_with_path(setting.abstract_params)}
    differing = [k for k in sorted(given.keys() | wanted.keys()) if given.get(k) != wanted.get(k)]
    if differing:
        k = differing[0]
        raise ValueError(
            f"weights do not fit the model: {k} is {given.get(k, 'missing')} in the file and "
            f"{wanted.get(k, 'unknown')} in the model ({len(differing)} arrays differ); check sizes and vocabulary"
        )
    cast = jax.tree.map(lambda x, a: x.astype(a.dtype), weights, setting.abstract_params)
    return sharding.put_params(cast, shardings)


def _run_stage(
    setting: _Setting, stage: Stage, params: Params, checkpoints: Checkpoints
) -> tuple[Params, int]:
    experiment, files, mesh = setting.experiment, setting.files, setting.mesh
    sharding.check_batch_size(stage.batch_size, mesh)
    algorithm: Algorithm = stage.algorithm(setting.policy)
    records = stage.train()
    records.check_vocab(setting.policy.vocab_size)
    loader = Loader(
        records,
        batch_size=stage.batch_size,
        seed=experiment.seed,
        prompt_buckets=stage.prompt_buckets or None,
        response_buckets=stage.response_buckets or None,
        shuffle=stage.shuffle,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    abstract_state = jax.eval_shape(algorithm.init, setting.abstract_params)
    shardings = sharding.state_shardings(abstract_state, setting.abstract_params, setting.axes, mesh)
    start = checkpoints.latest or 0
    if checkpoints.latest is None:
        state = jax.jit(algorithm.init, out_shardings=shardings)(params)
    else:
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_state, shardings
        )
        state, meta = checkpoints.restore(start, target)
        _check_data(meta["data"], loader.description, stage.name)
        files.log(f"{stage.name}: resumed at step {start}")
    files.forget_after([s.name for s in experiment.stages], stage.name, start if checkpoints.latest else -1)
    files.log(
        f"{stage.name}: {len(records):,} records ({loader.steps_per_epoch:.1f} steps an epoch), "
        f"{stage.num_steps} steps of {stage.batch_size}" + _drops(records)
    )

    step_function = compiled_step(
        algorithm, shardings, mesh, seed=experiment.seed, skip_non_finite=experiment.non_finite == "skip"
    )
    evaluation_function = compiled_evaluation(algorithm, mesh, seed=experiment.seed)
    held_out = None if stage.evaluation is None else _held_out(setting, stage, loader)
    peak, _ = matmul_peak()
    alive = jax.device_put(jnp.bool_(True), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    clock, recent, pending = Clock(stage.num_steps, start), [], None

    def evaluated(step: int) -> dict[str, float] | None:
        if held_out is None:
            return None
        total: Metrics | None = None
        for batch in held_out.evaluation_batches():
            metrics = evaluation_function(state, sharding.put_batch(batch, mesh))
            total = metrics if total is None else merge(total, metrics)
        values = to_floats(jax.device_get(total)) if total else {}
        files.append("metrics.jsonl", [{"stage": stage.name, "step": step, "split": "eval"} | values])
        files.points(stage.name, "eval", step, values)
        shown = "  ".join(f"{k} {values[k]:.4g}" for k in ("loss", "rewards/accuracies") if k in values)
        files.log(f"{stage.name}  {step}/{stage.num_steps} held out: {shown}")
        return values

    def flush() -> None:
        """Writes the metrics of the step in flight. They are read one step late, so the device never waits."""
        nonlocal pending
        if pending is None:
            return
        (step, metrics, flops), pending = pending, None
        values = to_floats(jax.device_get(metrics))
        if not all(map(_finite, (values["loss"], values.get("grad_norm", 0.0)))):
            if experiment.non_finite == "stop":
                checkpoints.save(step, state, {"step": step, "data": loader.description})
                checkpoints.wait()
                raise NonFiniteError(
                    f"{stage.name}: loss {values['loss']}, grad_norm {values.get('grad_norm')} at step {step}; "
                    f"the state before that update is saved as step {step}. Lower the learning rate, or set "
                    "non_finite=skip to drop such updates"
                )
            files.log(f"{stage.name}: update {step} was not finite and was skipped")
        seconds = clock.lap()
        values |= {"tokens_per_second": values["num_tokens"] / seconds, "mfu": flops / seconds / peak}
        files.append("metrics.jsonl", [{"stage": stage.name, "step": step, "split": "train"} | values])
        recent.append(values)
        if (step + 1) % experiment.log_every == 0 or step + 1 == stage.num_steps:
            means = {k: sum(r[k] for r in recent) / len(recent) for k in values}
            recent.clear()
            files.points(stage.name, "train", step, means)
            files.log(
                progress_line(stage.name, step + 1, stage.num_steps, means, clock.seconds_left(step + 1))
            )

    def save(step: int, values: dict[str, float] | None) -> None:
        checkpoints.save(step, state, {"step": step, "data": loader.description}, values)

    def run_evaluators(step: int) -> None:
        evaluate_stage(
            experiment, stage, step, algorithm, state, setting.policy, setting.tokenizer, mesh, files
        )

    if start == 0:
        run_evaluators(0)
        evaluated(0)
    clock = Clock(stage.num_steps, start)
    with ThreadPoolExecutor(1) as pool:  # the next batch is put together while the device works
        upcoming = pool.submit(loader.batch, start)
        for step in range(start, stage.num_steps):
            host = upcoming.result()
            upcoming = pool.submit(loader.batch, step + 1)
            batch = sharding.put_batch(host, mesh)
            if algorithm.collect is not None:
                key = jax.random.fold_in(jax.random.key(experiment.seed + 1), step)
                batch = algorithm.collect(state, batch, key)
            state, alive, metrics = step_function(state, alive, batch, step)
            flush()
            pending = (step, metrics, algorithm.flops(batch))
            done = step + 1
            due = done % stage.checkpoint_every == 0 or done == stage.num_steps
            stop = setting.preemption.reached(done)
            if done % stage.evaluate_every == 0 or done == stage.num_steps or due or stop:
                flush()
                look = done % stage.evaluate_every == 0 or done == stage.num_steps
                values = evaluated(done) if look or (due and experiment.best_metric) else None
                if due or stop:
                    save(done, values)
                clock.lap()
            if stop and done < stage.num_steps:
                checkpoints.wait()
                raise Interrupted(
                    f"{stage.name}: interrupted and saved at step {done}; run the same command to go on"
                )
    if start < stage.num_steps:
        run_evaluators(stage.num_steps)
    checkpoints.wait()
    return state.params, step_function._cache_size()


def _held_out(setting: _Setting, stage: Stage, train: Loader) -> Loader:
    if stage.evaluation is None:
        raise ValueError(f"stage {stage.name} has no evaluation records")
    return Loader(
        stage.evaluation(),
        batch_size=stage.batch_size,
        seed=0,
        prompt_buckets=None,
        response_buckets=None,
        shuffle=False,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _drops(records: Any) -> str:
    drops = {k: v for k, v in dict(records.metadata.get("drops", {})).items() if v}
    return f"; dropped while preparing: {drops}" if drops else ""


def _check_data(saved: dict[str, Any], now: dict[str, Any], stage: str) -> None:
    differing = {k: (saved.get(k), v) for k, v in now.items() if saved.get(k) != v}
    if differing:
        raise ValueError(
            f"{stage}: the checkpoint was written with other data (saved, now): {differing}; resume with the same "
            "data and batch settings, or start in a new workdir"
        )


def _record(
    files: RunFiles,
    experiment: Experiment,
    mesh: jax.sharding.Mesh,
    allow_changes: bool,
    command: str,
    docstring: str,
) -> None:
    """Writes experiment.json, after checking that the directory does not hold another experiment."""
    import json

    description = json.loads(json.dumps(describe(experiment)))
    path = files.directory / "experiment.json"
    if path.exists() and not allow_changes:
        old, new = leaves(json.loads(path.read_text())["config"]), leaves(description)
        differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if differing:
            listed = ", ".join(f"{k}: {old.get(k)} -> {new.get(k)}" for k in differing[:5])
            raise ValueError(
                f"{files.directory} holds a run of another configuration ({listed}); choose another workdir, or "
                "pass --allow-changes to go on from its checkpoints"
            )
    versions = {
        name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    }
    files.write_json(
        "experiment.json",
        {
            "name": experiment.name,
            "docstring": docstring,
            "arxiv": list(experiment.arxiv),
            "config": description,
            "versions": versions
            | {"python": platform.python_version(), "jaxpref": metadata.version("jaxpref")},
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {sharding.describe_mesh(mesh)}",
            "command": command or " ".join(sys.argv),
        },
    )
