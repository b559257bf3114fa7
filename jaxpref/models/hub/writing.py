"""Model folders, written so that none looks whole before it is."""

import contextlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from jaxpref.models.hub.folder import INDEX, WHOLE
from jaxpref.models.hub.lazy import LazyArray, wrapped
from jaxpref.models.hub.safetensors import write_file

__all__ = ["SHARD_BYTES", "whole_folder", "write_tensors"]

SHARD_BYTES = 5_000_000_000  # of tensors in one file, as transformers writes


def write_tensors(
    directory: str | os.PathLike[str],
    tensors: Iterable[tuple[str, Any]],
    *,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `model.safetensors`, or shards of at most `max_shard_bytes` with their index.

    Args:
      directory: a folder that is there (`whole_folder`).
      tensors: names with numpy, jax or lazy arrays of any strides, placed in this order; lazy ones are read
        block by block, so that none of them is in memory as a whole.
      max_shard_bytes: of tensors in a file; one that is larger by itself has a file of its own.

    Raises:
      ValueError: there are no tensors, two of a name, one that is not written, or files of them already.
      OSError: the disk is full or fails.
    """
    directory = pathlib.Path(directory)
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes}: expected at least 1 byte")
    shards: list[dict[str, LazyArray]] = []
    seen: set[str] = set()
    room = 0
    for name, array in tensors:
        if name in seen:
            raise ValueError(f"two tensors have the name {name!r}")
        seen.add(name)
        lazy = wrapped(array)
        if not shards or lazy.nbytes > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = lazy
        room -= lazy.nbytes
    if not shards:
        raise ValueError(f"{directory}: a model without tensors is not written")
    if len(shards) == 1:
        write_file(directory / WHOLE, shards[0])
        return
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        write_file(directory / file, shard)
    size = sum(array.nbytes for shard in shards for array in shard.values())
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    with open(directory / INDEX, "x", encoding="utf-8") as file:
        file.write(json.dumps(index, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def whole_folder(directory: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary folder beside `directory`, which gets that name once the block has ended without an error.

    One that was killed leaves `.NAME.xxxxxxxx.partial`, which may be deleted, and nothing of the name itself.

    Raises:
      ValueError: `directory` is a file, or has something in it already.
    """
    directory = pathlib.Path(directory).absolute()
    _check_free(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            _sync(file)
        _sync(partial)
        _check_free(directory)
        partial.replace(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check_free(directory: pathlib.Path) -> None:
    if os.path.lexists(directory) and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory}: there already; nothing is written over, choose another folder")


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
