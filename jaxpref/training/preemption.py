"""SIGTERM and Ctrl-C as a request to save and leave, agreed on by all processes."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]

_ONCE = b"\njaxpref: saving after this step; Ctrl-C again stops at once, without saving\n"


class Preemption:
    """While entered, SIGTERM and the first Ctrl-C set a flag that the loop reads between steps.

    A second Ctrl-C is a KeyboardInterrupt, as one is with several processes: there jax.distributed listens to
    SIGTERM itself and makes all of them agree on a step, and to nothing else."""

    def __init__(self) -> None:
        self._asked: int | None = None  # the signal
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        # Signals can only be handled in the main thread; elsewhere the caller has to stop us otherwise.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(2, _ONCE)  # print is not safe here: the signal may have come in the middle of one

    @property
    def status(self) -> int:
        """What the process ends with: 128 + the signal, as shells count."""
        return 128 + (self._asked or signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Whether to save and leave after this step; the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked is not None
