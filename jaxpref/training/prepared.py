"""A folder of prepared data sets: what `jaxpref prepare FILE records=DIR` writes and `records=DIR` reads.

Each data set is stored under a hash of its complete description and of the code of functions that are not of
this package, so a folder can serve only the very configuration it was made for; nothing of the original
source, nor TensorFlow, is needed to read it. It may lie in an object store (`records=gs://bucket/folder`),
see `data.remote`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from jaxpref.config import describe, functions
from jaxpref.data.account import account
from jaxpref.data.loader import Loader
from jaxpref.data.prepare import prepared
from jaxpref.data.records import Records
from jaxpref.data.records_io import MANIFEST
from jaxpref.data.references import with_reference
from jaxpref.data.remote import write_records_to
from jaxpref.experiment import Experiment, Stage
from jaxpref.functions import code_of
from jaxpref.paths import AnyPath, as_folder, reachable, read_text, write_whole
from jaxpref.training import distributed, sharding
from jaxpref.training.context import RunContext
from jaxpref.training.params import started_from
from jaxpref.training.references import maker
from jaxpref.training.run import open_run
from jaxpref.training.sources import Source, map_sources, sources_of

__all__ = ["prepare_experiment", "with_prepared"]


def _folder(source: Source) -> str:
    # What a function of the user's own does decides its records; ours are told apart by name.
    described, code = describe(source), code_of(*functions(source))
    text = json.dumps([described, code] if code else described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepare_experiment(
    experiment: Experiment,
    directory: str | os.PathLike[str],
    *,
    reference_workdir: str | os.PathLike[str] | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Writes every data set of the experiment.

    With `reference_workdir`, pairs and lists also get reference log-probs for each stage that reads them:
    those (nats) of the params the stage starts from, taken from that run's checkpoints (of the stage before)
    or the initial weights. Of several processes each reads all records and scores its rows; the first one
    writes.
    """
    root, first = as_folder(directory, "records"), distributed.first()
    run = None if reference_workdir is None else open_run(experiment, reference_workdir, log=log)
    sources: dict[str, Source] = {}
    uses: dict[str, list[tuple[Stage, str]]] = {}
    for stage in experiment.stages:
        for role, source in sources_of(stage).items():
            sources.setdefault(_folder(source), source)
            uses.setdefault(_folder(source), []).append((stage, role))
    for name, source in sources.items():
        records = source()
        for stage in dict.fromkeys(stage for stage, _ in uses[name]):
            if run is not None and records.k > 1:
                records = _with_reference(run, stage, records)
        if first:
            write_records_to(records, root / name)
            stage, role = uses[name][0]
            log(f"{stage.name} {role}: {len(records):,} records in {root / name}")
            for line in account(records):
                log(f"  {line}")
    if first:
        index = {name: f"{stages[0][0].name} {stages[0][1]}" for name, stages in uses.items()}
        write_whole(root / "index.json", json.dumps(index, indent=2) + "\n")


def with_prepared(experiment: Experiment, directory: str | os.PathLike[str]) -> Experiment:
    """The experiment reading all its data from `directory`.

    Raises:
      ValueError: a data set of this configuration is not there.
    """
    root = reachable(as_folder(directory, "records"))

    def replaced(stage: Stage, role: str, source: Source) -> Source:
        folder = root / _folder(source)
        if not folder.is_dir():
            raise ValueError(
                f"{root} has no data set {folder.name} ({role}) for this configuration; run `jaxpref "
                "prepare` with the same experiment file, overrides and records= folder"
            )
        found = partial(prepared, directory=str(folder))
        return partial(found, reference=stage.name) if stage.name in _references(folder) else found

    stages = tuple(map_sources(stage, partial(replaced, stage)) for stage in experiment.stages)
    return dataclasses.replace(experiment, stages=stages)


def _references(folder: AnyPath) -> list[str]:
    """Stages that a folder of records has reference log-probs for."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return []
    try:
        return list(json.loads(read_text(manifest)).get("references", {}))
    except ValueError as error:
        raise ValueError(f"records: {manifest} is damaged ({error}); prepare the records again") from error


def _with_reference(run: RunContext, stage: Stage, records: Records) -> Records:
    """With the log-probs, float32 [n, k], nats, of the params that the stage starts from."""
    sharding.check_batch_size(stage.batch_size, run.mesh, where=stage.name)
    params = run.whole(started_from(run, stage.name))
    logps = jax.jit(lambda params, batch: run.policy.token_logps(params, batch).sum(-1))
    score = sharding.OnMesh(logps, run.mesh)
    loader = Loader(records, batch_size=stage.batch_size, seed=0, shuffle=False)
    parts = []
    for index in range(loader.evaluation_steps()):
        batch = sharding.put_batch(partial(loader.evaluation_batch, index), loader.batch_size, run.mesh)
        parts.append(sharding.fetch(score(params, batch)))
    values = np.concatenate(parts)[: len(records)].astype(np.float32)
    first = stage is run.experiment.stages[0]
    return with_reference(records, stage.name, values, maker(run, params, first=first))
