"""What the commands do. `cli.py` parses; nothing here knows argparse but the names of its options."""

import dataclasses
import difflib
import importlib
import json
import re
import shlex
import shutil
import sys
from typing import Any

import jax
import numpy as np

from jaxpref import config, keys
from jaxpref.assignments import assignments_of, written
from jaxpref.data.text.boundary import prompt_ids
from jaxpref.experiment import Experiment, Tournament, smoke, smoke_tournament
from jaxpref.labels import labels
from jaxpref.paths import AnyPath, as_path, write_whole
from jaxpref.training import distributed, sharding
from jaxpref.training.collect import compiled_evaluation
from jaxpref.training.context import RunContext
from jaxpref.training.evaluation import context_of, evaluations, held_out_loader, held_out_pass, summary
from jaxpref.training.params import started_from, trained_params
from jaxpref.training.prepared import prepare_experiment, with_prepared
from jaxpref.training.record import changes_since
from jaxpref.training.references import check_reference
from jaxpref.training.run import open_run, run_folder
from jaxpref.training.run import train as run_training
from jaxpref.training.state import trained_state
from jaxpref.training.tournament import play, write_tournament
from jaxpref.training.writers import DEFAULT
from jaxpref.types import Prompts

Options = Any


# What each command reads of what is its own and not the experiment's; anything else would be dropped.
_OWN = {
    "train": ("records", "workdir", "writers"),
    "sweep": ("records", "workdir", "writers"),
    "tournament": ("records", "workdir"),
    "prepare": ("records", "workdir"),
    "evaluate": ("records", "workdir"),
    "sample": ("workdir",),
    "describe": (),
}


def _split(options: Options) -> tuple[dict[str, str], list[str]]:
    """`workdir=`, `records=` and `writers=` belong to the command, the rest to the experiment.

    Raises:
      ValueError: the command does not take one of these, or an override is none or given twice.
    """
    pairs = assignments_of(options.overrides)
    own = {key: value for key, value in pairs.items() if key in _OWN["train"]}
    command, used = options.command, _OWN[options.command]
    if command == "prepare" and not options.reference and "workdir" in own:
        raise ValueError("prepare reads workdir= only with --reference; add that, or leave workdir= out")
    for key in own.keys() - set(used):
        takes = ", ".join(f"{name}=" for name in used) or "overrides of the experiment alone"
        raise ValueError(f"{command} does not take {key}=; leave it out ({command} takes {takes})")
    return own, [f"{key}={value}" for key, value in pairs.items() if key not in own]


def _load(options: Options) -> tuple[Experiment, AnyPath, dict[str, str]]:
    own, rest = _split(options)
    smoking = getattr(options, "smoke", False)
    experiment = config.load(options.file, rest)
    return experiment, run_folder(own.get("workdir", f"runs/{experiment.name}{'-smoke' * smoking}")), own


def _ready(experiment: Experiment, own: dict[str, str], options: Options) -> Experiment:
    """The experiment, on prepared data or cut short where the options ask for that."""
    if "records" in own:
        experiment = with_prepared(experiment, own["records"])
    return smoke(experiment) if getattr(options, "smoke", False) else experiment


