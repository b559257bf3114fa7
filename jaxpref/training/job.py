"""The processes that run one command together: what they tell one another, and how they end together.

This knows nothing of jax: it is there before jax is, and goes on where a collective of jax would wait for
ever. A process alone is a job of one.
"""

import collections
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxpref.training.arrival import Met
from jaxpref.training.relay import BEAT, broken, silent

__all__ = ["MISSING", "Job", "current", "enter"]

MISSING = 4  # exit status where another process of the job is missing
_GRACE = 15.0  # seconds in which the others may end by themselves after one has
_LAST = 5.0  # seconds by which the first one stays: jax ends the others by SIGABRT once it is gone

Handler = Callable[[int, dict[str, Any]], None]


class Job:
    """What one process knows of its job.

    Args:
      process, count: which one this is, and of how many.
      patience: seconds of silence of the first process after which it counts as gone.
      end: how this process ends at once.
    """

    def __init__(
        self,
        process: int = 0,
        count: int = 1,
        met: Met | None = None,
        *,
        patience: float = 90,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.process, self.count = process, count
        self._met, self._patience, self._end = met, patience, end
        self._changed = threading.Condition()
        self._values: dict[str, dict[int, Any]] = collections.defaultdict(dict)
        self._asked = collections.Counter[str]()  # how often each thing was gathered
        self._ended: dict[int, tuple[int, str]] = {}  # others whose command has ended: status, and why
        self._lost = self._said_bye = False
        self._handlers: dict[str, Handler] = {}
        self._at_end: list[Callable[[], None]] = []
        if met is not None:
            threading.Thread(target=self._listen, name="jaxpref-job", daemon=True).start()

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """What each process said of itself on arrival, in their order."""
        return [] if self._met is None else self._met.facts

    def name(self, process: int) -> str:
        """How messages call a process."""
        host = self.facts[process].get("host") if self.facts else None
        return f"process {process}" if host is None else f"process {process} ({host})"

    def on(self, kind: str, handler: Handler) -> None:
        """`handler(sender, message)` for messages that have the key `kind`, in the order in which all
        processes get them, in a thread of the job (of the sender, where there is one process)."""
        self._handlers[kind] = handler

    def at_end(self, cleanup: Callable[[], None]) -> None:
        """What is done before this process ends at once, where no `finally` would run."""
        self._at_end.append(cleanup)

    def at_end_no_more(self, cleanup: Callable[[], None]) -> None:
        """Takes back `at_end`."""
        if cleanup in self._at_end:
            self._at_end.remove(cleanup)

    def send(self, message: Mapping[str, Any]) -> None:
        """To all processes, this one too."""
        if self._met is None:
            self._deliver(0, dict(message))
        else:
            self._met.line.send(message)

    def gather(self, what: str, value: Any) -> list[Any]:
        """The values (as JSON has them) that all processes give, in their order, once all have called this.

        Raises:
          ValueError: another process has ended instead.
        """
        if self.count == 1:
            return [value]
        self._asked[what] += 1
        key = f"{what} {self._asked[what]}"
        with self._changed:
            if self.process in self._ended:  # so had all; this is another command
                self._ended.clear()
        self.send({"gather": key, "value": value})
        begun = time.monotonic()
        with self._changed:
            while len(got := self._values[key]) < self.count:
                for process, (status, why) in self._ended.items():
                    if process not in got:
                        raise ValueError(f"{self.name(process)} has ended with status {status}: {why}")
                if not self._changed.wait(60):
                    missing = ", ".join(str(i) for i in range(self.count) if i not in got)
                    waited = time.monotonic() - begun
                    _say(f"waiting for process {missing} with its {what} since {waited:.0f} s")
            del self._values[key]
        return [got[i] for i in range(self.count)]

    def of_first(self, what: str, act: Callable[[], Any]) -> Any:
        """What `act()` returns in the first process, in all of them; so a ValueError that it raises."""
        value, failed = None, None
        if self.process == 0:
            try:
                value = act()
            except ValueError as error:
                failed = str(error)
                if self.count == 1:
                    raise
        value, failed = self.gather(what, [value, failed])[0]
        if failed is not None:
            raise ValueError(failed)
        return value

    def ended(self, status: int, why: str) -> None:
        """Tells the others that this process's command has ended by a mistake or a stop, and waits a moment:
        where another one is missing, that is what is said."""
        if self.count > 1:
            with self._changed:
                self._ended[self.process] = (status, why)
            self.send({"ended": status, "why": why[:2000]})
            self._wait(self._all_ended, 2)

    def leave(self, status: int) -> None:
        """After `ended`: returns where all others end too. Else this process ends here: jax would wait for
        them for minutes."""
        if self.count > 1 and not self._wait(self._all_ended, _GRACE):
            self._end_now(status)

    def bye(self) -> None:
        """The process ends, and is not to be missed."""
        if self._met is not None and not self._said_bye:
            self._said_bye = True
            self._met.line.send({"bye": True})

    def end(self, status: int) -> None:
        """Ends this process at once, after the cleanups."""
        self._end_now(status)

    def _all_ended(self) -> bool:
        return len(self._ended.keys() - {self.process}) == self.count - 1

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def _listen(self) -> None:
        assert self._met is not None
        line = self._met.line
        line.socket.settimeout(BEAT / 4)
        heard = beat = time.monotonic()
        while True:
            try:
                messages = line.receive()
            except ValueError:
                messages = None
            at = time.monotonic()
            if messages is None:
                return self._lose(0, broken())
            heard = at if messages else heard
            if at - heard > self._patience:
                return self._lose(0, silent(at - heard))
            if at - beat >= BEAT:
                beat = at
                line.send({"beat": True})
            for message in messages:
                if "from" in message:
                    self._deliver(message.pop("from"), message)

    def _deliver(self, sender: int, message: dict[str, Any]) -> None:
        if "gone" in message:
            self._lose(message["gone"], message["why"])
            return
        with self._changed:
            if "ended" in message and sender != self.process:
                self._ended[sender] = (message["ended"], message["why"])
                threading.Thread(target=self._follow, args=(sender,), daemon=True).start()
            elif "bye" not in message and sender != self.process:
                self._ended.pop(sender, None)  # it goes on with another command
            if "gather" in message:
                self._values[message["gather"]][sender] = message["value"]
            self._changed.notify_all()
        for kind in message.keys() & self._handlers.keys():
            self._handlers[kind](sender, message)

    def _follow(self, process: int) -> None:
        """Ends this process where another one has ended by a mistake and this one does not."""
        status, why = self._ended[process]
        if self._wait(lambda: process not in self._ended or self.process in self._ended, _GRACE):
            return
        _say(f"error: {self.name(process)} has ended with status {status}: {why}")
        self._end_now(MISSING)

    def _lose(self, process: int, why: str) -> None:
        if self._said_bye or self._lost:
            return
        self._lost = True
        _say(
            f"error: {self.name(process)} of {self.count} is missing: {why}. The job cannot go on without "
            "it; start the same command on all workers again, and it goes on from the last checkpoint"
        )
        self._end_now(MISSING)

    def _end_now(self, status: int) -> None:
        for cleanup in list(self._at_end):
            try:
                cleanup()
            except Exception as error:  # whatever it is, the process ends
                _say(f"{type(error).__name__}: {error}")
        self.bye()
        relay = None if self._met is None else self._met.relay
        patience = time.monotonic() + _LAST
        while relay is not None and relay.others() and time.monotonic() < patience:
            time.sleep(0.05)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._end(status)


def _say(text: str) -> None:
    os.write(2, f"jaxpref: {text}\n".encode())  # at once, whatever the main thread is doing


_current = Job()


def current() -> Job:
    """The job of this process."""
    return _current


def enter(job: Job) -> Job:
    """Makes `job` the one of this process."""
    global _current
    _current = job
    return job
