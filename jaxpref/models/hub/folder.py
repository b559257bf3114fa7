"""The weights of a model folder: one safetensors file, or shards with an index."""

import os
import pathlib
import re

from jaxpref.models.hub.lazy import LazyArray
from jaxpref.models.hub.safetensors import load_json, open_file

__all__ = ["INDEX", "WHOLE", "open_folder"]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LARGEST_INDEX = 100_000_000  # bytes
# Weights in formats that are not read: pickles, which may run code, and those of other frameworks.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_OTHERS = (".h5", ".msgpack", ".gguf", ".onnx", ".npz")


def open_folder(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """The tensors of a folder by name; only headers and the index are read.

    `model.safetensors`, or the shards that `model.safetensors.index.json` names; other files do not count.

    Raises:
      ValueError: there are none or both of them; a shard is missing, damaged, outside of the folder, or has
        other tensors than the index says.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one with {WHOLE} or {INDEX}")
    one, many = (folder / WHOLE).exists(), (folder / INDEX).exists()
    if one and many:
        raise ValueError(
            f"{folder} has {WHOLE} and {INDEX}: which of them is the model cannot be told; move one elsewhere"
        )
    if one:
        return open_file(folder / WHOLE)
    if many:
        return _sharded(folder)
    raise ValueError(f"{folder} has neither {WHOLE} nor {INDEX}{_instead(folder)}")


def _sharded(folder: pathlib.Path) -> dict[str, LazyArray]:
    index = folder / INDEX
    if index.stat().st_size > _LARGEST_INDEX:
        raise ValueError(f"{index}: {index.stat().st_size} bytes are no index of shards")
    named = load_json(index.read_bytes(), str(index)).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(f, str) for f in named.values()):
        raise ValueError(f"{index}: expected a weight_map with the file of each tensor; fetch it again")
    files = sorted(set(named.values()))
    for file in files:
        _check_name(file, index)
        if not (folder / file).is_file():
            raise ValueError(f"{index} names {file}, which is not there; fetch that, too")
    tensors: dict[str, LazyArray] = {}
    for file in files:
        tensors |= _of_shard(folder / file, {name for name, of in named.items() if of == file}, index)
    return tensors


def _of_shard(file: pathlib.Path, wanted: set[str], index: pathlib.Path) -> dict[str, LazyArray]:
    there = open_file(file)
    if missing := sorted(wanted - there.keys()):
        raise ValueError(
            f"{file} has no tensor {missing[0]!r}, as {index.name} says ({len(missing)} in all); the "
            "two are of different models, or one is damaged: fetch them again"
        )
    if beyond := sorted(there.keys() - wanted):
        raise ValueError(
            f"{file} has a tensor {beyond[0]!r} that {index.name} does not place there ({len(beyond)} in "
            "all); the two are of different models, or one is damaged: fetch them again"
        )
    return there


def _check_name(file: str, index: pathlib.Path) -> None:
    """A plain name of a file in the same folder: an index is anybody's text."""
    if not re.fullmatch(r"[\w\-][\w\-. ]*\.safetensors", file, re.ASCII):
        raise ValueError(
            f"{index} names the file {file[:80]!r}; shards are files of the same folder that end in "
            ".safetensors, with letters, digits, '-', '_' and '.' in their names"
        )


def _instead(folder: pathlib.Path) -> str:
    """What is there in their place, and what to do about it."""
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    for name in files:
        if name.endswith(_PICKLES):
            return (
                f", only {name}: a pickle, which may run code as it is read, and is not read here. If "
                "you trust it, AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other) of the "
                "package transformers makes safetensors of it"
            )
    if others := [name for name in files if name.endswith(".safetensors")]:
        return f", but {', '.join(others[:4])}; rename the one that is the whole model to {WHOLE}"
    for name in files:
        if name.endswith(_OTHERS):
            how = "jaxpref convert" if name.endswith(".gguf") else "the tool that wrote it"
            return f", only {name}; convert it to safetensors with {how}"
    return "; fetch the folder again, its weights are missing"
