"""What the file `lock.json` in the folder of a run says: whose the folder is, and whether that one lives."""

import json
import os
import pathlib
import socket
import time
from collections.abc import Callable
from typing import Any

from jaxpref.paths import AnyPath, read_text

__all__ = ["BEAT", "FILE", "WATCH", "gone", "owner_of", "process_of", "read", "refusal", "settled"]

BEAT = 20.0  # seconds between two signs of life
# Clocks of machines differ, so an age in another one's file says little: who is not known to live is watched.
FRESH, WATCH = 1.5 * BEAT, 2.5 * BEAT
FILE = "lock.json"


def refusal(path: AnyPath, lock: dict[str, Any]) -> str:
    """What is said to another run that wants the folder."""
    age = time.time() - lock.get("alive", time.time())
    return (
        f"workdir={path.parent} is in use by {owner_of(lock)}, last seen alive {age:.0f} s ago. Wait for it, "
        "stop it, or choose another workdir. If it has died on another machine, start again in a minute: a "
        f"lock ({FILE}) without a sign of life for {WATCH:.0f} s is taken over"
    )


def owner_of(lock: dict[str, Any]) -> str:
    """How messages call the run that has a lock."""
    many = f" ({lock['processes']} processes)" if lock.get("processes", 1) > 1 else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lock.get("started", 0)))
    return f"a run on {lock.get('host', 'an unknown host')}, pid {lock.get('pid')}{many}, since {since}"


def read(path: AnyPath) -> dict[str, Any] | None:
    """What the lock says; {} where it is damaged, None where there is none."""
    try:
        found = json.loads(read_text(path))
    except OSError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def settled(path: AnyPath) -> dict[str, Any] | None:
    """As `read`; what is being written is read again."""
    found = read(path)
    if found == {}:
        time.sleep(1)
        found = read(path)
    return found


def gone(path: AnyPath, lock: dict[str, Any] | None, say: Callable[[str], None]) -> str | None:
    """What shows that the owner of a lock has gone; None where nothing does. Takes up to `WATCH` seconds,
    and says so."""
    if lock is None:
        return "its lock has just gone"
    if lock.get("host") == socket.gethostname() and _ended(lock):
        return f"pid {lock.get('pid')} of this machine has ended"
    alive = lock.get("alive")
    if not isinstance(alive, int | float):
        return "its lock is damaged"
    age = time.time() - alive
    if abs(age) < FRESH:
        return None
    say(f"{path}: {owner_of(lock)} was last seen {age:.0f} s ago; watched for {WATCH:.0f} s whether it lives")
    until = time.monotonic() + WATCH
    while time.monotonic() < until:
        time.sleep(min(1, WATCH / 5))
        now = settled(path)
        if now is None:
            return "its lock has just gone"
        if (now.get("token"), now.get("alive")) != (lock.get("token"), alive):
            return None
    return f"no sign of life for {WATCH:.0f} s"


def _ended(lock: dict[str, Any]) -> bool:
    """Whether the owner, on a machine of this name, is known to be there no more."""
    own, owner, pid = process_of(os.getpid()), lock.get("process"), lock.get("pid")
    if not isinstance(pid, int):
        return False
    if own is not None and owner is not None:
        # In another container of the same name its pid says nothing here.
        return owner[0] == own[0] and process_of(pid) != owner
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def process_of(pid: int) -> list[str] | None:
    """What tells a process from a later one with its pid: the machine's boot and namespace of pids, and when
    it started. None where it is not there, or the system does not say."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
        # Behind the name, which may hold anything, fields 3 to 22.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else [f"{boot} {space}", fields[19]]
