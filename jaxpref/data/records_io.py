"""Records on disk: a directory of .npy files and a manifest.

    manifest.json               format, n, k, what the records are, and each file's shape, type, size, sha256
    prompt_tokens.npy           int32 [p_1 + ... + p_n]
    prompt_offsets.npy          int64 [n + 1]
    response_tokens.npy         int32 [sum of lengths], row by row, response by response
    response_offsets.npy        int64 [n * k + 1]
    unscored.npy                int64 [n, k]
    group.npy                   int64 [n]
    column.NAME.HASH.npy        one file per optional column, first axis n

The format is NumPy's because it is documented and stable, can be memory-mapped by one call and is readable
without this package. Nothing is visible before it is complete: a directory is renamed into place, and a new
column counts only once a manifest that names its file has replaced the old manifest.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxpref.data.records import Records, starts
from jaxpref.data.sources import sha256_of

__all__ = ["MANIFEST", "add_column", "load_records", "read_manifest", "write_records"]

MANIFEST = "manifest.json"
_FORMAT = "jaxpref.records"
_VERSION = 1
_RESERVED = ("format", "version", "n", "k", "files", "columns")


def write_records(records: Records, directory: str | Path, *, overwrite: bool = False) -> None:
    """Writes `records` to `directory`, all of it or nothing.

    With `overwrite`, an existing directory stays in place until the new one is complete. Raises ValueError
    where the directory exists and `overwrite` is False, and OSError, which names the directory and the
    remedy, where the disk is full.
    """
    target = Path(directory)
    if target.exists() and not overwrite:
        raise ValueError(f"records: {target} exists; pass overwrite=True or another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with _whole_or_nothing(temporary, target):
        temporary.mkdir()
        files = {name: _save(temporary / f"{name}.npy", array) for name, array in _arrays(records).items()}
        columns = {name: _save_column(temporary, name, array) for name, array in records.columns.items()}
        manifest = {
            "format": _FORMAT,
            "version": _VERSION,
            "n": len(records),
            "k": records.k,
            **{name: value for name, value in records.metadata.items() if name not in _RESERVED},
            "files": files,
            "columns": columns,
        }
        _write_text(temporary / MANIFEST, json.dumps(manifest, indent=1))
        if target.exists():
            old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)


def add_column(directory: str | Path, name: str, values: np.ndarray, *, axes: str | None = None) -> None:
    """Adds or replaces a column of records on disk, e.g. `scores` (float32 [n, k]).

    The old column counts until the new one is complete. `axes`, and what is raised: `Records.with_column`.
    """
    target = Path(directory)
    if not name.isidentifier():
        raise ValueError(f"column name: expected letters, digits and underscores, got {name!r}")
    records = load_records(target).with_column(name, values, axes=axes)
    values, manifest = records.columns[name], read_manifest(target)
    if "column_axes" in records.metadata:
        manifest["column_axes"] = records.metadata["column_axes"]
    replaced = manifest["columns"].get(name, {}).get("file")
    temporary = target / f".{MANIFEST}.{uuid.uuid4().hex[:8]}.tmp"
    with _whole_or_nothing(temporary, target):
        manifest["columns"][name] = _save_column(target, name, values)
        _write_text(temporary, json.dumps(manifest, indent=1))
        temporary.replace(target / MANIFEST)
    if replaced and replaced != manifest["columns"][name]["file"]:
        (target / replaced).unlink(missing_ok=True)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Reads the manifest alone; raises ValueError where there is none or it is of another format."""
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"records: {path} does not exist; {directory} is not a directory of prepared records"
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"records: {path} is damaged ({error}); prepare the records again") from error
    if manifest.get("format") != _FORMAT or manifest.get("version") != _VERSION:
        given = (manifest.get("format"), manifest.get("version"))
        raise ValueError(
            f"records: {path} is of format {given}, this version reads {(_FORMAT, _VERSION)}; "
            "prepare them again"
        )
    return manifest


