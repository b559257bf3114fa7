"""A folder of prepared data sets: what `jaxpref prepare FILE records=DIR` writes and `records=DIR` reads.

Each data set is stored under a hash of its complete description, so a folder can serve only the very
configuration it was made for; nothing of the original source, nor TensorFlow, is needed to read it. It may
lie in an object store (`records=gs://bucket/folder`), see `data.remote`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxpref.config import describe
from jaxpref.data.account import account
from jaxpref.data.loader import Loader
from jaxpref.data.prepare import prepared
from jaxpref.data.records import Records
from jaxpref.data.remote import write_records_to
from jaxpref.experiment import Experiment, Stage
from jaxpref.paths import as_path, reachable, write_whole
from jaxpref.training import distributed, sharding
from jaxpref.training.context import RunContext
from jaxpref.training.params import started_from
from jaxpref.training.run import open_run

__all__ = ["prepare_experiment", "with_prepared"]

Source = Callable[[], Records]


def _folder(source: Source) -> str:
    text = json.dumps(describe(source), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _map_sources(stage: Stage, change: Callable[[str, Source], Source]) -> Stage:
    """The stage with `change(role, source)` in the place of each of its data sources."""

    def evaluator(index: int, given: Callable[..., Any]) -> Callable[..., Any]:
        keywords = given.keywords if isinstance(given, partial) else {}
        if "records" not in keywords:
            return given
        return partial(given, records=change(f"evaluator {index}", keywords["records"]))

    return dataclasses.replace(
        stage,
        train=change("train", stage.train),
        evaluation=None if stage.evaluation is None else change("evaluation", stage.evaluation),
        evaluators=tuple(evaluator(i, e) for i, e in enumerate(stage.evaluators)),
    )


def prepare_experiment(
    experiment: Experiment,
    directory: str | os.PathLike[str],
    *,
    reference_workdir: str | os.PathLike[str] | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Writes every data set of the experiment.

    With `reference_workdir`, pairs also get the column `reference_logps`: the log-probs (nats) of the params
    each stage starts from, taken from that run's checkpoints (of the stage before) or the initial weights.
    Of several processes each reads all records and scores its rows; the first one writes.
    """
    root, first = as_path(directory), distributed.first()
    run = None if reference_workdir is None else open_run(experiment, reference_workdir, log=log)
    written: dict[str, str] = {}
    for stage in experiment.stages:

        def write(role: str, source: Source, stage=stage) -> Source:
            name = _folder(source)
            if name not in written:
                records = source()
                if run is not None and records.k > 1:
                    logps = _reference_logps(run, stage, records)
                    records = records.with_column("reference_logps", logps)
                written[name] = f"{stage.name} {role}"
                if first:
                    write_records_to(records, root / name)
                    log(f"{stage.name} {role}: {len(records):,} records in {root / name}")
                    for line in account(records):
                        log(f"  {line}")
            return source

        _map_sources(stage, write)
    if first:
        write_whole(root / "index.json", json.dumps(written, indent=2) + "\n")


def with_prepared(experiment: Experiment, directory: str | os.PathLike[str]) -> Experiment:
    """The experiment reading all its data from `directory`.

    Raises:
      ValueError: a data set of this configuration is not there.
    """
    root = reachable(as_path(directory))

    def replaced(role: str, source: Source) -> Source:
        folder = root / _folder(source)
        if not folder.is_dir():
            raise ValueError(
                f"{root} has no data set {folder.name} ({role}) for this configuration; run `jaxpref "
                "prepare` with the same experiment file, overrides and records= folder"
            )
        return partial(prepared, directory=str(folder))

    stages = tuple(_map_sources(stage, replaced) for stage in experiment.stages)
    return dataclasses.replace(experiment, stages=stages)


def _reference_logps(run: RunContext, stage: Stage, records: Records) -> np.ndarray:
    """float32 [n, k], nats, of the params that training starts from."""
    sharding.check_batch_size(stage.batch_size, run.mesh, where=stage.name)
    params = run.whole(started_from(run, stage.name))
    logps = jax.jit(lambda params, batch: run.policy.token_logps(params, batch).sum(-1))
    score = sharding.OnMesh(logps, run.mesh)
    loader = Loader(records, batch_size=stage.batch_size, seed=0, shuffle=False)
    parts = []
    for index in range(loader.evaluation_steps()):
        batch = sharding.put_batch(partial(loader.evaluation_batch, index), loader.batch_size, run.mesh)
        parts.append(sharding.fetch(score(params, batch)))
    return np.concatenate(parts)[: len(records)].astype(np.float32)
