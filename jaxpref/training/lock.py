"""One run at a time in a folder: `lock.json` says whose it is.

The file has a random token, the owner's host, pid and number of processes, and when its owner was last seen
alive, which a thread writes again every `BEAT` seconds. It is removed at the end. A lock whose owner has
gone (a pid of this machine that is not there, or no sign of life for `STALE` seconds) is taken over.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from jaxpref.paths import AnyPath, read_text, write_whole
from jaxpref.training.job import Job

__all__ = ["BEAT", "STALE", "check_free", "locked"]

BEAT = 20.0  # seconds
STALE = 180.0  # seconds; clocks of machines are taken to agree to a minute
_FILE = "lock.json"


@contextlib.contextmanager
def locked(directory: AnyPath, job: Job, log: Callable[[str], None]) -> Iterator[None]:
    """The folder is this job's while entered: the first process holds the lock, and the others look for it,
    which shows that they see the folder.

    Raises:
      ValueError: another run has it, it cannot be written, or not all processes see it; in all processes.
    """
    lock = _Lock(directory, job, log)
    token = job.of_first("lock", lock.take)
    try:
        _check_seen(directory, job, token)
        yield
    finally:
        lock.release()


def _check_seen(directory: AnyPath, job: Job, token: str) -> None:
    seen = job.process == 0 or _sees(directory, token)
    blind = [i for i, sees in enumerate(job.gather("sight of the workdir", seen)) if not sees]
    if blind:
        raise ValueError(
            f"workdir={directory}: {job.name(blind[0])} does not see what process 0 writes there"
            f"{f', nor do {len(blind) - 1} more' if len(blind) > 1 else ''}; give a folder that all workers "
            "see: a bucket (gs://bucket/run), Filestore, or one that is mounted on all of them"
        )


def _sees(directory: AnyPath, token: str, patience: float = 20) -> bool:
    """Whether the lock is there, which a network file system or a store may show late."""
    until = time.monotonic() + patience
    while True:
        if (_read(directory / _FILE) or {}).get("token") == token:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.5)


class _Lock:
    def __init__(self, directory: AnyPath, job: Job, log: Callable[[str], None]) -> None:
        self._path, self._job, self._log = directory / _FILE, job, log
        self._done = threading.Event()
        self._made: list[pathlib.Path] = []  # folders that were not there
        self._mine = {
            "token": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": _process(os.getpid()),
            "processes": job.count,
            "started": time.time(),
        }
        self._held = False
        self._writing = threading.Lock()

    def take(self) -> str:
        """Returns the token."""
        try:
            self._make_folder()
            found = None if self._create() else _settled(self._path)
            if not self._held:
                why = _gone(found)
                if why is None:
                    raise ValueError(_refusal(self._path, found or {}))
                self._log(f"{self._path}: taken over from a run that did not end by itself ({why})")
                self._write()
            # Of two that write at once one is last; a store has no other way to tell.
            local = isinstance(self._path, pathlib.Path)
            if found is not None or not local:
                time.sleep(0.3 if local else 1)
                now = _read(self._path) or {}
                if now.get("token") != self._mine["token"]:
                    raise ValueError(_refusal(self._path, now))
        except OSError as error:
            self._held = False
            raise ValueError(
                f"{self._path} could not be written: {error}; see that you may write there, or choose "
                "another workdir"
            ) from error
        self._held = True
        self._job.at_end(self.release)
        threading.Thread(target=self._beat, name="jaxpref-lock", daemon=True).start()
        return self._mine["token"]

    def release(self) -> None:
        """Removes the file, if it is this run's, and the folders that were made for it, if they are empty."""
        self._done.set()
        if not self._held:
            return
        self._held = False
        self._job.at_end_no_more(self.release)
        own = self._writing.acquire(timeout=10)  # a store may hang
        with contextlib.suppress(Exception):  # whatever it is, the run has ended
            if (_read(self._path) or {}).get("token") == self._mine["token"]:
                self._path.unlink()
        if own:
            self._writing.release()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _make_folder(self) -> None:
        folder = self._path.parent
        if isinstance(folder, pathlib.Path):
            self._made = [p for p in reversed((folder, *folder.parents)) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)

    def _create(self) -> bool:
        """Whether the file was not there, and is this run's now."""
        if not isinstance(self._path, pathlib.Path):
            if self._path.exists():
                return False
            self._write()
            return True
        try:
            with open(self._path, "x", encoding="utf-8") as file:
                file.write(self._content())
        except FileExistsError:
            return False
        self._held = True
        return True

    def _content(self) -> str:
        return json.dumps(self._mine | {"alive": time.time()}, indent=2) + "\n"

    def _write(self) -> None:
        write_whole(self._path, self._content())
        self._held = True

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            try:
                owner = _read(self._path)
                if owner is not None and owner.get("token") != self._mine["token"]:
                    return self._lost(owner)
                with self._writing:
                    if not self._done.is_set():
                        self._write()
            except Exception as error:  # a store that does not answer for a while, a full disk
                self._log(f"{self._path}: not written: {error}")

    def _lost(self, owner: dict[str, Any]) -> None:
        """This process slept for longer than a lock lasts, and what it would save now is another run's."""
        self._held = False
        text = f"{self._path}: {_owner(owner)} has taken over this folder, so this run ends without saving"
        os.write(2, f"jaxpref: error: {text}\n".encode())
        self._job.end(2)