def load_records(directory: str | Path) -> Records:
    """Opens records memory-mapped. Raises ValueError that names the file that is missing or damaged."""
    directory = Path(directory)
    manifest = read_manifest(directory)
    arrays = {name: _open(directory, entry) for name, entry in manifest["files"].items()}
    missing = _NAMES - arrays.keys()
    if missing:
        raise ValueError(
            f"records: {directory}/{MANIFEST} lists no {sorted(missing)}; prepare the records again"
        )
    n, k = manifest["n"], manifest["k"]
    prompt_starts, prompt_lengths = _rows(directory, arrays, "prompt", n)
    response_starts, response_lengths = _rows(directory, arrays, "response", n * k)
    for name, shape in (("unscored", (n, k)), ("group", (n,))):
        if arrays[name].shape != shape:
            raise _damaged(directory / f"{name}.npy", f"its shape is {arrays[name].shape}, not {shape}")
    columns = {name: _open(directory, entry) for name, entry in manifest["columns"].items()}
    records = Records(
        prompt_tokens=arrays["prompt_tokens"],
        prompt_starts=prompt_starts,
        prompt_lengths=prompt_lengths,
        response_tokens=arrays["response_tokens"],
        response_starts=response_starts.reshape(n, k),
        response_lengths=response_lengths.reshape(n, k),
        unscored=np.asarray(arrays["unscored"]),
        group=np.asarray(arrays["group"]),
        metadata=MappingProxyType({name: v for name, v in manifest.items() if name not in _RESERVED}),
    )
    for name, values in columns.items():
        records = records.with_column(name, values)
    return records


_NAMES = {"prompt_tokens", "prompt_offsets", "response_tokens", "response_offsets", "unscored", "group"}


def _arrays(records: Records) -> dict[str, np.ndarray]:
    """The table compacted: rows in order, nothing that a `take` left behind."""
    rows = range(len(records))
    prompts = [records.prompt(i) for i in rows]
    responses = [records.response(i, j) for i in rows for j in range(records.k)]
    empty = [np.zeros(0, np.int32)]
    return {
        "prompt_tokens": np.concatenate(empty + prompts).astype(np.int32),
        "prompt_offsets": np.append(0, np.cumsum(records.prompt_lengths)).astype(np.int64),
        "response_tokens": np.concatenate(empty + responses).astype(np.int32),
        "response_offsets": np.append(0, np.cumsum(records.response_lengths)).astype(np.int64),
        "unscored": records.unscored.astype(np.int64),
        "group": records.group.astype(np.int64),
    }


def _rows(
    directory: Path, arrays: Mapping[str, np.ndarray], kind: str, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    offsets, tokens = np.asarray(arrays[f"{kind}_offsets"]), arrays[f"{kind}_tokens"]
    file = directory / f"{kind}_offsets.npy"
    if offsets.shape != (rows + 1,):
        raise _damaged(file, f"it holds {offsets.shape[0] - 1} rows and the manifest says {rows}")
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (lengths < 0).any():
        raise _damaged(file, f"its offsets do not divide the {len(tokens)} tokens of {kind}_tokens.npy")
    return starts(lengths), lengths


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"records: {path} is damaged: {why}; prepare the records again")


def _save(path: Path, array: np.ndarray) -> dict[str, Any]:
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "dtype": str(array.dtype),
        "shape": list(array.shape),
    }


def _save_column(directory: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    # The content's hash in the name: replacing a column never touches the file that still counts.
    content = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:8]
    return _save(directory / f"column.{name}.{content}.npy", array)


def _open(directory: Path, entry: Mapping[str, Any]) -> np.ndarray:
    path = directory / entry["file"]
    if not path.is_file():
        raise _damaged(path, "it is missing")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise _damaged(path, f"it has {size} bytes and the manifest says {entry['bytes']}")
    try:
        # mmap cannot map zero bytes of data
        array = np.load(path, mmap_mode=None if 0 in entry["shape"] else "r", allow_pickle=False)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise _damaged(path, f"it holds {array.dtype} {array.shape}, the manifest says otherwise")
    return array


def _write_text(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _whole_or_nothing(temporary: Path, target: Path) -> Iterator[None]:
    """Removes a partial write after an error, and explains a full disk."""
    try:
        yield
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"the disk is full while writing records to {target}; nothing written before is lost, "
                "free some space and run again",
            ) from error
        raise
