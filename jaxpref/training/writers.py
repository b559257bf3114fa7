"""Where a run's metrics go: one interface, and who implements it, by name.

`writers=csv,tensorboard` (or `train(..., writers=("csv",))`) chooses. metrics.jsonl is always written, since
a resumed run and the report read it. A writer of your own is `package.module:function`, where
`function(directory: pathlib.Path)` returns one (a module beside the experiment file will do); the folder is
local, whatever the run's own is (`spool`).
"""

import csv
import importlib
import io
import json
import math
import pathlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import tensorboardX
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from jaxpref.paths import AnyPath, write_whole

__all__ = ["DEFAULT", "WRITERS", "Csv", "JsonLines", "Kept", "TensorBoard", "Writer", "builders"]

Kept = Callable[[str, str, int], bool]  # (stage, split, step): does a run that resumes keep its entries


class Writer(Protocol):
    """Takes metrics. Only the first process of a run has writers."""

    every_step: bool
    """True: values of each training step; False: their means over `log_every` steps."""

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        """`split`: "train" (`step`: the one that the update starts from), "eval" (held-out records, after
        `step` steps), "evaluations" (means of an evaluator) or "resources" (seconds by kind and bytes, see
        `clock`, of what was done since the entry before)."""
        ...

    def flush(self) -> None:
        """When this returns, what was written is in files."""
        ...

    def forget(self, kept: Kept) -> None:
        """Removes what a resumed run will write again, in files of the run before."""
        ...

    def close(self) -> None: ...


def _number(value: Any) -> Any:
    # JSON has no NaN; a reader of the file must see that the number was not finite, not fail on it.
    if isinstance(value, list):
        return [{k: _number(v) for k, v in x.items()} if isinstance(x, dict) else x for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class JsonLines:
    """One JSON object a line; each line is in the file before the call returns."""

    every_step = True

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        if split != "evaluations":  # evaluations.jsonl has those, with their intervals
            self.append([{"stage": stage, "step": step, "split": split, "time": time.time()} | dict(values)])

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = [json.dumps({k: _number(v) for k, v in entry.items()}) + "\n" for entry in entries]
        with self.file.open("a") as file:
            file.writelines(lines)

    def forget(self, kept: Kept) -> None:
        if self.file.exists():
            entries = [r for r in read_rows(self.file) if kept(r["stage"], r.get("split", ""), r["step"])]
            write_whole(self.file, "".join(json.dumps(entry) + "\n" for entry in entries))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_rows(file: AnyPath) -> list[dict[str, Any]]:
    """Entries of a JSON-lines file; a last line cut by a kill is dropped."""
    entries = []
    for line in file.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class TensorBoard:
    """Scalars `stage/split/name` in event files.

    A resumed run takes out of them what it will write again. (The format's own purge is by step alone, and
    would take points of earlier stages with it.)"""

    every_step = False

    def __init__(self, directory: pathlib.Path) -> None:
        self._folder = directory / "tensorboard"
        self._open: tensorboardX.SummaryWriter | None = None

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        if self._open is None:
            # By time and host alone, two files of one second would be one.
            own = f".{uuid.uuid4().hex[:8]}"
            self._open = tensorboardX.SummaryWriter(str(self._folder), filename_suffix=own)
        for name, value in values.items():
            self._open.add_scalar(f"{stage}/{split}/{name}", value, step)

    def flush(self) -> None:
        if self._open is not None:
            self._open.flush()

    def forget(self, kept: Kept) -> None:
        self.close()
        for file in sorted(self._folder.glob("events.*")):
            data = file.read_bytes()
            left = b"".join(record for record in _event_records(data) if _event_is_kept(record, kept))
            if left != data:
                write_whole(file, left)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None


def _event_records(data: bytes) -> Iterator[bytes]:
    """Records of an event file: length (8 bytes), its checksum (4), an event, its checksum (4). One that a
    kill cut short is left out."""
    at = 0
    while at + 12 <= len(data):
        end = at + 16 + int.from_bytes(data[at : at + 8], "little")
        if end > len(data):
            return
        yield data[at:end]
        at = end


def _event_is_kept(record: bytes, kept: Kept) -> bool:
    event = Event.FromString(record[12:-4])
    tags = [value.tag.split("/", 2) for value in event.summary.value]
    return all(kept(tag[0], tag[1], event.step) for tag in tags if len(tag) == 3)


class Csv:
    """metrics.csv, a line for each number: time (seconds since 1970), stage, split, step, name, value."""

    every_step = True
    _HEADER = ("time", "stage", "split", "step", "name", "value")

    def __init__(self, directory: pathlib.Path) -> None:
        self.file = directory / "metrics.csv"
        if not self.file.exists():
            self._rewrite([])

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        now = time.time()
        with self.file.open("a", newline="") as file:
            csv.writer(file).writerows((now, stage, split, step, name, v) for name, v in values.items())

    def _rewrite(self, lines: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self._HEADER, *lines])
        write_whole(self.file, text.getvalue())

    def forget(self, kept: Kept) -> None:
        with self.file.open(newline="") as file:
            lines = [line for line in csv.reader(file) if len(line) == len(self._HEADER)][1:]
        self._rewrite(line for line in lines if kept(line[1], line[2], int(line[3])))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


Builder = Callable[[pathlib.Path], Writer]

WRITERS: Mapping[str, Builder] = {
    "csv": Csv,
    "jsonl": lambda directory: JsonLines(directory / "metrics.jsonl"),
    "tensorboard": TensorBoard,
}
DEFAULT = ("tensorboard",)


def builders(names: Sequence[str]) -> tuple[Builder, ...]:
    """Functions that make the writers of these names, that of metrics.jsonl first.

    Raises:
      ValueError: a name is not in `WRITERS`, and is no function of a module that can be imported either.
    """
    return tuple(_builder(name) for name in dict.fromkeys(("jsonl", *names)))


def _builder(name: str) -> Builder:
    if name in WRITERS:
        return WRITERS[name]
    module, colon, function = name.partition(":")
    try:
        builder: Any = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"writers: {name!r} cannot be imported ({error})") from error
    if not callable(builder):
        raise ValueError(
            f"writers: {name!r} is none of {', '.join(WRITERS)}; give one of them, or a function of your own "
            "as package.module:function"
        )
    return builder  # pyright: ignore[reportReturnType]
