"""Processes of a job meet before jax joins them, so that one that does not come can be named.

jax itself ends a process whose peers do not come by SIGABRT, and does not say who is missing. So the first
process listens on the address that jax will use a moment later, and all others call there.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxpref.training.line import Line
from jaxpref.training.relay import Relay

__all__ = ["Met", "meet"]

_HELLO = "jaxpref 1"  # the version of what is said here


class Met(NamedTuple):
    line: Line  # to the first process
    facts: list[dict[str, Any]]  # of all, in their order; `ahead`: of the first one's clock, seconds
    relay: Relay | None  # in the first process


def meet(
    address: str,
    count: int,
    process: int,
    facts: Mapping[str, Any],
    *,
    timeout: float,
    patience: float,
) -> Met:
    """Waits until all processes of the job have come.

    Args:
      address: `host:port` of the first process.
      facts: what the others should know of this process: plain values, among them `host`.
      timeout: seconds to wait for all of them.
      patience: seconds of silence after which one counts as gone.

    Raises:
      ValueError: they have not all come, two are the same one, or they do not agree on how many they are.
        All that have come get the same message.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"the coordinator's address is host:port, got {address!r}")
    hello = {"hello": _HELLO, "process": process, "count": count, "facts": dict(facts)}
    until = time.monotonic() + timeout
    if process > 0:
        line, every = _called(host.strip("[]"), int(port), hello, until, timeout)
        return Met(line, every, None)
    with _listening(int(port)) as listener:
        lines, every = _awaited(listener, hello, until, timeout)
    # The first process talks to the relay as all others do.
    own, ours = socket.socketpair()
    hosts = {i: str(fact.get("host")) for i, fact in enumerate(every)}
    relay = Relay(lines | {0: Line(ours)}, hosts, patience)
    relay.start()
    return Met(Line(own), every, relay)


def _numbers(processes: Any) -> str:
    return ", ".join(map(str, sorted(processes)))


def _lacking(count: int, came: set[int], timeout: float, left: int = 0) -> str:
    missing = set(range(count)) - came
    gone = f"; {left} of them have ended since" if left else ""
    return (
        f"{len(came)} of {count} workers have arrived; missing: {_numbers(missing)}{gone} (waited "
        f"{timeout:.0f} s, JAXPREF_JOIN_TIMEOUT). See in their logs whether they started, and start the same "
        "command on all"
    )


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        if socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            listener = socket.create_server(("", port))
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen on port {port}, where the others look for it: {error}. An earlier "
            "command may still be running on this worker; stop it, or give another port"
        ) from error
    with listener:
        yield listener


def _awaited(
    listener: socket.socket, hello: dict[str, Any], until: float, timeout: float
) -> tuple[dict[int, Line], list[dict[str, Any]]]:
    """The lines of the others, and the facts of all."""
    count, lines, facts = hello["count"], dict[int, Line](), {0: hello["facts"] | {"ahead": 0.0}}
    told, came = time.monotonic(), {0}
    while len(facts) < count:
        left = until - time.monotonic()
        if left <= 0:
            raise _refused(lines, _lacking(count, came, timeout, len(came) - len(facts)))
        listener.settimeout(min(left, 1))
        with contextlib.suppress(TimeoutError):
            _let_in(Line(listener.accept()[0]), count, lines, facts)
        came |= facts.keys()
        for process in [p for p, line in lines.items() if _hung_up(line)]:
            lines.pop(process).close()
            del facts[process]
        told = _said(told, facts.keys(), count, left)
    every = [facts[i] for i in range(count)]
    for line in lines.values():
        line.send({"all": every})
    return lines, every


