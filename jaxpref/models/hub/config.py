"""`config.json` and `generation_config.json` of a model folder."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.families import FAMILIES
from jaxpref.models.hub.family import SCORE, Family
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.folder import INDEX, WHOLE, open_folder
from jaxpref.models.hub.lazy import LazyArray
from jaxpref.models.hub.safetensors import load_json

__all__ = [
    "Described",
    "described",
    "hf_end_ids",
    "hf_outputs",
    "hf_sizes",
    "of_config",
    "read_json",
    "sized",
]

CONFIG, GENERATION = "config.json", "generation_config.json"
_LARGEST = 10_000_000  # bytes of a configuration
_ROWS = 4096  # of two heads that are compared at a time


class Described(NamedTuple):
    """What a folder says of its model; `tensors` by the names of the family's table, None without weights.

    `outputs`: scores that its head gives, 0 for a language model.
    """

    family: Family
    sizes: TransformerSizes
    outputs: int
    config: dict[str, Any]
    tensors: Mapping[str, LazyArray] | None


def hf_sizes(
    path: str | os.PathLike[str],
    *,
    vocab: int | None = None,
    long_context: bool = False,
    ignore: Sequence[str] = (),
) -> TransformerSizes:
    """Sizes of the model in a folder of the hub.

    Families: those of `families.FAMILIES`, in the forms of transformers 4 and 5. Every field that can change
    the computation is read, or is an error; fields without effect are known by name.

    Args:
      vocab: rows of the embedding, if another number than the file has (see `hf_weights`).
      long_context: take the long factors of longrope (Phi-3), which transformers switches to as soon as a
        sequence is longer than the original context; here it is one or the other for a model, and with the
        short ones longer sequences are refused.
      ignore: fields that are not known here and, as you know, change nothing.

    Returns:
      What `Transformer` takes. `tied` is what the weights say, where there are any: the head in the file wins
      over a flag that says otherwise, as in transformers 5, and the log says so.

    Raises:
      ValueError: the folder has no configuration, of another family, or with a field of another computation.
    """
    return sized(described(path, long_context=long_context, ignore=ignore).sizes, vocab)


def sized(sizes: TransformerSizes, vocab: int | None) -> TransformerSizes:
    """The same with another number of rows of the embedding."""
    return sizes if vocab is None else dataclasses.replace(sizes, vocab=vocab)


def hf_outputs(path: str | os.PathLike[str], *, ignore: Sequence[str] = ()) -> int:
    """Scores that the head of a reward model gives (`transformer(outputs=)`); 0 for a language model.

    Reward models are folders of the architecture `...ForSequenceClassification`: a linear head without bias
    over the last token, which is what `Transformer(outputs=)` has. Their sizes are tied, since they have no
    language head. *Differs from* transformers in which token is the last one: there the last that is not
    `pad_token_id`, here the last that is scored.

    Raises:
      ValueError: as `hf_sizes`; or the folder has no such head.
    """
    return described(path, ignore=ignore).outputs


def hf_end_ids(path: str | os.PathLike[str], *also: int) -> tuple[int, ...]:
    """Ids that end a response: `eos_token_id` of generation_config.json, else of config.json.

    Args:
      also: ids that do, whatever the files say, such as the end of a turn in a chat template
        (`data.reply_end`), which the files of base models do not name.

    Raises:
      ValueError: neither file has one, or it is no id.
    """
    folder = pathlib.Path(path)
    for name in (GENERATION, CONFIG):
        file = folder / name
        if not file.is_file():
            continue
        given = read_json(file).get("eos_token_id")
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if not all(type(one) is int and one >= 0 for one in ids):
            raise ValueError(f"{file}: eos_token_id={given!r}: expected an id or a list of ids")
        if ids:
            return tuple(dict.fromkeys((*ids, *also)))
    if also:
        return tuple(dict.fromkeys(also))
    raise ValueError(
        f"{folder}: no eos_token_id in {GENERATION} or {CONFIG}; say yourself what ends a response"
    )


def described(
    path: str | os.PathLike[str], *, long_context: bool = False, ignore: Sequence[str] = ()
) -> Described:
    """Family, sizes and tensors of a folder, all but the weights read and checked against one another."""
    folder = pathlib.Path(path)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: no {CONFIG}; expected a model folder of the hub")
    config = read_json(folder / CONFIG)
    family, fields = of_config(config, str(folder / CONFIG), ignore)
    sizes = family.read(fields, long_context) if family.long else family.read(fields)
    if long_context and (sizes.rope_scaling is None or sizes.rope_scaling.kind != "longrope"):
        raise ValueError(f"{folder}: long_context is for rotations of the kind longrope, which it has not")
    fields.finish()
    scores = config.get("architectures") == [family.scorer]
    if scores:  # there is no language head, so none that could differ from the embedding
        sizes = dataclasses.replace(sizes, tied=True)
    if not ((folder / WHOLE).exists() or (folder / INDEX).exists()):
        return Described(family, sizes, 0, config, None)
    tensors = _with_prefix(family, open_folder(folder))
    if scores:
        return Described(family, sizes, _outputs(tensors, folder), config, tensors)
    return Described(family, _tied(family, sizes, tensors, fields), 0, config, tensors)


def of_config(config: dict[str, Any], where: str, ignore: Sequence[str] = ()) -> tuple[Family, Fields]:
    """The family of a configuration, and its fields."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{where}: model_type={kind!r} is not read; those that are: {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    named = config.get("architectures") or [family.architecture]
    if named not in ([family.architecture], [family.scorer]):
        raise ValueError(
            f"{where}: architectures={named!r}: expected {family.architecture} or {family.scorer}; models "
            "with another head, or with none, compute another thing"
        )
    return family, Fields(config, where, ignore)


def read_json(file: pathlib.Path) -> dict[str, Any]:
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"{file}: {file.stat().st_size} bytes are no configuration")
    return load_json(file.read_bytes(), str(file))


def _with_prefix(family: Family, tensors: Mapping[str, LazyArray]) -> Mapping[str, LazyArray]:
    """Names as in the family's table: folders of the bare model (the released GPT-2) leave out the prefix."""
    if any(name.startswith(family.prefix) for name in tensors):
        return tensors
    heads = (family.head, SCORE.name)
    return {name if name in heads else family.prefix + name: x for name, x in tensors.items()}


def _outputs(tensors: Mapping[str, LazyArray], folder: pathlib.Path) -> int:
    if SCORE.name not in tensors or tensors[SCORE.name].ndim != 2:
        raise ValueError(f"{folder}: a model that scores, but no matrix {SCORE.name}; fetch it again")
    return len(tensors[SCORE.name])


def _tied(
    family: Family, sizes: TransformerSizes, tensors: Mapping[str, LazyArray], fields: Fields
) -> TransformerSizes:
    head = tensors.get(family.head)
    if not sizes.tied:
        if head is None:
            raise ValueError(
                f"{fields.where}: tie_word_embeddings is false, but the folder has no {family.head}; a head "
                "drawn at random is of no use, so fetch the folder again, or correct the flag"
            )
        return sizes
    table = family.name_of("embedding")
    if head is None or table not in tensors or _same(head, tensors[table]):
        return sizes
    fields.say(
        f"tie_word_embeddings is true, but {family.head} is another matrix than {table}; the file's head is "
        "used"
    )
    return dataclasses.replace(sizes, tied=False)


def _same(a: LazyArray, b: LazyArray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return all(
        np.array_equal(a[i : i + _ROWS].view(np.uint8), b[i : i + _ROWS].view(np.uint8))
        for i in range(0, len(a), _ROWS)
    )
