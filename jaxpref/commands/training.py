"""Commands that make runs, and what they read."""

import re
import shutil

import jax

from jaxpref import config
from jaxpref.commands.opening import Options, load, ready, split
from jaxpref.commands.results import page_about
from jaxpref.experiment import Experiment, Tournament, smoke_tournament
from jaxpref.labels import labels
from jaxpref.paths import AnyPath
from jaxpref.training import distributed, programs
from jaxpref.training.lock import check_free
from jaxpref.training.prepared import prepare_experiment
from jaxpref.training.profiling import window_of
from jaxpref.training.run import run_folder
from jaxpref.training.run import train as run_training
from jaxpref.training.tournament import play, write_tournament
from jaxpref.training.writers import DEFAULT

__all__ = ["prepare", "sweep", "tournament", "train"]


def train(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, own = load(options)
    _begin_trial_anew(options, workdir, own)
    experiment = ready(experiment, own, options)
    if options.no_export:
        _train(experiment, workdir, options)
        return 0
    from jaxpref.commands import models  # with layers, which take half a second to import

    models.check_leaves_model(experiment, workdir)
    _train(experiment, workdir, options)
    models.leave_model(experiment, workdir)
    return 0


def _begin_trial_anew(options: Options, folder: AnyPath, own: dict[str, str]) -> None:
    """Going on with the last trial would skip what was changed since. A folder that was named is kept."""
    if options.smoke and "workdir" not in own and jax.process_count() == 1 and folder.exists():
        check_free(folder)
        shutil.rmtree(folder)


def _train(experiment: Experiment, workdir: AnyPath, options: Options) -> None:
    allow = getattr(options, "allow_changes", False)
    own = split(options)[0]
    chosen = own.get("writers")
    if jax.process_index() == 0:
        print(programs.described(), flush=True)
    run_training(
        experiment,
        workdir,
        allow_changes=allow,
        docstring=config.docstring(options.file),
        source=options.file.partition(":")[0],
        writers=DEFAULT if chosen is None else [name for name in chosen.split(",") if name],
        profile=window_of(own["profile"]) if "profile" in own else None,
    )
    if jax.process_index() == 0 and not getattr(options, "no_report", False):
        print(f"report: {page_about([workdir], workdir / 'report.html')}")


def sweep(options: Options) -> int:
    distributed.initialize()
    root, runs = _sweep_runs(options)
    _begin_trial_anew(options, root, split(options)[0])
    game = _load_tournament(options)  # a mistake in it should not show after hours of training
    for index, (label, experiment, directory) in enumerate(runs):
        print(f"sweep {index + 1}/{len(runs)}: {label}", flush=True)
        _train(experiment, directory, options)
    if game is not None:
        _play(game, root, runs)
    if jax.process_index() == 0:
        print(f"comparison: {page_about([directory for _, _, directory in runs], root / 'report.html')}")
    return 0


def tournament(options: Options) -> int:
    distributed.initialize()
    root, runs = _sweep_runs(options)
    game = _load_tournament(options)
    if game is None:
        file = options.file.partition(":")[0]
        raise ValueError(
            f"{file} has no function tournament(); write one that returns a jaxpref.experiment.Tournament "
            "(held-out prompts and a judge)"
        )
    _play(game, root, runs)
    if jax.process_index() == 0:
        print(f"comparison: {page_about([directory for _, _, directory in runs], root / 'report.html')}")
    return 0


def _sweep_runs(options: Options) -> tuple[AnyPath, list[tuple[str, Experiment, AnyPath]]]:
    """Folder of a sweep and its runs: label, experiment, directory."""
    own, rest = split(options)
    experiments = config.load_sweep(options.file, rest)
    root = run_folder(own.get("workdir", f"runs/{experiments[0].name}-sweep{'-smoke' * options.smoke}"))
    return root, [
        (label, ready(experiment, own, options), root / f"{index}-{label}")
        for index, (experiment, label) in enumerate(zip(experiments, _labels(experiments), strict=True))
    ]


def _load_tournament(options: Options) -> Tournament | None:
    _, rest = split(options)
    game = config.load_tournament(options.file, rest)
    return smoke_tournament(game) if game is not None and options.smoke else game


def _play(game: Tournament, root: AnyPath, runs: list[tuple[str, Experiment, AnyPath]]) -> None:
    results = play(game, runs)
    write_tournament(results, [directory for _, _, directory in runs], root)
    if jax.process_index() == 0:
        width = max(map(len, results.names))
        for name, row, overall in zip(results.names, results.matrix, results.overall, strict=True):
            print(f"{name:{width}s}  {'  '.join(map(str, row))}  overall {overall}")


def _labels(experiments: list[Experiment]) -> list[str]:
    """Folder names that show what differs: the experiments' names, or else the settings that are not the same
    in all (`labels`)."""
    names = [experiment.name for experiment in experiments]
    if len(set(names)) < len(names):
        names = labels([config.leaves(config.describe(e)) for e in experiments])
    shown = [re.sub(r"[^\w.=+-]+", "-", name.replace(", ", "_"))[:80] or "run" for name in names]
    # Signs that a folder cannot have, and length, may have been all that told two apart.
    return [f"{name}-{i}" if shown.count(name) > 1 else name for i, name in enumerate(shown)]


def prepare(options: Options) -> int:
    distributed.initialize(one_of_many=not options.reference)
    experiment, workdir, own = load(options)
    if "records" not in own:
        raise ValueError("say where to write: records=DIR")
    prepare_experiment(experiment, own["records"], reference_workdir=workdir if options.reference else None)
    if distributed.first():
        print(f"train with: jaxpref train {options.file} records={own['records']} (and the same overrides)")
    return 0
