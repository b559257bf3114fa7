"""experiment.json: the complete configuration of a run, and the guard against two runs in one folder."""

import json
import platform
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

from jaxpref import keys
from jaxpref.config import describe, functions, leaves
from jaxpref.experiment import Experiment
from jaxpref.functions import code_of
from jaxpref.paths import AnyPath, read_text
from jaxpref.training.files import RunFiles
from jaxpref.training.provenance import devices, session

__all__ = ["changes_since", "checked_record"]

PACKAGES = ("jaxpref", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def checked_record(
    files: RunFiles,
    experiment: Experiment,
    *,
    mesh: str,
    docstring: str,
    tokenizer: str | None,
    source: str | None,
    allow_changes: bool,
) -> Callable[[], None]:
    """Checks that the folder holds no other run; returns what writes experiment.json: the configuration, and
    fingerprints of what it has the name of alone.

    Args:
      tokenizer: its fingerprint, where the experiment has one.
      source: the experiment file, which says which commit this session is of.

    Raises:
      ValueError: the directory holds a run of another configuration, tokenizer or code of functions outside
        of this package, or one whose keys are derived in another way (`keys.SCHEME`), and `allow_changes` is
        False; or its experiment.json is damaged.
    """
    description = json.loads(json.dumps(describe(experiment)))
    code = code_of(*functions(experiment))
    path = files.directory / "experiment.json"
    recorded = _recorded(path, damaged=allow_changes) if path.exists() else {}
    if recorded and not allow_changes:
        scheme = recorded.get("keys", 1)
        if scheme != keys.SCHEME:
            raise ValueError(
                f"{files.directory} holds a run that derives its randomness in another way (keys {scheme}, "
                f"now {keys.SCHEME}): data order and draws would change; choose another workdir, go on with "
                "the jaxpref that began it, or pass --allow-changes to start further stages from what it has"
            )
        changes = _changes(recorded, description, tokenizer, code)
        if changes:
            raise ValueError(
                f"{files.directory} holds a run of another configuration ({', '.join(changes[:5])}); choose "
                "another workdir, or another name of the experiment, or pass --allow-changes to go on "
                "from its checkpoints"
            )
    versions = {name: metadata.version(name) for name in PACKAGES}
    content = {
        "name": experiment.name,
        "docstring": docstring,
        "arxiv": list(experiment.arxiv),
        "config": description,
        "tokenizer": tokenizer,
        "code": code,
        "keys": keys.SCHEME,
        "versions": versions | {"python": platform.python_version()},
        "device": f"{devices()}, mesh {mesh}",
        "command": " ".join(sys.argv),
        "sessions": [*recorded.get("sessions", []), session(source)],
    }
    return partial(files.write_json, "experiment.json", content)


def changes_since(directory: AnyPath, experiment: Experiment, *, tokenizer: str | None) -> list[str]:
    """In what an experiment is another one than that which a folder records; empty where it has no record."""
    path = directory / "experiment.json"
    recorded = _recorded(path, damaged=True) if path.exists() else {}
    if not recorded:
        return []
    description = json.loads(json.dumps(describe(experiment)))
    return _changes(recorded, description, tokenizer, code_of(*functions(experiment)))


def _changes(
    recorded: Mapping[str, Any], description: Any, tokenizer: str | None, code: Mapping[str, str]
) -> list[str]:
    old, new = leaves(recorded["config"]), leaves(description)
    differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in differing] + _behind_names(
        recorded, tokenizer, code
    )


def _behind_names(recorded: Mapping[str, Any], tokenizer: str | None, code: Mapping[str, str]) -> list[str]:
    """What changed while its name in the configuration stayed, where the run has recorded it."""
    before = recorded.get("code", {})
    changes = [f"the code of {name}" for name in code if before.get(name, code[name]) != code[name]]
    if recorded.get("tokenizer", tokenizer) != tokenizer:
        changes.append("the tokenizer's content")
    return changes


def _recorded(path: AnyPath, *, damaged: bool) -> dict[str, Any]:
    """What the folder holds; nothing of a damaged file, if such a one may be written over.

    Raises:
      ValueError: the file is damaged, and may not.
    """
    try:
        recorded = json.loads(read_text(path))
        leaves(recorded["config"])
    except (ValueError, TypeError, KeyError) as error:
        if damaged:
            return {}
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}), so what this folder holds cannot be "
            "seen; choose another workdir, or pass --allow-changes to go on from its checkpoints"
        ) from error
    return recorded