def train(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, own = _load(options)
    _begin_trial_anew(options, workdir, own)
    _train(_ready(experiment, own, options), workdir, options)
    return 0


def _begin_trial_anew(options: Options, folder: AnyPath, own: dict[str, str]) -> None:
    """Going on with the last trial would skip what was changed since. A folder that was named is kept."""
    if options.smoke and "workdir" not in own and jax.process_count() == 1 and folder.exists():
        shutil.rmtree(folder)


def _report(directories: list[AnyPath], page: AnyPath) -> AnyPath:
    from jaxpref.report import write_report  # matplotlib takes a second to import

    return write_report(directories, page)


def _train(experiment: Experiment, workdir: AnyPath, options: Options) -> None:
    allow = getattr(options, "allow_changes", False)
    chosen = _split(options)[0].get("writers")
    run_training(
        experiment,
        workdir,
        allow_changes=allow,
        docstring=config.docstring(options.file),
        source=options.file.partition(":")[0],
        writers=DEFAULT if chosen is None else [name for name in chosen.split(",") if name],
    )
    if jax.process_index() == 0 and not getattr(options, "no_report", False):
        print(f"report: {_report([workdir], workdir / 'report.html')}")


def sweep(options: Options) -> int:
    distributed.initialize()
    root, runs = _sweep_runs(options)
    _begin_trial_anew(options, root, _split(options)[0])
    game = _load_tournament(options)  # a mistake in it should not show after hours of training
    for index, (label, experiment, directory) in enumerate(runs):
        print(f"sweep {index + 1}/{len(runs)}: {label}", flush=True)
        _train(experiment, directory, options)
    if game is not None:
        _play(game, root, runs)
    if jax.process_index() == 0:
        print(f"comparison: {_report([directory for _, _, directory in runs], root / 'report.html')}")
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
        print(f"comparison: {_report([directory for _, _, directory in runs], root / 'report.html')}")
    return 0


def _sweep_runs(options: Options) -> tuple[AnyPath, list[tuple[str, Experiment, AnyPath]]]:
    """Folder of a sweep and its runs: label, experiment, directory."""
    own, rest = _split(options)
    experiments = config.load_sweep(options.file, rest)
    root = run_folder(own.get("workdir", f"runs/{experiments[0].name}-sweep{'-smoke' * options.smoke}"))
    return root, [
        (label, _ready(experiment, own, options), root / f"{index}-{label}")
        for index, (experiment, label) in enumerate(zip(experiments, _labels(experiments), strict=True))
    ]


def _load_tournament(options: Options) -> Tournament | None:
    _, rest = _split(options)
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


def methods(options: Options) -> int:
    from jaxpref.methods import FAMILIES, METHODS, table

    if options.name is not None:
        matches = [method for method in METHODS if method.name == options.name]
        if not matches:
            near = difflib.get_close_matches(options.name, [m.name for m in METHODS], n=5, cutoff=0.4)
            raise ValueError(f"no objective is called {options.name!r}; near: {', '.join(near) or 'none'}")
        print(table.details(matches[0]))
    else:
        print(table.markdown(FAMILIES) if options.markdown else table.evidence(METHODS))
    return 0


def prepare(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, own = _load(options)
    if "records" not in own:
        raise ValueError("say where to write: records=DIR")
    prepare_experiment(experiment, own["records"], reference_workdir=workdir if options.reference else None)
    if distributed.first():
        print(f"train with: jaxpref train {options.file} records={own['records']} (and the same overrides)")
    return 0


def evaluate(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, own = _load(options)
    experiment = _ready(experiment, own, options)
    run = open_run(experiment, workdir)
    _say_changes(run)
    stage = next((s for s in experiment.stages if s.name == options.stage), experiment.stages[-1])
    loader = held_out_loader(run, stage)
    params = trained_params(run, stage=options.stage, step=options.step)
    algorithm = stage.build(run.policy)
    if algorithm.recorded_reference:
        check_reference(run, stage, algorithm, started_from(run, stage.name))
    # Params of an earlier stage, where this one has none yet.
    state = trained_state(run, stage, algorithm, options.step)
    step = int(sharding.fetch(state.step))  # what is drawn is what the run itself drew there
    state = dataclasses.replace(state, params=params)
    for evaluation in evaluations(run, stage, step, algorithm, state):
        run.files.log(summary(evaluation))
    if loader is not None:
        function = compiled_evaluation(algorithm, run.mesh, seed=experiment.seed, stage=stage.name)
        for name, value in held_out_pass(function, state, loader, run.mesh, step).items():
            run.files.log(f"held out  {name:24s} {value:.5g}")
    return 0


def _say_changes(run: RunContext) -> None:
    """Says in what the configuration differs from the one that the params were trained under. Data count as
    what they are of, not as where they are read: `records=` is an option of some commands alone."""
    fingerprint = getattr(run.tokenizer, "fingerprint", None)
    changes = [
        change
        for change in changes_since(run.files.directory, run.experiment, tokenizer=fingerprint)
        if not re.match(r"stages\.[^.]+\.train\b|stages\..*\b(evaluation|records)\.", change)
    ]
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        run.files.log(f"other than when it was trained: {', '.join(changes[:5])}{more}")


def _aside(text: str) -> None:
    """Where stdout is for answers alone."""
    sys.stdout.flush()  # what was said before stays before
    print(text, file=sys.stderr, flush=True)


def sample(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, _ = _load(options)
    run = open_run(experiment, workdir, log=_aside)
    _say_changes(run)
    params = trained_params(run, stage=options.stage, step=options.step)
    context, tokenizer = context_of(run, params, stage=experiment.stages[-1]), run.tokenizer
    if tokenizer is None:
        raise ValueError(f"{experiment.name}: this policy reads no text, so it cannot answer a prompt")
    rows = [prompt_ids(tokenizer, prompt) for prompt in options.prompt]
    padded = rows + [rows[0]] * (context.rows(len(rows)) - len(rows))
    # Lengths in powers of two, so that another prompt seldom compiles again.
    width = max(16, 1 << (max(map(len, padded)) - 1).bit_length())
    # Numpy arrays where types say jax's: `put` takes both.
    tokens: Any = np.full((len(padded), width), tokenizer.pad_id, np.int32)
    mask: Any = np.zeros(tokens.shape, bool)
    for i, row in enumerate(padded):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    out = context.policy.sample(
        context.params,
        context.put(Prompts(tokens, mask)),
        keys.key(options.seed, None, "samples"),
        num_samples=options.num_samples,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    )
    fetched = out.completions.response_tokens, out.completions.response_mask, out.ended
    answers, kept, ended = context.fetch(fetched)
    if jax.process_index() > 0:
        return 0
    for i, prompt in enumerate(options.prompt):
        for j in range(options.num_samples):
            ids = answers[i, j][kept[i, j]].tolist()
            answer = tokenizer.decode(ids[:-1] if ended[i, j] else ids)
            print(f"{prompt}\033[1m{answer}\033[0m" if sys.stdout.isatty() else prompt + answer)
    return 0


def describe(options: Options) -> int:
    experiment, _, _ = _load(options)
    description = config.describe(experiment)
    if options.flat:
        for path, value in config.settable(experiment).items():
            print(shlex.quote(f"{path}={written(value)}"))
    else:
        print(json.dumps(description, indent=2))
    return 0


def report(options: Options) -> int:
    directories = [as_path(d) for d in options.directories]
    page = as_path(options.out) if options.out else directories[0] / "report.html"
    if page.is_dir():
        raise ValueError(f"--out {page} is a folder; name the page, such as {page / 'report.html'}")
    print(_report(directories, page))
    return 0


def tokenizer(options: Options) -> int:
    from jaxpref.data import train_sentencepiece

    train_sentencepiece(options.inputs, options.out, vocab_size=options.vocab_size)
    print(f"wrote {options.out}; use it with partial(sentencepiece_tokenizer, path={options.out!r})")
    return 0


def bench(options: Options) -> int:
    module = importlib.import_module(f"jaxpref.benchmarks.{options.benchmark.replace('-', '_')}")
    own = ("benchmark", "command", "out", "run", "trains")
    figures = module.measure(**{name: value for name, value in vars(options).items() if name not in own})
    print(module.table(figures))
    if options.out:
        write_whole(as_path(options.out), json.dumps(figures, indent=2) + "\n")
    return 1 if figures.get("failures") else 0
