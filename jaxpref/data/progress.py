"""Progress of reading a data set, on stderr."""

import sys
import time

__all__ = ["Progress"]


class Progress:
    """Prints one line to stderr every few seconds: rows, speed, and the time left where `total` is known."""

    def __init__(self, name: str, total: int | None):
        self._name, self._total, self._kept = name, total or 0, 0
        self._start = self._last = time.monotonic()

    def step(self, dropped: int) -> None:
        """One more row was kept, and `dropped` ones were not so far."""
        self._kept += 1
        now = time.monotonic()
        if now - self._last > 5:
            self._last = now
            self._print(dropped, now)

    def close(self, dropped: int) -> None:
        self._print(dropped, time.monotonic())

    def _print(self, dropped: int, now: float) -> None:
        done, elapsed = self._kept + dropped, max(now - self._start, 1e-9)
        of = f"/{self._total:,}" if self._total else ""
        left = (
            f", {max(self._total - done, 0) / (done / elapsed):.0f} s left" if self._total > done > 0 else ""
        )
        print(
            f"prepare {self._name}: {done:,}{of} rows ({dropped:,} dropped), "
            f"{done / elapsed:,.0f} rows/s{left}",
            file=sys.stderr,
            flush=True,
        )
