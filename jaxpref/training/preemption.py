"""SIGTERM and Ctrl-C as a request to save and leave, agreed on by all processes, at any moment.

Light on purpose: it is entered before jax is imported, which takes a second.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from jaxpref.training import job as jobs
from jaxpref.training.agreement import Agreement
from jaxpref.training.job import Job

__all__ = ["Preemption", "Stopped", "attach", "entered", "listening", "said"]

_ONCE = b"\njaxpref: saving after this step; Ctrl-C again stops at once, without saving\n"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 10.0  # seconds that something which cannot be interrupted (a compilation) may take to notice


class Stopped(SystemExit):
    """A signal came where nothing was to be saved. The status is 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Preemption:
    """While entered, SIGTERM and Ctrl-C end what runs: after a step where there is something to save
    (`unsaved`), which asks `reached`; else at once, by `Stopped` (by KeyboardInterrupt for Ctrl-C in a
    process alone). A second Ctrl-C is a KeyboardInterrupt in any case.

    A thread hears of signals too, since Python's handlers wait for the end of a compilation; where there is
    nothing to save it ends the process.
    """

    def __init__(self, job: Job | None = None) -> None:
        self.unsaved = False  # there are updates since the last checkpoint
        self._previous: dict[int, Any] = {}
        self._wakeup: tuple[int, int, int] | None = None  # ends of the pipe, and the descriptor of before
        self._interrupts = 0
        self._handled = 0.0  # when the handler ran last, which shows that the main thread runs
        self._raised = False
        self.attach(job or jobs.current())

    def attach(self, job: Job) -> None:
        """Agrees with the other processes of `job` from now on."""
        self._job = job
        self._agreement = Agreement(job, lambda: self.unsaved, self._decided)

    def __enter__(self) -> "Preemption":
        # Signals can only be handled in the main thread; elsewhere the caller has to stop us otherwise.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._on_signal)
            read, write = os.pipe()
            os.set_blocking(write, False)
            self._wakeup = (read, write, signal.set_wakeup_fd(write, warn_on_full_buffer=False))
            threading.Thread(target=self._listen, args=(read,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._wakeup is not None:
            _, write, before = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(write)  # ends the thread
            self._wakeup = None

    @property
    def status(self) -> int:
        """What the process ends with: 128 + the signal, as shells count."""
        return 128 + (self._agreement.asked or signal.SIGTERM)

    def ask(self) -> None:
        """Asks for what SIGTERM asks for; of any thread."""
        self._agreement.ask(signal.SIGTERM)

    def reached(self) -> bool:
        """Whether to save and leave here; the same answer on every process. All processes call this at the
        same places: after each step, between the parts of an evaluation and in front of each stage.

        Raises:
          Stopped: to leave here, with nothing to save.
        """
        stop = self._agreement.reached()
        if stop and not self.unsaved:
            self._leave()
        return stop

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._handled = time.monotonic()
        if self._agreement.leaving:  # all have agreed, and `_decided` calls this
            self._leave()
        elif number == signal.SIGINT:
            self._interrupts += 1
            alone = self._job.count == 1
            if self._interrupts > 1 or (alone and not self.unsaved):
                self._interrupts = 0
                raise KeyboardInterrupt
            if self.unsaved:
                os.write(2, _ONCE)  # print is not safe here: the signal may have come in the middle of one
        if self._job.count == 1:
            self._agreement.ask(number)

    def _leave(self) -> None:
        if not self._raised:  # a second time would cut short what tidies up
            self._raised = True
            raise Stopped(self.status - 128)

    def _listen(self, read: int) -> None:
        """Of several processes this thread tells the others, since the main one may be busy."""
        while data := os.read(read, 1):
            if data[0] in _SIGNALS:
                if self._job.count > 1:  # `_decided` ends busy ones, once all have nothing to save
                    self._agreement.ask(data[0])
                else:
                    self._later(_PATIENCE, self._end_if_busy, data[0], time.monotonic())
        os.close(read)

    def _decided(self) -> None:
        """Leaves where nobody has anything to save; with several processes in a thread of the job."""
        if not self._agreement.leaving or not self._previous:
            return
        self._later(3 * _PATIENCE, self._end, self.status - 128)
        if threading.current_thread() is threading.main_thread():
            self._leave()
        else:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # `_on_signal` leaves

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        def wait() -> None:
            time.sleep(seconds)
            if self._wakeup is not None:  # still entered
                act(*arguments)

        threading.Thread(target=wait, daemon=True).start()

    def _end_if_busy(self, number: int, at: float) -> None:
        if self._handled < at - _PATIENCE and not self.unsaved:  # the thread may have read it late
            self._end(number)

    def _end(self, number: int) -> None:
        os.write(2, f"jaxpref: {said(number)}\n".encode())
        self._job.end(128 + number)


def said(number: int) -> str:
    """What is said of a command that a signal has ended before there was anything to save."""
    return f"stopped by {signal.Signals(number).name}; nothing is left to save"


_entered: Preemption | None = None


@contextlib.contextmanager
def listening() -> Iterator[Preemption]:
    """The `Preemption` that is entered already, or a new one: a process has one, however it was begun."""
    global _entered
    if _entered is not None:
        yield _entered
        return
    with Preemption() as _entered:
        try:
            yield _entered
        finally:
            _entered = None


def entered() -> Preemption:
    """The one that is entered; else one that hears of no signal."""
    return _entered or Preemption()


def attach(job: Job) -> None:
    """Lets the `Preemption` that is entered, if any, agree with the other processes of `job`."""
    if _entered is not None:
        _entered.attach(job)
