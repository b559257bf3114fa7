"""The files that data sets are read from: their names, checksums and lines."""

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["SourceFile", "json_lines", "sha256_of", "source_of"]


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file of a data set: on disk at `path`, or to be downloaded from `url`."""

    name: str
    sha256: str
    path: str | None = None
    url: str | None = None


def sha256_of(path: str | Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_of(path: str | Path) -> SourceFile:
    """A local file and its checksum; raises ValueError where there is none."""
    if not Path(path).is_file():
        raise ValueError(f"no file {path}; give the path of a JSON-lines file (.jsonl or .jsonl.gz)")
    return SourceFile(Path(path).name, sha256_of(path), path=str(path))


def json_lines(path: str | Path, name: str | Path | None = None) -> Iterator[tuple[int, Any]]:
    """Yields (line number from 1, value) of a JSON-lines file, gzipped or not; skips blank lines.

    Raises ValueError with file (`name` where it differs from the path) and line number for a line that is
    not JSON or UTF-8, and for a damaged archive.
    """
    name, number = name or path, 0
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise ValueError(f"{name}:{number}: not JSON: {error}") from error
                yield number, value
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name}: damaged gzip file after line {number}: {error}") from error
