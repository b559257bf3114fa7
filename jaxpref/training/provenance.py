"""When, from which commit and on what hardware a run was started."""

import datetime
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

__all__ = ["commit_of", "devices", "session"]


def session(source: str | None) -> dict[str, Any]:
    """What experiment.json says of each time that a run is started or resumed.

    Args:
      source: the experiment file; `commit` is that of its repository, null where there is none or git is not
        installed, and `uncommitted` whether tracked files, or the file itself, differ from it.
        `library_commit` is that of jaxpref, where it runs from a checkout.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    commit, uncommitted = (None, False) if source is None else commit_of(pathlib.Path(source))
    return {
        "started": now,
        "commit": commit,
        "library_commit": _tracked_at(pathlib.Path(__file__)),
        "uncommitted": uncommitted,
        "device": devices(),
        "host_cpu": _host_cpu(),
        "host_cores": os.cpu_count(),
    }


def devices() -> str:
    """Number and kind of the devices of all processes, such as `8 x TPU v4`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def commit_of(file: pathlib.Path) -> tuple[str | None, bool]:
    """The commit that the file's repository is at, and whether it lacks something of what is there."""
    commit = _git(file.parent, "rev-parse", "HEAD")
    if not commit:
        return None, False
    changed = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    # What git cannot tell in time is not said to be committed.
    return commit, changed != "" or not _git(file.parent, "ls-files", "--", file.name)


def _tracked_at(file: pathlib.Path) -> str | None:
    """The commit of the repository that tracks the file. One that it merely lies in, as an installed package
    lies in an environment inside of somebody's checkout, says nothing of it."""
    tracked = _git(file.parent, "ls-files", "--", file.name)
    return _git(file.parent, "rev-parse", "HEAD") if tracked else None


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """What git prints; None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _host_cpu() -> str:
    """The model where the system names it, else the architecture."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
