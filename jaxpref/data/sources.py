"""The files that data sets are read from: where they are, whether they are intact, and their lines."""

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["CHECKSUMS", "SourceFile", "hh_source", "json_lines", "sha256_of", "source_of"]

CHECKSUMS = Path(__file__).with_name("checksums.tsv")  # TFDS reads it too: url, bytes, sha256, file name
_HH_HOME = "https://github.com/anthropics/hh-rlhf"


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


def hh_source(data_root: str | None, subset: str, split: str) -> SourceFile:
    """The file of one subset and split of Anthropic HH.

    `data_root` holds `SUBSET.SPLIT.jsonl.gz` or `SUBSET/SPLIT.jsonl.gz`, itself or in a folder `hh_rlhf`; the
    file must match the `SHA256SUMS` beside it or one folder up, or, where there is none that lists it, the
    public repository's checksum. None: a public file to be downloaded.

    Raises ValueError for a missing root or file and for a checksum that does not match.
    """
    official = _official(subset, split)
    if data_root is None:
        if official is None:
            raise ValueError(
                f"Anthropic HH: no checksum of {subset}/{split} is known to this version; download it from "
                f"{_HH_HOME} and pass data_root"
            )
        return official
    root = Path(data_root)
    where = f"download {subset}/{split}.jsonl.gz from {_HH_HOME} (Git LFS), or leave data_root out to do so"
    if not root.is_dir():
        raise ValueError(f"Anthropic HH: data_root {data_root} does not exist; {where}")
    names = (f"{subset}.{split}.jsonl.gz", f"{subset}/{split}.jsonl.gz")
    paths = [folder / name for folder in (root, root / "hh_rlhf") for name in names]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise ValueError(f"Anthropic HH: {data_root} has neither {names[0]} nor {names[1]}; {where}")
    actual = sha256_of(path)
    expected, listed_in = _listed(path, root), "SHA256SUMS"
    if expected is None and official is not None:
        expected, listed_in = official.sha256, _HH_HOME
    if expected not in (None, actual):
        raise ValueError(
            f"Anthropic HH: checksum mismatch: {path} has sha256 {actual[:16]}..., {listed_in} says "
            f"{str(expected)[:16]}...; {where}. To use this copy as it is, list it in {root}/SHA256SUMS"
        )
    return SourceFile(f"{subset}/{split}", actual, path=str(path))


def json_lines(path: str | Path, name: str | Path | None = None) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of each line of a JSON-lines file, gzipped or not; blank lines skipped.

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


def _official(subset: str, split: str) -> SourceFile | None:
    for line in CHECKSUMS.read_text().splitlines():
        url, _, sha256, _ = line.split("\t")
        if url.endswith(f"/{subset}/{split}.jsonl.gz"):
            return SourceFile(f"{subset}/{split}", sha256, url=url)
    return None


def _listed(path: Path, root: Path) -> str | None:
    for folder in (path.parent, *path.parent.parents):
        sums = folder / "SHA256SUMS"
        if sums.is_file():
            for line in sums.read_text().splitlines():
                digest, _, name = line.partition(" ")
                if name and (folder / name.strip().removeprefix("*")).resolve() == path.resolve():
                    return digest
        if folder == root.parent:
            break
    return None
