"""Where the seconds of a stage go, by kind; they add up to its wall time.

The device works on its own: the host hands it a program and goes on. So the time of a program is counted
where the host waits for what came of it. What each kind is of:

* start: reading records, loading constants, drawing or restoring the state
* data: waiting for the next batch, which a thread puts together while the device works
* collect: drawing responses and judging them, as far as the host takes part or waits; else handing it over
* step: handing over the step, and waiting for the metrics of the one before: so the device's own time of
  steps, and of what was collected for them without waiting
* evaluation: held-out passes and evaluators, with the wait for their results
* checkpoint: what `save` blocks for (a save that is still writing, arrays on their way off the device), and
  sending the run's files to a store; the writing itself goes on beside the steps
* compile: tracing, lowering and compiling of any program, or reading it from the compile cache, wherever that
  fell; it is taken off the kind that it interrupted
* other: logging, writers, traces for `profile=`, and what no other kind is of
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

__all__ = ["KINDS", "Clock", "Lap"]

KINDS: tuple[str, ...] = ("start", "data", "collect", "step", "evaluation", "checkpoint", "compile", "other")

_PARTS = ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
_COMPILING = tuple(f"/jax/core/compile/{part}_duration" for part in _PARTS)


class _Compiling(threading.local):
    """Seconds that this thread has spent on compiling, each counted once: tracing a program traces those that
    it calls, and jax reports all of them."""

    def __init__(self) -> None:
        self.total = 0.0
        self._spans: list[tuple[float, float]] = []  # those that a longer one may still turn out to hold

    def add(self, seconds: float) -> None:
        """Takes a span that ends now."""
        start = time.perf_counter() - seconds
        while self._spans and self._spans[-1][0] >= start:
            self.total -= self._spans.pop()[1]
        self.total += seconds
        self._spans.append((start, seconds))

    def settle(self) -> float:
        """Seconds so far; call it where nothing is being compiled."""
        self._spans.clear()
        return self.total


_compiling = _Compiling()


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event in _COMPILING:
        _compiling.add(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_listen)


class Clock:
    """Counts seconds since it was made, each to one kind. Of one thread, the one that runs the loop.

    Example:
      >>> clock = Clock("start")
      >>> with clock.spent("evaluation"):
      ...     pass
      >>> sorted(clock.seconds()) == sorted(KINDS)
      True
    """

    def __init__(self, kind: str = "other") -> None:
        self._kind = kind
        self._seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._since = time.perf_counter()
        self._compiled = _compiling.settle()

    def turn(self, kind: str) -> str:
        """What follows is of this kind; returns that of before."""
        now, compiled = time.perf_counter(), _compiling.settle()
        compiling = min(compiled - self._compiled, now - self._since)
        self._seconds[self._kind] += now - self._since - compiling
        self._seconds["compile"] += compiling
        self._since, self._compiled = now, compiled
        before, self._kind = self._kind, kind
        return before

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What is done inside is of this kind."""
        before = self.turn(kind)
        try:
            yield
        finally:
            self.turn(before)

    def seconds(self) -> dict[str, float]:
        """Seconds so far, of every kind."""
        self.turn(self._kind)
        return dict(self._seconds)


class Lap:
    """What a clock has counted since it was asked last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: dict[str, float] = dict.fromkeys(KINDS, 0.0)

    def taken(self) -> dict[str, float]:
        """Seconds since the last call (the first: since the clock began), of every kind."""
        now = self._clock.seconds()
        since = {kind: now[kind] - self._before[kind] for kind in KINDS}
        self._before = now
        return since