def check_free(directory: AnyPath) -> None:
    """Raises ValueError where a run that lives has the folder, or one right below it."""
    for path in (directory / _FILE, *directory.glob(f"*/{_FILE}")):
        found = _settled(path)
        if found is not None and _gone(found) is None:
            raise ValueError(_refusal(path, found))


def _refusal(path: AnyPath, owner: dict[str, Any]) -> str:
    age = time.time() - owner.get("alive", time.time())
    return (
        f"workdir={path.parent} is in use by {_owner(owner)}, last seen alive {age:.0f} s ago. Wait for it, "
        f"stop it, or choose another workdir. If it has died on another machine, its lock ({_FILE}) ends "
        f"{STALE:.0f} s after that"
    )


def _owner(lock: dict[str, Any]) -> str:
    many = f" ({lock['processes']} processes)" if lock.get("processes", 1) > 1 else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lock.get("started", 0)))
    return f"a run on {lock.get('host', 'an unknown host')}, pid {lock.get('pid')}{many}, since {since}"


def _read(path: AnyPath) -> dict[str, Any] | None:
    """What the lock says; {} where it is damaged, None where there is none."""
    try:
        found = json.loads(read_text(path))
    except OSError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _settled(path: AnyPath) -> dict[str, Any] | None:
    """As `_read`; what is being written is read again."""
    found = _read(path)
    if found == {}:
        time.sleep(1)
        found = _read(path)
    return found


def _gone(lock: dict[str, Any] | None) -> str | None:
    """What shows that the owner of a lock has gone; None where nothing does."""
    if lock is None:
        return "its lock has just gone"
    if lock.get("host") == socket.gethostname() and _ended(lock):
        return f"pid {lock.get('pid')} of this machine has ended"
    alive = lock.get("alive")
    if not isinstance(alive, int | float):
        return "its lock is damaged"
    age = time.time() - alive
    return f"no sign of life for {age:.0f} s" if age > STALE else None


def _ended(lock: dict[str, Any]) -> bool:
    """Whether the owner, on a machine of this name, is known to be there no more."""
    own, owner, pid = _process(os.getpid()), lock.get("process"), lock.get("pid")
    if not isinstance(pid, int):
        return False
    if own is not None and owner is not None:
        # In another container of the same name its pid says nothing here.
        return owner[0] == own[0] and _process(pid) != owner
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _process(pid: int) -> list[str] | None:
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