def _let_in(line: Line, count: int, lines: dict[int, Line], facts: dict[int, Any]) -> None:
    """Takes one that says who it is and hangs up on anything else."""
    line.socket.settimeout(5)
    try:
        hello = (line.receive() or [{}])[0]
    except ValueError:
        hello = {}
    process = hello.get("process")
    known = (("facts", dict), ("count", int), ("clock", int | float))
    said_all = all(isinstance(hello.get(name), kind) for name, kind in known)
    if hello.get("hello") != _HELLO or not isinstance(process, int) or not said_all:
        line.close()
        return
    host = hello["facts"].get("host")
    if hello["count"] != count or not 0 < process < count:
        why = f"process {process} on {host} is one of {hello['count']}, and process 0 one of {count}"
        raise _refused({**lines, process: line}, f"{why}; start all with the same number of processes")
    if process in lines and not _hung_up(lines[process]):
        other = facts[process].get("host")
        why = f"two processes say that they are process {process}, on {other} and on {host}"
        raise _refused({**lines, -1: line}, f"{why}; give each a number of its own")
    lines[process] = line
    facts[process] = hello["facts"] | {"ahead": round(hello["clock"] - time.time(), 3)}
    for each in lines.values():
        each.send({"arrived": sorted(facts)})


def _hung_up(line: Line) -> bool:
    """Whether one that waits has gone again; it has nothing to say meanwhile."""
    line.socket.setblocking(False)
    try:
        return line.receive() is None
    except ValueError:
        return True
    finally:
        line.socket.settimeout(5)


def _refused(lines: Mapping[int, Line], why: str) -> ValueError:
    for line in lines.values():
        line.send({"refused": why})
        line.close()
    return ValueError(why)


def _said(told: float, here: Any, count: int, left: float) -> float:
    """Says twice a minute whom it waits for."""
    if time.monotonic() - told < 30:
        return told
    missing = _numbers(set(range(count)) - set(here))
    print(
        f"jaxpref: {len(here)} of {count} workers have arrived; waiting for {missing} ({left:.0f} s more)",
        file=sys.stderr,
        flush=True,
    )
    return time.monotonic()


def _called(
    host: str, port: int, hello: dict[str, Any], until: float, timeout: float
) -> tuple[Line, list[dict[str, Any]]]:
    """The line to the first process, and the facts of all."""
    process, count, why, here = hello["process"], hello["count"], "", set[int]()
    told = time.monotonic()
    while (left := until - time.monotonic()) > 0:
        try:
            line = Line(socket.create_connection((host, port), timeout=min(5, left)))
        except OSError as error:
            number = error.errno or 0
            why = os.strerror(number) if number > 0 else str(error)
            time.sleep(0.2)
            told = _said(told, {process}, count, left)
            continue
        every = None
        try:
            line.send(hello | {"clock": time.time()})
            every = _answered(line, until, here)
        except _Unknown as error:
            why = str(error)
            time.sleep(1)
            continue
        finally:
            if every is None:
                line.close()
        if every is None:
            raise ValueError(_lacking(count, here, timeout))
        return line, every
    raise ValueError(
        f"process 0, which process {process} of {count} looks for at {host}:{port}, has not arrived within "
        f"{timeout:.0f} s (JAXPREF_JOIN_TIMEOUT){f': {why}' if why else ''}. Missing: 0 at least; see in its "
        "log whether it started, and start the same command on all workers"
    )


class _Unknown(Exception):
    """What answers is not the first process of a job."""


def _answered(line: Line, until: float, here: set[int]) -> list[dict[str, Any]] | None:
    """The facts of all, once all are there; None where that took too long. Adds to `here` who has come."""
    while (left := until - time.monotonic()) > 0:
        line.socket.settimeout(min(left, 5))
        try:
            messages = line.receive()
        except ValueError:
            messages = None
        if messages is None:
            raise _Unknown("what answers there is another program, or process 0 has ended")
        for i, message in enumerate(messages):
            if "refused" in message:
                raise ValueError(message["refused"])
            here.update(message.get("arrived", ()))
            if "all" in message:
                line.unread(messages[i + 1 :])
                return message["all"]
    return None
