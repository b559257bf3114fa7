"""One run at a time in a folder: `lock.json` says whose it is.

The file has a random token, the owner's host, pid and number of processes, and when its owner was last seen
alive, which a thread writes again every `BEAT` seconds. It is removed at the end. A lock whose owner has
gone (a pid of this machine that is not there, or no sign of life while it is watched) is taken over.
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

from jaxpref.paths import AnyPath, write_whole
from jaxpref.training.job import Job
from jaxpref.training.lock_file import BEAT, FILE, gone, owner_of, process_of, read, refusal, settled

__all__ = ["check_free", "locked"]


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
        if (read(directory / FILE) or {}).get("token") == token:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.5)


class _Lock:
    def __init__(self, directory: AnyPath, job: Job, log: Callable[[str], None]) -> None:
        self._path, self._job, self._log = directory / FILE, job, log
        self._done = threading.Event()
        self._made: list[pathlib.Path] = []  # folders that were not there
        self._mine = {
            "token": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": process_of(os.getpid()),
            "processes": job.count,
            "started": time.time(),
        }
        self._held = False
        self._writing = threading.Lock()

    def take(self) -> str:
        """Returns the token."""
        try:
            self._make_folder()
            found = None if self._create() else settled(self._path)
            if not self._held:
                why = gone(self._path, found, self._log)
                if why is None:
                    raise ValueError(refusal(self._path, found or {}))
                self._log(f"{self._path}: taken over from a run that did not end by itself ({why})")
                self._write()
            # Of two that write at once one is last; a store has no other way to tell.
            local = isinstance(self._path, pathlib.Path)
            if found is not None or not local:
                time.sleep(0.3 if local else 1)
                now = read(self._path) or {}
                if now.get("token") != self._mine["token"]:
                    raise ValueError(refusal(self._path, now))
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
            if (read(self._path) or {}).get("token") == self._mine["token"]:
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
                holder = read(self._path)
                if (holder or {}).get("token", self._mine["token"]) != self._mine["token"]:
                    return self._lost(holder or {})
                with self._writing:
                    if not self._done.is_set():
                        self._write()
            except Exception as error:  # a store that does not answer for a while, a full disk
                self._log(f"{self._path}: not written: {error}")

    def _lost(self, holder: dict[str, Any]) -> None:
        """This process slept for longer than a lock lasts, and what it would save now is another run's."""
        self._held = False
        text = f"{self._path}: {owner_of(holder)} has taken over this folder, so this run ends without saving"
        os.write(2, f"jaxpref: error: {text}\n".encode())
        self._job.end(2)


def check_free(directory: AnyPath) -> None:
    """Raises ValueError where a run that lives has the folder, or one right below it."""
    for path in (directory / FILE, *directory.glob(f"*/{FILE}")):
        found = settled(path)
        if found is not None and gone(path, found, print) is None:
            raise ValueError(refusal(path, found))
