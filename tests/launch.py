"""Starts `jaxpref` in a process of its own, as a user would, with a chosen number of virtual devices."""

import os
import pathlib
import subprocess
import sys

TINY = str(pathlib.Path(__file__).parent / "training" / "tiny.py")


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    root = pathlib.Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": path,
        **more,
    }


def start(*arguments: str, devices: int = 1, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxpref.cli", *arguments],
        env=environment(devices, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: str, devices: int = 1, expect: int = 0, **env: str) -> str:
    process = start(*arguments, devices=devices, **env)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == expect, f"exit {process.returncode}, expected {expect}:\n{output}"
    return output
