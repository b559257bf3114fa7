"""The files of a run that grow while it trains, on a local disk, whatever its folder is.

An object store has no append. So the files of a run in one are written to a temporary folder of this
machine, and those that changed are written to the store whole: when the run says so (before each checkpoint,
after each evaluation, at the end), and in between for a twentieth of the time at most. A kill loses only
lines after the last checkpoint, which a resumed run writes again.
"""

import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

from jaxpref.paths import AnyPath, write_whole

__all__ = ["Spool"]

_SHORTEST = 30.0  # seconds between writes that nobody asked for
_SHARE = 0.05  # of the time, spent on them at most


class Spool:
    """Local files under `local`, which is `directory` itself where that is of this machine."""

    def __init__(self, directory: AnyPath, *, log: Callable[[str], None] = print) -> None:
        self.directory = directory
        self._log = log
        self._temporary: pathlib.Path | None = None
        self._stored: dict[pathlib.Path, tuple[int, int]] = {}  # size and time of what the store has
        self._next = time.monotonic() + _SHORTEST

    @property
    def local(self) -> pathlib.Path:
        """Where to write. On first use it has the files that the folder itself has, and event files, which
        grow too (not those of other subfolders)."""
        if isinstance(self.directory, pathlib.Path):
            self.directory.mkdir(parents=True, exist_ok=True)
            return self.directory
        if self._temporary is None:
            self._temporary = pathlib.Path(tempfile.mkdtemp(prefix="jaxpref-"))
            for folder in (self.directory, self.directory / "tensorboard"):
                for source in folder.iterdir() if folder.is_dir() else ():
                    if source.suffix == ".html" or not source.is_file():  # pages are never gone on with
                        continue
                    file = self._temporary / (
                        source.name if folder == self.directory else f"tensorboard/{source.name}"
                    )
                    file.parent.mkdir(exist_ok=True)
                    file.write_bytes(source.read_bytes())
                    self._stored[file] = _version(file)
        return self._temporary

    def current(self, name: str) -> AnyPath:
        """The file `name` as last written, for reading; nothing is copied for that."""
        return self.directory / name if self._temporary is None else self.local / name

    def store(self) -> None:
        """Brings the store up to date; nothing to do for a local folder.

        Raises:
          ValueError: a file could not be written to the store.
        """
        if self._temporary is None:
            return
        start, root = time.monotonic(), self._temporary
        for file in sorted(root.rglob("*")):
            if file.is_dir() or self._stored.get(file) == _version(file):
                continue
            version = _version(file)  # before reading: lines that come meanwhile are for the next time
            target = self.directory / file.relative_to(root).as_posix()
            try:
                write_whole(target, file.read_bytes())
            except OSError as error:
                raise ValueError(
                    f"{target} could not be written: {error}. Once the store can be reached, run the same "
                    f"command again; it resumes from the last checkpoint (what the store lacks is in {root})"
                ) from error
            self._stored[file] = version
        now = time.monotonic()
        self._next = now + max(_SHORTEST, (now - start) * (1 / _SHARE - 1))

    def tick(self) -> None:
        """`store`, if it is due. A store that cannot be reached is tried again when it is due next."""
        if self._temporary is not None and time.monotonic() >= self._next:
            try:
                self.store()
            except ValueError as error:
                self._next = time.monotonic() + _SHORTEST
                self._log(f"{error} (trying again in {_SHORTEST:.0f} s)")

    def close(self) -> None:
        """`store`, and removes the temporary folder; it stays if the store does not take the files."""
        if self._temporary is not None:
            self.store()
            shutil.rmtree(self._temporary)
            self._temporary = None


def _version(file: pathlib.Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
