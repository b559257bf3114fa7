"""Several processes agree where to stop, whatever each of them is doing when one is asked to."""

import threading
from collections.abc import Callable
from typing import Any

from jaxpref.training.job import Job

__all__ = ["Agreement"]


class Agreement:
    """One stop of one job.

    All processes call `reached` at the same places of what they do, any number of times. Once one of them is
    asked to stop, each says how often it has called, and whether it has something to save; these come from a
    thread, so none waits for another's step. With something to save, all stop at the call after the last one
    that any has made: calls are counted over the whole job, and so never begin again. With nothing to save
    anywhere they may leave where they are.

    Args:
      unsaved: whether this process has something to save.
      decided: called once that is known, in a thread of the job.
    """

    def __init__(self, job: Job, unsaved: Callable[[], bool], decided: Callable[[], None]) -> None:
        self._job, self._unsaved, self._decided = job, unsaved, decided
        self._known = threading.Condition()  # its lock may be taken again by a signal's handler
        self._calls = 0
        self._said: dict[int, tuple[int, bool]] = {}
        self._last: int | None = None  # the call to stop at
        self.asked: int | None = None  # the signal
        self.by: int | None = None  # the process that was told first
        self.leaving = False  # at once: nobody has anything to save
        job.on("stop", self._stop)
        job.on("calls", self._hear)

    def ask(self, number: int) -> None:
        """Asks all to stop, as signal `number` has told this process."""
        if self.asked is None:
            self._job.send({"stop": number})

    def reached(self) -> bool:
        """Whether to stop here; the same answer in all processes."""
        with self._known:
            self._calls += 1
            if self.asked is None:
                return False
            while self._last is None:
                self._known.wait()
            return self._calls >= self._last

    def _stop(self, sender: int, message: dict[str, Any]) -> None:
        with self._known:
            if self.asked is not None:
                return
            self.asked, self.by = message["stop"], sender
            mine = {"calls": self._calls, "unsaved": self._unsaved()}
        self._job.send(mine)

    def _hear(self, sender: int, message: dict[str, Any]) -> None:
        with self._known:
            self._said[sender] = (message["calls"], message["unsaved"])
            if len(self._said) < self._job.count:
                return
            self.leaving = not any(unsaved for _, unsaved in self._said.values())
            self._last = 0 if self.leaving else max(calls for calls, _ in self._said.values()) + 1
            self._known.notify_all()
        self._decided()
