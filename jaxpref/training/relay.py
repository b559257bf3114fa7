"""Carries messages between the processes of a job: through the first one, to all, in one order.

Each process holds one TCP connection to the first one, opened before jax is joined, on the address that jax
will use. A message is a JSON object on a line. Whoever sends one gets it back as all others do, so that all
processes see the same messages in the same order and may decide alone what they all decide.
"""

import selectors
import threading
import time
from collections.abc import Mapping
from typing import Any

from jaxpref.training.line import Line

__all__ = ["BEAT", "Relay", "broken", "silent"]

BEAT = 2.0  # seconds between signs of life


def broken() -> str:
    """Why a process is missing, whose connection has just broken."""
    return f"its connection broke at {time.strftime('%H:%M:%S %Z')}"


def silent(seconds: float) -> str:
    """Why a process is missing that was last heard of so many seconds ago."""
    since = time.strftime("%H:%M:%S %Z", time.localtime(time.time() - seconds))
    return f"there is no sign of life since {since} ({seconds:.0f} s)"


class Relay(threading.Thread):
    """In the first process: passes on to all what one sends, with the sender in `from`, and says who is gone.

    A process that breaks off, or is silent for longer than `patience` seconds, without having said that it
    leaves (`bye`) is `gone`: number, host, since when and why.
    """

    def __init__(self, lines: Mapping[int, Line], hosts: Mapping[int, str], patience: float) -> None:
        super().__init__(name="jaxpref-relay", daemon=True)
        self._lines, self._hosts, self._patience = dict(lines), hosts, patience
        self._heard = dict.fromkeys(lines, time.monotonic())
        self._left: set[int] = set()  # have said that they leave
        self._selector = selectors.DefaultSelector()
        for process, line in self._lines.items():
            line.socket.settimeout(10)
            self._selector.register(line.socket, selectors.EVENT_READ, process)

    def run(self) -> None:
        beat = time.monotonic()
        while self._lines:
            for key, _ in self._selector.select(timeout=BEAT / 4):
                self._hear(key.data)
            if time.monotonic() - beat >= BEAT:
                beat = time.monotonic()
                self._tell({"beat": True})
                self._look_for_the_silent(beat)
        self._selector.close()

    def others(self) -> int:
        """Processes beside this one that are still connected."""
        return len(self._lines.keys() - {0})

    def _hear(self, process: int) -> None:
        line = self._lines.get(process)
        if line is None:
            return
        try:
            messages = line.receive()
        except ValueError:
            messages = None
        if messages is None:
            self._drop(process, broken())
            return
        self._heard[process] = time.monotonic()
        for message in messages:
            if "bye" in message:
                self._left.add(process)
            if "beat" not in message:
                self._tell({**message, "from": process})

    def _look_for_the_silent(self, at: float) -> None:
        for process in list(self._lines):
            quiet = at - self._heard[process]
            if quiet > self._patience:
                self._drop(process, silent(quiet))

    def _drop(self, process: int, why: str) -> None:
        line = self._lines.pop(process)
        self._selector.unregister(line.socket)
        line.close()
        if process not in self._left:
            self._tell({"gone": process, "host": self._hosts[process], "why": why, "from": 0})

    def _tell(self, message: Mapping[str, Any]) -> None:
        for line in list(self._lines.values()):
            line.send(message)  # one that cannot be told is seen as gone when it is read from
