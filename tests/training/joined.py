"""Processes that are joined over loopback, as those of a pod are."""

import atexit
import socket
import subprocess
import sys
from collections.abc import Sequence

import launch

__all__ = ["finished", "started"]


def started(arguments: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen[str]]:
    """Processes that are joined, with `devices` each, and run Python with these arguments; one is alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    def joins(index: int) -> dict[str, str]:
        if processes == 1:
            return {}
        return {
            "JAXPREF_COORDINATOR": f"localhost:{port}",
            "JAXPREF_NUM_PROCESSES": str(processes),
            "JAXPREF_PROCESS_ID": str(index),
        }

    begun = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=launch.environment(devices, **joins(index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    for process in begun:  # however this script ends
        atexit.register(process.kill)
    return begun


def finished(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What each printed, once all have ended well."""
    outputs = [process.communicate(timeout=3600)[0] for process in processes]
    codes = [process.returncode for process in processes]
    if any(codes):
        raise RuntimeError(f"exit {codes}:\n" + "\n".join(output[-5000:] for output in outputs))
    return outputs
