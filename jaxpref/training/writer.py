"""What a run leaves behind: JSON lines of every step and TensorBoard points."""

import json
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import tensorboardX

__all__ = ["RunFiles", "show_choices"]


class _Forward(logging.Handler):
    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.getMessage())


def show_choices(log: Callable[[str], None]) -> None:
    """Sends what lower layers decided while tracing (which kernel, why) where this run's lines go."""
    logger = logging.getLogger("jaxpref")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_Forward(log)]


def _number(value: Any) -> Any:
    # JSON has no NaN; a reader of the file must see that the number was not finite, not fail on it.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class RunFiles:
    """The files of one run directory. Only the first process writes; the others get silent ones."""

    def __init__(self, directory: pathlib.Path, *, active: bool = True, log: Callable[[str], None] = print):
        self.directory = directory
        self._active = active
        self._print = log
        self._board: tensorboardX.SummaryWriter | None = None
        if active:
            directory.mkdir(parents=True, exist_ok=True)
            self._board = tensorboardX.SummaryWriter(str(directory / "tensorboard"), write_to_disk=True)

    def log(self, text: str) -> None:
        if self._active:
            self._print(text)
            sys.stdout.flush()

    def write_json(self, name: str, value: Any) -> None:
        if not self._active:
            return
        path = self.directory / name
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(value, indent=2) + "\n")
        partial.replace(path)

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        if not self._active:
            return
        lines = [json.dumps({k: _number(v) for k, v in row.items()}) + "\n" for row in rows]
        try:
            with (self.directory / name).open("a") as file:
                file.writelines(lines)
        except OSError as error:
            raise ValueError(
                f"{self.directory / name} could not be written: {error}. Free space and run the same command "
                "again; it resumes from the last checkpoint"
            ) from error

    def points(self, stage: str, split: str, step: int, values: dict[str, float]) -> None:
        """TensorBoard scalars `stage/split/name`."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{split}/{name}", value, step)

    def read(self, name: str) -> list[dict[str, Any]]:
        """Rows of a JSON-lines file; a last line cut by a kill is dropped."""
        path = self.directory / name
        if not path.exists():
            return []
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def forget_after(self, stages: list[str], stage: str, step: int) -> None:
        """Removes rows that a resumed run will write again: later stages, and this stage past `step`."""
        if not self._active:
            return
        done = stages[: stages.index(stage)]

        def kept(row: dict[str, Any]) -> bool:
            # A train row describes the update that starts at its step; other rows describe the step itself.
            last = step - 1 if row.get("split") == "train" else step
            return row["stage"] in done or (row["stage"] == stage and row["step"] <= last)

        for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "maps.jsonl"):
            path = self.directory / name
            if path.exists():
                partial = path.with_suffix(".partial")
                partial.write_text("".join(json.dumps(r) + "\n" for r in self.read(name) if kept(r)))
                partial.replace(path)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
