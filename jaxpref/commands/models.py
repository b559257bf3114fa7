"""Commands that write folders of the hub: of runs, and of files in other formats."""

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxpref.commands.opening import Options, load, say_changes
from jaxpref.commands.speaking import check_no_checkpoint, check_no_run, sources_of
from jaxpref.data import hf_tokenizer
from jaxpref.data.text.tokenizers import gguf_tokenizer_files, llama2c_tokenizer_files
from jaxpref.experiment import Experiment
from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.gguf import gguf_config, gguf_sizes, gguf_weights
from jaxpref.models.hub import hf_sizes, hf_weights, write_folder
from jaxpref.models.hub.folder import open_folder
from jaxpref.models.hub.lazy import LazyArray
from jaxpref.models.hub.peft_config import TENSORS
from jaxpref.models.hub.safetensors import open_file
from jaxpref.models.llama2c import llama2c_config, llama2c_sizes, llama2c_weights
from jaxpref.paths import AnyPath
from jaxpref.training.export import (
    SHARD_BYTES,
    export_adapter,
    export_params,
    exportable,
    passing_folder,
)
from jaxpref.training.params import trained_params
from jaxpref.training.run import open_run
from jaxpref.types import Params

__all__ = ["check_leaves_model", "convert", "export", "leave_model"]

_MARK = "jaxpref.json"  # in a folder that a run has left


def export(options: Options) -> int:
    experiment, workdir, _ = load(options)
    adapter = getattr(options, "adapter", False)
    for name in ("dtype", "shard_size"):
        if adapter and getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for whole models; adapters are written as they are, in one "
                "file: leave it out, or --adapter"
            )
    _check_free(options.to)
    run = open_run(experiment, workdir, other_base=options.other_base)
    say_changes(run)
    like = options.like or next(iter(sources_of(experiment)), None)
    if like is None:
        lacks = "they do not say which base is theirs" if adapter else "no tokenizer goes with it"
        run.files.log(f"it came from no folder of the hub, so {lacks}; --like DIR names one")
    elif run.tokenizer is not None and not adapter:
        _say_other_tokenizer(run.tokenizer, like, run.files.log)
    params = trained_params(run, stage=options.stage, step=options.step)
    started = time.monotonic()
    if adapter:
        export_adapter(run, params, options.to, like=like)
        _say_written(options.to, open_file(pathlib.Path(options.to) / TENSORS), time.monotonic() - started)
        return 0
    export_params(
        run,
        params,
        options.to,
        like=like,
        dtype=options.dtype,
        max_shard_bytes=options.shard_size or SHARD_BYTES,
    )
    _say_model_written(options.to, time.monotonic() - started)
    return 0


def leave_model(experiment: Experiment, workdir: AnyPath) -> None:
    """Writes what a run that started from a folder of the hub has trained as such a folder, `WORKDIR/model`.

    A reward model, a store other than this machine's disk and several processes leave none, which is said.
    What an earlier end of the same run left there is replaced once the new one is whole; nothing else is.
    """
    source = next(iter(sources_of(experiment)), None)
    if source is None or jax.process_index() > 0:
        return
    if jax.process_count() > 1 or not isinstance(workdir, pathlib.Path):
        print("model: `jaxpref export` writes it as a folder, by one process and to a local disk")
        return
    run = open_run(experiment, workdir, log=lambda _: None)
    if not exportable(run):
        print(
            "model: none, since it is a reward model; `jaxpref export --adapter` writes its adapters and head"
        )
        return
    target, made, old = (workdir / name for name in ("model", ".model.jaxpref-new", ".model.jaxpref-old"))
    if os.path.lexists(target) and not (target / _MARK).is_file():
        print(f"model: {target} is there and not of a run; `jaxpref export --to` writes it elsewhere")
        return
    for left in (made, old):  # of an end that was killed
        if left.exists():
            shutil.rmtree(left)
    export_params(run, trained_params(run), made, like=source)
    (made / _MARK).write_text(json.dumps({"experiment": experiment.name}) + "\n", encoding="utf-8")
    if target.exists():
        target.rename(old)
    made.rename(target)
    if old.exists():
        shutil.rmtree(old)
    print(f"model: {target}")


