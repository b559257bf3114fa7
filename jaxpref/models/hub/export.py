"""Params written as a folder that transformers 4 and 5, and this package, read."""

import dataclasses
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.config import CONFIG, GENERATION, of_config, read_json
from jaxpref.models.hub.families import FAMILIES
from jaxpref.models.hub.family import Family
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.folder import INDEX
from jaxpref.models.hub.weights import file_tensors
from jaxpref.models.hub.writing import SHARD_BYTES, whole_folder, write_tensors
from jaxpref.models.weights import check_shapes
from jaxpref.trees import flat
from jaxpref.types import Params

__all__ = ["family_of", "write_folder"]

_log = logging.getLogger("jaxpref.models")
_CONTEXT = 2048  # tokens that a configuration names where nothing says how many: what LlamaConfig has
# What goes with a model beside its weights and its configuration.
_CARRIED = (
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_TEMPLATES = "additional_chat_templates"


def write_folder(
    params: Params,
    sizes: TransformerSizes,
    directory: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    family: str | None = None,
    dtype: str | None = None,
    end_ids: Sequence[int] = (),
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes weights and `config.json`, in the forms of transformers 4 and 5 at once; whole or not at all.

    Args:
      params: of `Transformer(sizes)`, numpy, jax or lazy arrays; bases with adapters are merged before. With
        a head of scores they are written as a reward model (`hf_outputs`), without the language head.
      directory: a new or an empty folder.
      like: the folder that the model came from: what its configuration says besides sizes (token ids,
        dropout), tokenizer, templates and generation settings go with the weights.
      family: `model_type` to write; None: that of `like`, else the first of `families.FAMILIES` that computes
        what `sizes` describe.
      dtype: what floats are cast to; None keeps theirs.
      end_ids: ids that end a response, if `like` says none or others.
      max_shard_bytes: see `writing.write_tensors`.

    Raises:
      ValueError: no family, or not the one asked for, computes what `sizes` describe; params do not fit; the
        directory is taken.
    """
    outputs = params["head"].shape[1] if "head" in params else 0
    check_shapes(params, sizes, "write_folder", outputs)
    if outputs and not sizes.tied:
        params = {name: leaf for name, leaf in params.items() if name != "unembedding"}
        sizes = dataclasses.replace(sizes, tied=True)
    source = None if like is None else pathlib.Path(like)
    base = {} if source is None else read_json(source / CONFIG)
    kind = family_of(sizes, base, family)
    dtypes = sorted({str(jnp.dtype(x.dtype)) for x in flat(params).values()})
    config = _config(kind, sizes, base, dtype or (dtypes[0] if len(dtypes) == 1 else "float32"))
    if outputs:
        labels = [f"LABEL_{i}" for i in range(outputs)]
        config |= {"architectures": [kind.scorer], "num_labels": outputs}
        config |= {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    if end_ids:
        config["eos_token_id"] = list(end_ids) if len(end_ids) > 1 else end_ids[0]
    tensors = file_tensors(kind, params, sizes)
    if dtype is not None:
        tensors = ((name, x.astype(jnp.dtype(dtype))) for name, x in tensors)
    with whole_folder(directory) as partial:
        write_tensors(partial, tensors, max_shard_bytes=max_shard_bytes)
        _write_json(partial / CONFIG, config)
        if source is not None:
            _carry(source, partial, config["eos_token_id"] if end_ids else None)


def family_of(sizes: TransformerSizes, base: dict[str, Any], wanted: str | None = None) -> Family:
    """The family that is written: its fields, read again, must give the same sizes.

    Raises:
      ValueError: there is none, or it is not the one that is `wanted`.
    """
    wanted = wanted or base.get("model_type")
    if wanted is not None and wanted not in FAMILIES:
        raise ValueError(f"family={wanted!r}: expected one of {', '.join(FAMILIES)}")
    candidates = [FAMILIES[wanted]] if wanted else list(FAMILIES.values())
    differences = [_differences(family, sizes) for family in candidates]
    nearest = min(range(len(candidates)), key=lambda i: len(differences[i]))
    if not differences[nearest]:
        return candidates[nearest]
    what = f"a {wanted} does not compute" if wanted else f"no family of {', '.join(FAMILIES)} computes"
    less = f"a {candidates[nearest].model_type} lacks {', '.join(differences[nearest])}"
    raise ValueError(f"{what} what these sizes describe: {less}")


def _differences(family: Family, sizes: TransformerSizes) -> list[str]:
    """The fields of sizes that do not survive a configuration of the family."""
    wanted, fields = _canonical(sizes), [field.name for field in dataclasses.fields(sizes)]
    try:
        got = _read(family, Fields(_fields(family, sizes), family.model_type), sizes)
    except (ValueError, KeyError):  # not even sizes of its own
        return [f"{name}={getattr(sizes, name)!r}" for name in fields]
    return [f"{f}={getattr(sizes, f)!r}" for f in fields if getattr(got, f) != getattr(wanted, f)]


def _read(family: Family, fields: Fields, sizes: TransformerSizes) -> TransformerSizes:
    long = sizes.rope_scaling is not None and sizes.rope_scaling.long
    return family.read(fields, long) if family.long else family.read(fields)


def _canonical(sizes: TransformerSizes) -> TransformerSizes:
    """Without what a folder says another way: which coordinates pair up, and bounds that nothing needs."""
    length = sizes.max_length if sizes.learned_positions else None
    scale = None if sizes.query_scale == sizes.head_dim**-0.5 else sizes.query_scale
    return dataclasses.replace(sizes, rope_style="half", max_length=length, query_scale=scale)


def _fields(family: Family, sizes: TransformerSizes) -> dict[str, Any]:
    fields = family.write(sizes)
    if not sizes.learned_positions:
        scaling = sizes.rope_scaling
        stretched = 0 if scaling is None else round(scaling.original_length * scaling.factor)
        fields = {"max_position_embeddings": sizes.max_length or stretched or _CONTEXT} | fields
    return fields


def _config(family: Family, sizes: TransformerSizes, base: dict[str, Any], dtype: str) -> dict[str, Any]:
    """`base` with the fields of these sizes in both generations' forms, checked by reading it."""
    written = _fields(family, sizes)
    if "max_position_embeddings" in base and sizes.rope_scaling is None:
        written.pop("max_position_embeddings", None)  # the source knows; here it is a guess
    named = {"model_type": family.model_type, "architectures": [family.architecture]}
    # Where nothing says them: the ids in the defaults of a family's class are of its first release.
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = {**ids, **base, **written, **named, "dtype": dtype, "torch_dtype": dtype}
    config.pop("quantization_config", None)  # what is written are floats
    _, fields = of_config(config, "the configuration to be written")
    read = _read(family, fields, sizes)
    if read != _canonical(sizes):
        raise ValueError(f"the configuration to be written says {read}, and the model is {sizes}")
    return config


def _write_json(file: pathlib.Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _carry(source: pathlib.Path, target: pathlib.Path, end_ids: Any) -> None:
    """Copies what goes with the model, with other `end_ids` if there are any; what is left behind is said."""
    for name in _CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if end_ids is not None and (source / GENERATION).is_file():
        _write_json(target / GENERATION, read_json(source / GENERATION) | {"eos_token_id": end_ids})
    if (source / _TEMPLATES).is_dir():
        (target / _TEMPLATES).mkdir()
        for file in sorted((source / _TEMPLATES).glob("*.jinja")):
            shutil.copyfile(file, target / _TEMPLATES / file.name)
    known = {*_CARRIED, _TEMPLATES, CONFIG, INDEX}
    left = sorted(
        file.name
        for file in source.iterdir()
        if file.name not in known and file.suffix != ".safetensors" and not file.name.startswith(".")
    )
    if left:
        _log.info("%s: not carried along: %s", source, ", ".join(left))
