"""Adapters written as PEFT reads them: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import math
import os
import pathlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.config import CONFIG as MODEL_CONFIG
from jaxpref.models.hub.config import read_json
from jaxpref.models.hub.export import family_of
from jaxpref.models.hub.family import SCORE, Family
from jaxpref.models.hub.lazy import wrapped
from jaxpref.models.hub.peft import PREFIX, projection
from jaxpref.models.hub.peft_config import CONFIG, TENSORS
from jaxpref.models.hub.safetensors import write_file
from jaxpref.models.hub.tensors import Tensor, leaf
from jaxpref.models.hub.weights import file_tensors, halves, rows_of
from jaxpref.models.hub.writing import whole_folder
from jaxpref.models.lora import LoRA
from jaxpref.trees import flat, nested
from jaxpref.types import Params

__all__ = ["write_adapter"]

_TIED = "embed_tokens"  # of `EMBEDDING_LAYER_NAMES` in PEFT 0.21.2, what `ensure_weight_tying` looks for


def write_adapter(
    params: Params,
    lora: LoRA,
    sizes: TransformerSizes,
    directory: str | os.PathLike[str],
    *,
    trained: Collection[str] = (),
    like: str | os.PathLike[str] | None = None,
    family: str | None = None,
    base_name: str | None = None,
) -> None:
    """Writes the adapters, the head and what else was trained, whole or not at all; PEFT 0.21 reads it.

    Adapters of projections that are one module in the family's files (`qkv_proj`, `c_attn`,
    `query_key_value`) become one of the sum of their ranks, whose `lora_B` is 0 where a part does not read
    another's `lora_A`; where they still have the same `lora_A`, as read, it is written once.

    Args:
      params: all of them, the base among them (`policies.base.whole`).
      trained: dotted names of base weights that were trained; their modules go to `modules_to_save`.
      like: the folder of the base, for its family and (without `base_name`) as the name of the base.
      family: as in `write_folder`.
      base_name: what `base_model_name_or_path` says.

    Raises:
      ValueError: no family computes what `sizes` describe; a projection has an adapter and trained weights;
        the embedding was trained, is the head, too, and PEFT would part them (GPT-2); the directory is taken.
    """
    source = {} if like is None else read_json(pathlib.Path(like) / MODEL_CONFIG)
    writing = _Writing(flat(params), lora, sizes, family_of(sizes, source, family))
    modules = list(writing.modules())
    saved = writing.saved(set(trained), {module.name for module in modules})
    tensors = {f"{PREFIX}{m.name}.lora_{k}.weight": x for m in modules for k, x in (("A", m.a), ("B", m.b))}
    tensors |= {PREFIX + name: x for name, x in (saved.biases | saved.whole).items()}
    name = base_name if base_name is not None or like is None else os.fspath(like)
    config = _config(modules, lora, writing.family, saved) | {"base_model_name_or_path": name}
    with whole_folder(directory) as partial:
        write_file(partial / TENSORS, {name: wrapped(x) for name, x in tensors.items()})
        (partial / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class _Module(NamedTuple):
    """A LoRA as PEFT has it."""

    name: str
    short: str  # without what is before the layer's number, and the number
    a: np.ndarray  # [rank, inputs]
    b: np.ndarray  # [outputs, rank]
    scale: float


class _Saved(NamedTuple):
    biases: dict[str, Any]
    whole: dict[str, Any]  # of modules that are saved whole, and the head
    modules: set[str]  # their names, without what is before the layer's number
    bias: str  # the field that says which biases
    tied: bool  # whether an embedding is saved that is the head, too


class _Writing(NamedTuple):
    leaves: dict[str, Any]  # of params
    lora: LoRA
    sizes: TransformerSizes
    family: Family

    def modules(self) -> Iterator[_Module]:
        rows = [row for row in rows_of(self.family, self.sizes) if self._adapted(row)]
        for i in range(self.sizes.layers):
            for row in rows:
                name = row.name.removesuffix(".weight")
                yield _Module(name.format(i), name.partition("{}.")[2], *self._factors(row, i))

    def _adapted(self, row: Tensor) -> list[str]:
        """Its projections that have an adapter."""
        names = [projection(name) for name in row.leaves if name.endswith(".weight")]
        return [name for name in names if f"blocks.{name}.lora_a" in self.leaves]

    def _factors(self, row: Tensor, layer: int) -> tuple[np.ndarray, np.ndarray, float]:
        """`lora_A`, `lora_B` and the scale of a module of a layer."""
        widths = [self.leaves[name].shape[-1] for name in row.leaves]
        outputs = row.rows(self.sizes) if row.rows is not None else (np.arange(widths[0]),)
        parts = {projection(name): rows for name, rows in zip(row.leaves, outputs, strict=True)}
        names = self._adapted(row)
        firsts = [self._array(f"blocks.{name}.lora_a", layer).T for name in names]
        seconds = [self._array(f"blocks.{name}.lora_b", layer).T for name in names]
        scales = [self.lora.scale_of(name) for name in names]
        shared = all(np.array_equal(firsts[0], first) for first in firsts)
        a = firsts[0] if shared else np.concatenate(firsts)
        b = np.zeros((sum(widths), len(a)), np.float32)
        begin = 0
        for name, second, scale in zip(names, seconds, scales, strict=True):
            columns = slice(begin, begin + second.shape[1])
            b[parts[name], columns] = second if scale == scales[0] else second * np.float32(scale / scales[0])
            begin += 0 if shared else second.shape[1]
        return a, b, scales[0]

    def _array(self, name: str, layer: int) -> np.ndarray:
        array = self.leaves[name]
        turned = name.endswith(("query.lora_b", "key.lora_b")) and self.sizes.rope_style == "interleaved"
        return np.asarray(leaf(halves(array, self.sizes) if turned else array, layer), np.float32)

    def saved(self, trained: set[str], adapted: set[str]) -> _Saved:
        """Tensors of what was trained beside the adapters, under the names of the file."""
        if unknown := sorted(trained - self.leaves.keys()):
            raise ValueError(f"write_adapter.trained: there is no {unknown[0]} among the params")
        rows = {name: row for row in rows_of(self.family, self.sizes) for name in row.names(self.sizes)}
        every = bool(trained) and {name for name in self.leaves if name.endswith(".bias")} <= trained
        alone = {  # biases that PEFT saves as such
            name
            for name, row in rows.items()
            if name.endswith(".bias")
            and (every or (name.removesuffix(".bias") in adapted and trained & set(row.leaves)))
        }
        touched = [n for n, row in rows.items() if n not in alone and trained & set(row.leaves)]
        modules = {name.rpartition(".")[0] for name in touched}
        if both := sorted(modules & adapted):
            raise ValueError(
                f"write_adapter: {both[0]} has an adapter, and its weight was trained, too, which PEFT "
                "cannot say; write it merged (`merged`, `write_folder`)"
            )
        base = {name: x for name, x in self.leaves.items() if name != "head" and "lora_" not in name}
        tensors = dict(file_tensors(self.family, nested(base), self.sizes)) if alone | modules else {}
        whole = {name: x for name, x in tensors.items() if name.rpartition(".")[0] in modules}
        if "head" in self.leaves:
            whole[SCORE.name] = SCORE.written(self.sizes, [wrapped(self.leaves["head"])])
        biases = {
            name.replace(".bias", ".base_layer.bias") if name.removesuffix(".bias") in adapted else name: x
            for name, x in tensors.items()
            if name in alone
        }
        names = {rows[name].name if name in rows else name for name in whole}
        short = {name.rpartition(".")[0].partition("{}.")[2] or name.rpartition(".")[0] for name in names}
        tied = self.sizes.tied and "embedding" in trained and "head" not in self.leaves
        if tied:
            whole[self.family.head] = whole[self._table()]
        return _Saved(biases, whole, short, "none" if not alone else "all" if every else "lora_only", tied)

    def _table(self) -> str:
        """The tensor of an embedding that PEFT knows to be the head, too."""
        name = self.family.name_of("embedding")
        if not name.endswith(f".{_TIED}.weight"):
            raise ValueError(
                f"write_adapter: {name} was trained and is the head, too; PEFT keeps an embedding and its "
                f"head the same only where it is called {_TIED}, and would load the old head; write it "
                "merged (`merged`, `write_folder`)"
            )
        return name


def _config(modules: Sequence[_Module], lora: LoRA, family: Family, saved: _Saved) -> dict[str, Any]:
    """The fields that all versions of PEFT with rank-stabilised adapters know."""
    names = _shortest(modules, family)
    ranks = {names[m.short]: len(m.a) for m in modules}
    alphas = {
        names[m.short]: m.scale * (math.sqrt(len(m.a)) if lora.rank_stabilised else len(m.a)) for m in modules
    }
    rank, alpha = (Counter(given.values()).most_common(1)[0][0] for given in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if SCORE.name in saved.whole else "CAUSAL_LM",
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rank_stabilised,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: _plain(x) for name, x in alphas.items() if x != alpha},
        "target_modules": sorted(ranks),
        "modules_to_save": sorted(saved.modules) or None,
        "bias": saved.bias,
        "fan_in_fan_out": any(row.outputs_last and _is_projection(row) for row in family.tensors),
        "init_lora_weights": True,
        "inference_mode": True,
    } | ({"ensure_weight_tying": True} if saved.tied else {})


def _is_projection(row: Tensor) -> bool:
    return row.stacked and row.leaves[0].endswith(".weight")  # of norms it is a `scale`


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def _shortest(modules: Sequence[_Module], family: Family) -> dict[str, str]:
    """Names that PEFT finds these modules by, and no others: their last part, where no other ends so."""
    every = {row.name.rpartition(".")[0].partition("{}.")[2] for row in family.tensors if row.stacked}
    names = {}
    for short in {m.short for m in modules}:
        last = short.rpartition(".")[2]
        alone = sum(name == last or name.endswith(f".{last}") for name in every) == 1
        names[short] = last if alone else short
    return names
