"""experiment.json: the complete configuration of a run, and the guard against two runs in one folder."""

import json
import platform
import sys
from importlib import metadata

from jaxpref import keys
from jaxpref.config import describe, leaves
from jaxpref.experiment import Experiment
from jaxpref.paths import read_text
from jaxpref.training.files import RunFiles
from jaxpref.training.provenance import devices, session

__all__ = ["record_experiment"]

PACKAGES = ("jaxpref", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def record_experiment(
    files: RunFiles,
    experiment: Experiment,
    *,
    mesh: str,
    docstring: str,
    source: str | None,
    allow_changes: bool,
) -> None:
    """Writes experiment.json; the experiment file `source` says which commit this session is of.

    Raises:
      ValueError: the directory holds a run of another configuration, or one whose keys are derived in
        another way (`keys.SCHEME`), and `allow_changes` is False.
    """
    description = json.loads(json.dumps(describe(experiment)))
    path = files.directory / "experiment.json"
    recorded = json.loads(read_text(path)) if path.exists() else {}
    if recorded and not allow_changes:
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
    files.write_json(
        "experiment.json",
        {
            "name": experiment.name,
            "docstring": docstring,
            "arxiv": list(experiment.arxiv),
            "config": description,
            "keys": keys.SCHEME,
            "versions": versions | {"python": platform.python_version()},
            "device": f"{devices()}, mesh {mesh}",
            "command": " ".join(sys.argv),
            "sessions": [*recorded.get("sessions", []), session(source)],
        },
    )
