"""The files that data sets are read from: their names, checksums and rows.

JSON lines (one object in each line), a JSON array of objects, either of them gzipped, and Parquet. What a
file is, its first bytes say, whatever its name.
"""

import dataclasses
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Row", "SourceFile", "count_rows", "read_rows", "sha256_of", "source_of"]

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PACKED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard", b"PK\x03\x04": "zip"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file of a data set: on disk at `path`, or to be downloaded from `url`."""

    name: str
    sha256: str
    path: str | None = None
    url: str | None = None


class Row(NamedTuple):
    """A row of a file, and where it is."""

    number: int  # from 1: of the line, or of the row of a Parquet file
    where: str  # "pairs.jsonl:3", for messages
    value: Any


def sha256_of(path: str | Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_of(path: str | Path) -> SourceFile:
    """A local file and its checksum; raises ValueError where there is none."""
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ValueError(f"{path} {what}; give the path of a JSON-lines, JSON or Parquet file")
    return SourceFile(Path(path).name, sha256_of(path), path=str(path))


def count_rows(path: str | Path) -> int | None:
    """Rows of a file, blank lines included; None where only reading it through would tell."""
    with open(path, "rb") as raw:
        start = raw.read(4)
    opened = gzip.open if start[:2] == b"\x1f\x8b" else open
    try:
        with opened(path, "rb") as file:
            head = file.read(1 << 10)
            if start == b"PAR1":
                return _parquet_rows(path)
            if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
                return None
            rows, last = head.count(b"\n"), head[-1:]
            for chunk in iter(lambda: file.read(1 << 20), b""):
                rows, last = rows + chunk.count(b"\n"), chunk[-1:]
            return rows + (last not in (b"\n", b""))
    except (EOFError, OSError, zlib.error):
        return None


def read_rows(path: str | Path, name: str | Path | None = None) -> Iterator[Row]:
    """Yields the rows of a file; blank lines of a JSON-lines file are skipped.

    Raises ValueError with file (`name` where it differs from the path) and line for what is no JSON, no
    UTF-8, or says one thing twice, and for a damaged archive.
    """
    name = name or path
    with open(path, "rb") as raw:
        start = raw.read(8)
    if start[:4] == b"PAR1":
        yield from _parquet(path, name)
        return
    for magic, kind in _PACKED.items():
        if start.startswith(magic):
            raise ValueError(f"{name}: the file is a {kind} archive; unpack it, or pack it with gzip")
    opened = gzip.open if start[:2] == b"\x1f\x8b" else open
    number, first = 0, True
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and (line[:2] in _UTF16 or b"\0" in line):
                    raise ValueError(f"{name}:1: the file is UTF-16 or binary; save it as UTF-8 text")
                if not line.removeprefix(b"\xef\xbb\xbf").strip():
                    continue
                where = f"{name}:{number}"
                if first and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                    yield from _array(line + file.read(), name, number)
                    return
                first = False
                yield Row(number, where, _parsed(_decoded(line, where), where)[0])
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: damaged gzip file after line {number}: {error}") from error


def _array(data: bytes, name: str | Path, line: int) -> Iterator[Row]:
    """The elements of a JSON array, each with the line that it begins in."""
    text = _decoded(data, f"{name}:{line}")
    at, first = text.index("[") + 1, True
    while True:
        start, at = at, _next(text, at)
        if text[at : at + 1] == "]":
            break
        if not first and text[at : at + 1] != ",":
            line += text.count("\n", start, at)
            raise ValueError(f"{name}:{line}: not JSON: expected ',' or ']' after an element of the array")
        at = at if first else _next(text, at + 1)
        line += text.count("\n", start, at)
        where = f"{name}:{line}"
        value, end = _parsed(text, where, at)
        yield Row(line, where, value)
        line += text.count("\n", at, end)
        at, first = end, False
    if text[at + 1 :].strip():
        raise ValueError(f"{name}: not JSON: something follows the array; JSON lines hold an object a line")


def _next(text: str, at: int) -> int:
    """Where the next character that is not blank is."""
    return _BLANK.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not JSON: not UTF-8 text ({error})") from error


def _parsed(text: str, where: str, at: int | None = None) -> tuple[Any, int]:
    """A JSON value and where it ends: the whole of `text`, or what begins at `at`."""
    try:
        value, end = (_DECODER.decode(text), len(text)) if at is None else _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg} (character {error.colno})") from error
    except RecursionError as error:
        raise ValueError(f"{where}: not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:  # a key that comes twice, or a number of thousands of digits
        raise ValueError(f"{where}: not JSON that can be read: {error}") from error
    if "\\u" in text[at or 0 : end] and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError(f"{where}: a text holds half of a surrogate pair (\\ud800 to \\udfff)")
    return value, end


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _parquet_rows(path: str | Path) -> int | None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.metadata.num_rows
    except (pyarrow.ArrowException, OSError):
        return None


def _parquet(path: str | Path, name: str | Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{name}: Parquet is read by pyarrow, which is not installed; pip install 'jaxpref[parquet]'"
        ) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, f"{name}, row {number}", _without_nulls(value))
    except (pyarrow.ArrowException, OSError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(f"{name}: damaged Parquet file after row {number}: {text}") from error


def _without_nulls(value: Any) -> Any:
    """A value without the empty fields of its structs: Arrow gives every struct of a column the keys that any
    of them has."""
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
