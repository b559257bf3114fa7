"""experiment.json: the complete configuration of a run, and the guard against two runs in one folder."""

import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import jax

from jaxpref import keys
from jaxpref.config import describe, leaves
from jaxpref.experiment import Experiment
from jaxpref.paths import AnyPath, read_text
from jaxpref.training.files import RunFiles

__all__ = ["checked_record"]

PACKAGES = ("jaxpref", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def checked_record(
    files: RunFiles, experiment: Experiment, *, mesh: str, docstring: str, allow_changes: bool
) -> Callable[[], None]:
    """Checks that the folder holds no other run; returns what writes experiment.json.

    Raises:
      ValueError: the directory holds a run of another configuration, or one whose keys are derived in
        another way (`keys.SCHEME`), and `allow_changes` is False; or its experiment.json is damaged.
    """
    description = json.loads(json.dumps(describe(experiment)))
    path = files.directory / "experiment.json"
    if path.exists() and not allow_changes:
        recorded = _recorded(path)
        scheme = recorded.get("keys", 1)
        if scheme != keys.SCHEME:
            raise ValueError(
                f"{files.directory} holds a run that derives its randomness in another way (keys {scheme}, "
                f"now {keys.SCHEME}): data order and draws would change; choose another workdir, go on with "
                "the jaxpref that began it, or pass --allow-changes to start further stages from what it has"
            )
        old, new = leaves(recorded["config"]), leaves(description)
        differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if differing:
            listed = ", ".join(f"{k}: {old.get(k)} -> {new.get(k)}" for k in differing[:5])
            raise ValueError(
                f"{files.directory} holds a run of another configuration ({listed}); choose another workdir, "
                "or pass --allow-changes to go on from its checkpoints"
            )
    versions = {name: metadata.version(name) for name in PACKAGES}
    content = {
        "name": experiment.name,
        "docstring": docstring,
        "arxiv": list(experiment.arxiv),
        "config": description,
        "keys": keys.SCHEME,
        "versions": versions | {"python": platform.python_version()},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, mesh {mesh}",
        "command": " ".join(sys.argv),
    }
    return partial(files.write_json, "experiment.json", content)


def _recorded(path: AnyPath) -> dict[str, Any]:
    try:
        recorded = json.loads(read_text(path))
        leaves(recorded["config"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}), so what this folder holds cannot be "
            "seen; choose another workdir, or pass --allow-changes to go on from its checkpoints"
        ) from error
    return recorded
