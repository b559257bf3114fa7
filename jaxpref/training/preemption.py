"""SIGTERM as a request to save and leave, agreed on by all processes."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]


class Preemption:
    """While entered, SIGTERM sets a flag that the loop reads between steps."""

    def __init__(self) -> None:
        self._asked = False
        self._previous = None

    def __enter__(self) -> "Preemption":
        # Signals can only be handled in the main thread; elsewhere the caller has to stop us otherwise. With
        # several processes jax.distributed listens itself and makes all of them agree on a step.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """Whether to save and leave after this step; the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
