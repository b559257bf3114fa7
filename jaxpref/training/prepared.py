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

import numpy as np

from jaxpref.config import describe, functions
from jaxpref.data.account import account
from jaxpref.data.loader import Loader
from jaxpref.data.prepare import prepared
from jaxpref.data.records import Records
from jaxpref.data.references import with_reference
from jaxpref.data.remote import write_records_to
from jaxpref.experiment import Experiment, Stage
from jaxpref.functions import code_of
from jaxpref.paths import as_folder, reachable, write_whole
from jaxpref.policies.base import Policy
from jaxpref.training import distributed, sharding
from jaxpref.training.context import RunContext
from jaxpref.training.params import may_start, started_from
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

    With `reference_workdir`, the records of each stage whose algorithm reads them (`reference="batch"`) also
    get reference log-probs: those (nats) of the params the stage starts from, taken from that run's
    checkpoints (of the stage before) or the initial weights. A stage whose predecessor has not ended there
    gets none yet, which is said. Of several processes each reads all records and scores its rows; the first
    one writes.

    Raises:
      ValueError: `reference_workdir` is given, and no stage reads the column.
    """
    root, first = as_folder(directory, "records"), distributed.first()
    run, scored = None, []
    if reference_workdir is not None:
        run = open_run(experiment, reference_workdir, log=log)
        scored = _scored(run)
    sources: dict[str, Source] = {}
    uses: dict[str, list[tuple[Stage, str]]] = {}
    for stage in experiment.stages:
        for role, source in sources_of(stage).items():
            sources.setdefault(_folder(source), source)
            uses.setdefault(_folder(source), []).append((stage, role))
    for name, source in sources.items():
        records = source()
        for stage in dict.fromkeys(stage for stage, _ in uses[name]):
            if run is not None and stage in scored:
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

    The references that the folder has are read by the stages whose algorithm reads the column, and by no
    others; so an experiment that reads none is the same one before and after they are added.

    Raises:
      ValueError: a data set of this configuration is not there.
    """
    root = reachable(as_folder(directory, "records"))
    reading = _reading(experiment, experiment.policy())

    def replaced(stage: Stage, role: str, source: Source) -> Source:
        folder = root / _folder(source)
        if not folder.is_dir():
            raise ValueError(
                f"{root} has no data set {folder.name} ({role}) for this configuration; run `jaxpref "
                "prepare` with the same experiment file, overrides and records= folder"
            )
        found = partial(prepared, directory=str(folder))
        return partial(found, reference=stage.name) if stage in reading else found

    stages = tuple(map_sources(stage, partial(replaced, stage)) for stage in experiment.stages)
    return dataclasses.replace(experiment, stages=stages)


def _reading(experiment: Experiment, policy: Policy) -> list[Stage]:
    """The stages whose algorithm reads the column `reference_logps`."""
    return [stage for stage in experiment.stages if stage.build(policy).recorded_reference]


def _scored(run: RunContext) -> list[Stage]:
    """Those of them whose params are known; says which are not."""
    reading = _reading(run.experiment, run.policy)
    if not reading:
        raise ValueError(
            "--reference: no stage reads reference log-probs; set stages.<name>.algorithm.reference=batch "
            f"for those that should ({', '.join(stage.name for stage in run.experiment.stages)})"
        )
    ready = [stage for stage in reading if may_start(run, stage.name)]
    for stage in reading:
        if stage not in ready:
            run.files.log(
                f"{stage.name}: no reference log-probs yet, since the stage before it has not ended in "
                f"{run.files.directory}; train it, then run `jaxpref prepare --reference` again"
            )
    return ready


def _with_reference(run: RunContext, stage: Stage, records: Records) -> Records:
    """With the log-probs, float32 [n, k], nats, of the params that the stage starts from."""
    sharding.check_batch_size(stage.batch_size, run.mesh, where=stage.name)
    params = run.whole(started_from(run, stage.name))
    score = sharding.on_mesh(lambda params, batch: run.policy.token_logps(params, batch).sum(-1), run.mesh)
    loader = Loader(records, batch_size=stage.batch_size, seed=0, shuffle=False)
    parts = []
    for index in range(loader.evaluation_steps()):
        batch = sharding.put_batch(partial(loader.evaluation_batch, index), loader.batch_size, run.mesh)
        parts.append(sharding.fetch(score(params, batch)))
    values = np.concatenate(parts)[: len(records)].astype(np.float32)
    return with_reference(records, stage.name, values, maker(run, stage, params))
