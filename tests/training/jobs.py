"""Jobs whose processes are threads of one, over loopback."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jaxpref.training.arrival import meet
from jaxpref.training.job import Job


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def each(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What `act(i)` gives, or the ValueError that it raises, for all at the same time."""
    results: list[Any] = [None] * count

    def one(i: int) -> None:
        try:
            results[i] = act(i)
        except ValueError as error:
            results[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@contextlib.contextmanager
def together(count: int, **facts: list[Any]) -> Iterator[tuple[list[Job], list[tuple[int, int]]]]:
    """The jobs of `count` processes, and how those ended that did: process and status.

    facts: what each says of itself, by name.
    """
    port, ends = free_port(), list[tuple[int, int]]()

    def join(i: int) -> Job:
        own = {"host": f"host{i}", **{name: values[i] for name, values in facts.items()}}
        met = meet(f"localhost:{port}", count, i, own, timeout=20, patience=60)

        def end(status: int) -> None:
            ends.append((i, status))
            with contextlib.suppress(OSError):  # as the end of a process does
                met.line.socket.shutdown(socket.SHUT_RDWR)

        return Job(i, count, met, patience=60, end=end)

    jobs = each(count, join)
    yield jobs, ends
    for job in jobs:
        job.bye()
        job._met.line.close()
