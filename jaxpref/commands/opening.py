"""What the words of a command line name: overrides, an experiment, its run."""

import re
import sys
from typing import Any

from jaxpref import config
from jaxpref.assignments import assignments_of
from jaxpref.experiment import Experiment, smoke
from jaxpref.paths import AnyPath
from jaxpref.training.context import RunContext
from jaxpref.training.prepared import with_prepared
from jaxpref.training.record import changes_since
from jaxpref.training.run import run_folder

__all__ = ["Options", "aside", "load", "ready", "say_changes", "split"]

Options = Any  # what argparse gives: one attribute for each option

# What each command reads of what is its own and not the experiment's; anything else would be dropped.
OWN = {
    "train": ("records", "workdir", "writers", "profile"),
    "sweep": ("records", "workdir", "writers"),
    "tournament": ("records", "workdir"),
    "prepare": ("records", "workdir"),
    "evaluate": ("records", "workdir"),
    "sample": ("workdir",),
    "chat": ("workdir",),
    "export": ("workdir",),
    "convert": ("workdir",),
    "replay": ("records", "workdir"),
    "describe": (),
    "plan": ("records",),
}


def split(options: Options) -> tuple[dict[str, str], list[str]]:
    """`workdir=`, `records=`, `writers=` and `profile=` belong to the command, the rest to the experiment.

    Raises:
      ValueError: the command does not take one of these, or an override is none or given twice.
    """
    pairs = assignments_of(options.overrides)
    own = {key: value for key, value in pairs.items() if key in OWN["train"]}
    command, used = options.command, OWN[options.command]
    if command == "prepare" and not options.reference and "workdir" in own:
        raise ValueError("prepare reads workdir= only with --reference; add that, or leave workdir= out")
    for key in own.keys() - set(used):
        takes = ", ".join(f"{name}=" for name in used) or "overrides of the experiment alone"
        raise ValueError(f"{command} does not take {key}=; leave it out ({command} takes {takes})")
    return own, [f"{key}={value}" for key, value in pairs.items() if key not in own]


def load(options: Options) -> tuple[Experiment, AnyPath, dict[str, str]]:
    own, rest = split(options)
    smoking = getattr(options, "smoke", False)
    experiment = config.load(options.file, rest)
    return experiment, run_folder(own.get("workdir", f"runs/{experiment.name}{'-smoke' * smoking}")), own


def ready(experiment: Experiment, own: dict[str, str], options: Options) -> Experiment:
    """The experiment, on prepared data or cut short where the options ask for that."""
    if "records" in own:
        experiment = with_prepared(experiment, own["records"])
    return smoke(experiment) if getattr(options, "smoke", False) else experiment


def say_changes(run: RunContext) -> None:
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


def aside(text: str) -> None:
    """Where stdout is for answers alone."""
    sys.stdout.flush()  # what was said before stays before
    print(text, file=sys.stderr, flush=True)
