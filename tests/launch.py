"""Runs `jaxpref` as a user would: in a process of its own, or in this one on a chosen number of devices."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax

from jaxpref import cli
from jaxpref.experiment import Experiment, MeshShape, smoke
from jaxpref.training import sharding
from jaxpref.training.run import train

TINY = str(pathlib.Path(__file__).parent / "training" / "tiny.py")


_CLOCKED = {"time", "tokens_per_second", "mfu"}


def rows(folder: pathlib.Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Lines of a run's file without what depends on the clock or on the memory there is."""
    lines = map(json.loads, (folder / name).read_text().splitlines())
    kept = [row for row in lines if row.get("split") != "resources"]
    return [{k: v for k, v in row.items() if k not in _CLOCKED} for row in kept]


@contextlib.contextmanager
def devices(count: int) -> Iterator[None]:
    """The loop sees the first `count` devices of this process: with one, it is on a laptop."""
    make = sharding.make_mesh
    with mock.patch.object(sharding, "make_mesh", lambda shape: make(shape, jax.devices()[:count])):
        yield


def here(*arguments: str, count: int = 1, expect: int = 0) -> str:
    """What a command prints, run in this process: no second import of jax, and programs compiled once."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), devices(count):
        status = cli.main(arguments)
    assert status == expect, f"status {status}, expected {expect}:\n{output.getvalue()}"
    return output.getvalue()


def smoke_run(experiment: Experiment, workdir: pathlib.Path, *, tensor: int = 1) -> str:
    """The lines that a smoke run prints, in this process, on one device or with `tensor` of them."""
    lines: list[str] = []
    with devices(tensor):
        short = dataclasses.replace(smoke(experiment), mesh=MeshShape(data=1, tensor=tensor))
        train(short, workdir, log=lines.append)
    return "\n".join(lines)


def environment(count: int = 1, **more: str) -> dict[str, str]:
    root = pathlib.Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(count),
        "PYTHONPATH": path,
        **more,
    }


def start(*arguments: str, count: int = 1, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxpref.cli", *arguments],
        env=environment(count, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: str, count: int = 1, expect: int = 0, **env: str) -> str:
    process = start(*arguments, count=count, **env)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == expect, f"exit {process.returncode}, expected {expect}:\n{output}"
    return output
