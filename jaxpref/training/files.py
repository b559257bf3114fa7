"""The files of a run: metrics through its writers, and what evaluators report, as JSON lines."""

import contextlib
import errno
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxpref.paths import AnyPath, read_text, write_whole
from jaxpref.training import writers
from jaxpref.training.spool import Spool

__all__ = ["RunFiles", "show_choices"]

_ROWS = ("evaluations.jsonl", "samples.jsonl", "pictures.jsonl", "spikes.jsonl")


class _Forward(logging.Handler):
    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.getMessage())


def show_choices(log: Callable[[str], None]) -> None:
    """Shows what lower layers decided while tracing (which kernel, why) among this run's lines."""
    logger = logging.getLogger("jaxpref")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_Forward(log)]


def _files(folder: AnyPath) -> set[pathlib.Path]:
    return {path for path in pathlib.Path(folder).rglob("*") if path.is_file()}


def _remove(files: Iterable[pathlib.Path], folder: pathlib.Path, *, keep: bool) -> None:
    """Removes these files and the folders that are empty then, `folder` itself too unless `keep`."""
    for file in files:
        file.unlink(missing_ok=True)
    below = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for path in below if keep else [*below, folder]:
        with contextlib.suppress(OSError):  # something is in it
            path.rmdir()


class RunFiles:
    """The files of one run directory. Only the first process writes; the others get silent ones.

    Writers are made at the first write, so that a command that only reads leaves no file.
    """

    def __init__(
        self,
        directory: AnyPath,
        *,
        active: bool = True,
        log: Callable[[str], None] = print,
        names: Sequence[str] = writers.DEFAULT,
    ) -> None:
        self.directory = directory
        self._active = active
        self._print = log
        self._builders = writers.builders(names)  # in every process: all fail on a wrong name, not one
        self._open: list[writers.Writer] | None = None
        self._stepped = False  # whether a training step was logged
        self._made: set[pathlib.Path] | None = None  # files that came with its own writes; None: not noted
        self._spool = Spool(directory, log=self.log)

    def log(self, text: str) -> None:
        if self._active:
            self._print(text)
            sys.stdout.flush()

    def write_json(self, name: str, value: Any) -> None:
        if self._active:
            with self._writing():
                if isinstance(self.directory, pathlib.Path):
                    self.directory.mkdir(parents=True, exist_ok=True)
                write_whole(self.directory / name, json.dumps(value, indent=2) + "\n")

    def cut_short(self, stage: str, step: int | None) -> None:
        """Notes that the evaluation after a step was not made, until it is (None)."""
        if step is not None:
            self.write_json("cut.json", {"stage": stage, "step": step})
        elif self._active:
            with self._writing():
                (self.directory / "cut.json").unlink(missing_ok=True)

    def was_cut_short(self, stage: str, step: int | None) -> bool:
        """Whether that evaluation is still to be made, as this process sees it."""
        path = self.directory / "cut.json"
        try:
            return json.loads(read_text(path)) == {"stage": stage, "step": step}
        except (OSError, ValueError):
            return False

    def note(self, name: str, key: str, value: Any) -> None:
        """Sets one entry of a JSON object in the run's directory, beside those of before."""
        if self._active:
            path = self.directory / name
            try:
                known = json.loads(read_text(path)) if path.exists() else {}
            except ValueError:  # an account and no more: one that is damaged is begun anew
                known = {}
            self.write_json(name, (known if isinstance(known, dict) else {}) | {key: value})

    def write(
        self,
        stage: str,
        split: str,
        step: int,
        values: Mapping[str, float],
        means: Mapping[str, float] | None = None,
    ) -> None:
        """Metrics for all writers; those that do not want every step get `means` instead, if there are any.

        means: None: `values` for all of them; empty: nothing for those.
        """
        self._stepped |= split == "train"
        if not self._active:
            return
        with self._writing():
            for writer in self._writers():
                numbers = values if means is None or writer.every_step else means
                if numbers:
                    writer.write(stage, split, step, numbers)
        self._spool.tick()

    def append(self, name: str, entries: Iterable[dict[str, Any]]) -> None:
        """Appends entries of an evaluator to a JSON-lines file."""
        if self._active:
            with self._writing():
                writers.JsonLines(self._spool.local / name).append(entries)

    def read(self, name: str) -> list[dict[str, Any]]:
        """Entries of a JSON-lines file; a last line cut by a kill is dropped."""
        path = self._spool.current(name)
        return writers.read_rows(path) if path.exists() else []

    def forget_after(self, stages: list[str], stage: str, step: int, evaluated: int | None = None) -> None:
        """Removes entries that a resumed run will write again: later stages, and this stage past `step`.

        evaluated: the last step whose evaluations are kept; default: `step`.
        """
        if not self._active:
            return
        done = stages[: stages.index(stage)]
        last = step if evaluated is None else evaluated

        def kept(of: str, split: str, at: int) -> bool:
            # A train entry describes the update that starts at its step; others describe the step itself.
            return of in done or (of == stage and at <= (step - 1 if split == "train" else last))

        with self._writing():
            rows = [writers.JsonLines(self._spool.local / name) for name in _ROWS]
            for writer in [*self._writers(), *rows]:
                writer.forget(kept)

    def flush(self) -> None:
        """All that was written is in the run's directory when this returns."""
        if self._active:
            with self._writing():
                for writer in self._open or ():
                    writer.flush()
            self._spool.store()

    @contextlib.contextmanager
    def discarded_if_nothing_ran(self) -> Iterator[None]:
        """Closes the files at the end. If a run that has made no step ends with a ValueError, the files that
        it wrote are removed from a folder that was empty or not there, and nothing that others wrote."""
        there = self.directory.exists()
        fresh = not there or not any(self.directory.iterdir())
        if fresh and self._active and isinstance(self.directory, pathlib.Path):
            self._made = set()
        try:
            yield
        except ValueError:
            self.close()
            if self._made is not None and not self._stepped:
                _remove(self._made, pathlib.Path(self.directory), keep=there)
            raise
        finally:
            self.close()

    def close(self) -> None:
        for writer in self._open or ():
            writer.close()
        self._open = None
        self._spool.close()

    def _writers(self) -> list[writers.Writer]:
        if self._open is None:
            self._open = [build(self._spool.local) for build in self._builders]
        return self._open

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        noting = self._made is not None and not self._stepped
        before = _files(self.directory) if noting else set()
        try:
            yield
            if noting and self._made is not None:
                self._made |= _files(self.directory) - before
        except OSError as error:
            what = "folder" if isinstance(self.directory, pathlib.Path) else "bucket"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            cure = "Free space" if full else f"See that the {what} is there and that you may write to it,"
            raise ValueError(
                f"{error.filename or self.directory} could not be written: {error}. {cure} and run the same "
                "command again (it resumes from the last checkpoint), or choose another workdir"
            ) from error
