"""Processes that are joined over loopback, as those of a pod are."""

import atexit
import socket
import subprocess
import sys
from collections.abc import Sequence

import launch

__all__ = ["finished", "started", "together"]

# What Gloo, which joins processes on CPU, says when it has mixed up messages.
GLOO = ("gloo::EnforceNotMet", "sync_global_devices name mismatch")


def started(arguments: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen[str]]:
    """Processes that are joined, with `devices` each, and run Python with these arguments; one is alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    def joins(index: int) -> dict[str, str]:
        if processes == 1:
            return {}
        return {
            # On CPU a program may overtake another one in one of the processes, and Gloo tells their messages
            # apart by their order alone; devices of other kinds keep the order.
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
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


def together(arguments: Sequence[str], processes: int, devices: int) -> list[str]:
    """As `finished`, of processes that are started, and started again where Gloo mixes up the messages of its
    first connections, which happens on a busy machine; that is said."""
    for left in (2, 1, 0):
        try:
            return finished(started(arguments, processes, devices))
        except RuntimeError as error:
            if not left or not any(said in str(error) for said in GLOO):
                raise
            print("     (started again: Gloo mixed up its messages)", flush=True)
    raise AssertionError