def check_leaves_model(experiment: Experiment, workdir: AnyPath) -> None:
    """Raises ValueError, before anything is trained, where the model would lie on what it is made of."""
    if not isinstance(workdir, pathlib.Path):
        return
    target = (workdir / "model").resolve()
    for source in sources_of(experiment):
        if target in (pathlib.Path(source).resolve(), *pathlib.Path(source).resolve().parents):
            raise ValueError(
                f"this run starts from the model in {source}, where the trained one would be written; give "
                "another workdir=, or --no-export"
            )


def convert(options: Options) -> int:
    if options.file.partition(":")[0].endswith(".py"):
        return export(options)
    check_no_checkpoint(options)
    if options.tokenizer and not (options.file.endswith(".bin") and options.like is None):
        raise ValueError("--tokenizer is the file of a llama2.c checkpoint (.bin), without --like")
    if options.overrides:
        raise ValueError(f"{options.overrides[0]} is for runs (an experiment file); {options.file} is none")
    _check_free(options.to)
    started = time.monotonic()
    with _model_of(pathlib.Path(options.file), options) as model:
        write_folder(
            model.params,
            model.sizes,
            options.to,
            like=model.like,
            dtype=options.dtype,
            max_shard_bytes=options.shard_size or SHARD_BYTES,
        )
    _say_model_written(options.to, time.monotonic() - started)
    return 0


class _Model(NamedTuple):
    sizes: TransformerSizes
    params: Params
    like: str | os.PathLike[str] | None  # what goes with the weights


@contextlib.contextmanager
def _model_of(source: pathlib.Path, options: Options) -> Iterator[_Model]:
    """The model in a file or a folder, by what it is."""
    like = options.like
    if source.is_dir():
        check_no_run(options.file)
        if (source / "adapter_config.json").is_file() and not (source / "config.json").is_file():
            raise ValueError(
                f"{source} holds adapters without their base; `jaxpref export` of their run, without "
                "--adapter, writes the model"
            )
        yield _Model(hf_sizes(source), hf_weights(source), like or source)
        return
    if not source.is_file():
        raise ValueError(
            f"{source}: no such file or folder; give a folder of the hub, a GGUF or llama2.c file"
        )
    with open(source, "rb") as file:
        start = file.read(4)
    if start == b"GGUF":
        files = gguf_tokenizer_files(str(source)) if like is None else {}
        config = gguf_config(source)
        with passing_folder(files, config) as made:
            yield _Model(gguf_sizes(source), gguf_weights(source, lazy=True), like or made)
    elif source.suffix == ".bin" and start[:2] != b"PK" and start[:1] != b"\x80":  # neither kind of pickle
        files = llama2c_tokenizer_files(options.tokenizer) if options.tokenizer else {}
        with passing_folder(files, llama2c_config(source)) as made:
            yield _Model(llama2c_sizes(source), llama2c_weights(source), like or made)
    else:
        raise ValueError(
            f"{source}: no GGUF file, no llama2.c checkpoint and no experiment file; of safetensors, give "
            "the folder that has their config.json too; pickles are not read, since they may run code"
        )


def _check_free(target: str) -> None:
    """Before hours of reading; what writes looks again."""
    path = pathlib.Path(target)
    if not target.strip():
        raise ValueError("--to names no folder; give one, such as --to models/mine")
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--to {target}: there already; nothing is written over, choose another folder")


def _say_other_tokenizer(tokenizer: Any, like: str, say: Callable[[str], None]) -> None:
    if not (pathlib.Path(like) / "tokenizer.json").is_file():
        say(f"{like} has no tokenizer.json, so no tokenizer goes with the model")
    elif hf_tokenizer(like).fingerprint != tokenizer.fingerprint:
        say(
            f"the tokenizer of {like} goes with the model; the run was trained with another one, or with "
            "others of its tokens as BOS, EOS and padding"
        )


def _say_model_written(target: str, seconds: float) -> None:
    check = f"; `jaxpref check-model {target}` checks it"
    _say_written(target, open_folder(target), seconds, check)


def _say_written(target: str, tensors: Mapping[str, LazyArray], seconds: float, more: str = "") -> None:
    count, size = (sum(getattr(x, name) for x in tensors.values()) for name in ("size", "nbytes"))
    files = len(list(pathlib.Path(target).glob("*.safetensors")))
    if jax.process_index() == 0:
        print(
            f"wrote {target}: {len(tensors)} tensors, {count:,} parameters, {size / 1e6:,.1f} MB in {files} "
            f"file{'s' * (files != 1)}, {seconds:.1f} s{more}"
        )
