"""Adapters of PEFT, read: `adapter_config.json` and `adapter_model.safetensors` above a model folder."""

import dataclasses
import os
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpref.models.hub.config import Described, described, read_json
from jaxpref.models.hub.family import SCORE
from jaxpref.models.hub.lazy import LazyArray
from jaxpref.models.hub.peft_config import CONFIG, TENSORS, PeftConfig, peft_config
from jaxpref.models.hub.safetensors import open_file
from jaxpref.models.hub.tensors import Tensor
from jaxpref.models.hub.weights import leaf_shapes, rows_of
from jaxpref.models.lora import LoRA
from jaxpref.trees import nested
from jaxpref.types import Params

__all__ = ["PREFIX", "PeftAdapter", "peft_adapter", "peft_weights", "projection"]

PREFIX = "base_model.model."
_LORA = re.compile(r"(.+)\.lora_(A|B)\.weight")


class PeftAdapter(NamedTuple):
    """What `adapted(lora=, train=)` and `Experiment.weights` take, and how many outputs its head has."""

    lora: LoRA
    train: str | None
    weights: Params
    outputs: int


def peft_weights(path: str | os.PathLike[str], *, base: str | os.PathLike[str]) -> Params:
    """`peft_adapter(path, base=base).weights`: for `Experiment.weights`."""
    return peft_adapter(path, base=base).weights


def peft_adapter(
    path: str | os.PathLike[str], *, base: str | os.PathLike[str], ignore: Sequence[str] = ()
) -> PeftAdapter:
    """The adapter in a folder of PEFT, for the model in the folder `base`; exactly, or not at all.

    Modules, ranks and scales may differ between layers: a projection has the largest rank of its layers, with
    zeros in the place of what others lack, and one scale, for which `lora_b` makes up where theirs is
    another. An adapter of a fused projection becomes one of each part, with the same `lora_a`. Weights that
    were trained whole (`modules_to_save`, biases) are params that `train` names, and the head of a sequence
    classifier, `score`, is the head of a policy with as many `outputs`. An embedding that was saved
    whole above a tied base must come with the same head (`ensure_weight_tying` of PEFT saves both).

    Args:
      base: folder of the model below: its configuration, and its weights, where the adapter replaces one
        layer of several that are one array here.
      ignore: fields of the configuration that are not known here and, as you know, change nothing.

    Raises:
      ValueError: another kind of adapter (DoRA and others, by the field that says so), one of
        embedding or head, one that unties these two, tensors that are missing, unknown or of other shapes
        than the model's.
    """
    folder = pathlib.Path(path)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder}: no {CONFIG}; expected a folder that PEFT saved an adapter in")
    if not (folder / TENSORS).is_file():
        raise ValueError(
            f"{folder}: no {TENSORS}; an adapter_model.bin is a pickle, which may run code and is not read: "
            "save it again with safe_serialization=True"
        )
    config = peft_config(read_json(folder / CONFIG), str(folder / CONFIG), ignore)
    return _Reading(config, described(base), open_file(folder / TENSORS), str(folder / TENSORS)).adapter()


class _Reading(NamedTuple):
    config: PeftConfig
    base: Described
    tensors: Mapping[str, LazyArray]
    where: str

    def adapter(self) -> PeftAdapter:
        modules = self._modules()
        factors, replaced = self._sorted(modules)
        lora, leaves = self._lora(factors)
        whole = self._replaced(self._tied(replaced))
        head = whole.get("head")
        trained = sorted(re.escape(name) for name in whole if name != "head")
        weights = nested(leaves | whole)
        return PeftAdapter(lora, "|".join(trained) or None, weights, 0 if head is None else head.shape[1])

    def _modules(self) -> dict[str, tuple[Tensor, int]]:
        """The row of the family's table, and the layer (else 0), of each tensor that the model has."""
        sizes = self.base.sizes
        rows = rows_of(self.base.family, sizes, outputs=1)
        return {
            row.name.format(i): (row, i) for row in rows for i in range(sizes.layers if row.stacked else 1)
        }

    def _sorted(self, modules: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, LazyArray]]:
        """Factors by module, and tensors that replace one of the base."""
        factors: dict[str, dict[str, Any]] = {}
        replaced = {}
        for name, array in self.tensors.items():
            if not name.startswith(PREFIX):
                raise ValueError(
                    f"{self.where}: {name}: names of an adapter of a causal model begin {PREFIX}"
                )
            inner = name.removeprefix(PREFIX)
            if match := _LORA.fullmatch(inner):
                factors.setdefault(match[1], {})[match[2]] = array
                continue
            inner = inner.replace(".base_layer.", ".")
            if inner not in modules and inner != self.base.family.head:
                raise ValueError(
                    f"{self.where}: {name} is no tensor of this {self.base.family.model_type} and no "
                    "factor of a LoRA on a projection; if PEFT reads it on this base, merge it there "
                    "(merge_and_unload)"
                )
            replaced[inner] = array
        for module, pair in factors.items():
            row = modules.get(f"{module}.weight", (None,))[0]
            if row is None or not row.leaves[0].startswith("blocks."):
                raise ValueError(
                    f"{self.where}: an adapter of {module}, which is no projection of a block: adapters of "
                    "embeddings and heads are not read; merge it with PEFT (merge_and_unload)"
                )
            if pair.keys() != {"A", "B"}:
                raise ValueError(f"{self.where}: {module} has only one of lora_A and lora_B; save it again")
        if not factors:
            raise ValueError(f"{self.where}: no factors of a LoRA")
        return factors, replaced

    def _tied(self, replaced: dict[str, LazyArray]) -> dict[str, LazyArray]:
        """Without a head that is the embedding once more, as PEFT saves it for `ensure_weight_tying`.

        Of a base whose embedding is its head, PEFT keeps the old one of the two that was not saved whole.
        """
        table, head = self.base.family.name_of("embedding"), self.base.family.head
        no_head = self.base.outputs or SCORE.name in replaced  # nothing but the embedding then
        if not self.base.sizes.tied or (head not in replaced and (no_head or table not in replaced)):
            return replaced
        if no_head or not {table, head} <= replaced.keys() or not _equal(replaced[table], replaced[head]):
            raise ValueError(
                f"{self.where}: {table} and {head} are one matrix in the base, and this adapter replaces "
                "one of them, or both by different ones; train it with ensure_weight_tying=True of PEFT, "
                "or merge it there (merge_and_unload)"
            )
        return {name: x for name, x in replaced.items() if name != head}

    def _lora(self, factors: Mapping[str, Any]) -> tuple[LoRA, dict[str, np.ndarray]]:
        """The settings, and `lora_a` and `lora_b` of each projection by name."""
        modules = self._modules()
        parts: dict[str, dict[int, _Factors]] = {}
        for module, pair in factors.items():
            row, layer = modules[f"{module}.weight"]
            for leaf, part in zip(row.leaves, self._parts(module, pair, row), strict=True):
                parts.setdefault(projection(leaf), {})[layer] = part
        stacks = {name: _stack(given, self.base.sizes.layers) for name, given in sorted(parts.items())}
        rank = Counter(stack.rank for stack in stacks.values()).most_common(1)[0][0]
        root = self.config.rank_stabilised
        others = {re.escape(name): stack.rank for name, stack in stacks.items() if stack.rank != rank}
        plain = LoRA(
            rank, self.config.alpha, root, tuple(stacks), self.config.dropout, ranks=tuple(others.items())
        )
        alphas = {
            re.escape(name): stack.scale * (stack.rank**0.5 if root else stack.rank)
            for name, stack in stacks.items()
            if stack.scale != plain.scale_of(name)
        }
        leaves = {f"blocks.{name}.lora_a": stack.a for name, stack in stacks.items()}
        leaves |= {f"blocks.{name}.lora_b": stack.b for name, stack in stacks.items()}
        return dataclasses.replace(plain, alphas=tuple(alphas.items())), leaves

    def _parts(self, module: str, pair: Mapping[str, LazyArray], row: Tensor) -> list["_Factors"]:
        """The factors of each projection in a module."""
        rank, scale = self.config.of(module)
        shape = row.shape(self.base.sizes, leaf_shapes(self.base.sizes))
        outputs, inputs = shape[::-1] if row.outputs_last else shape
        first, second = pair["A"], pair["B"]
        if (first.shape, second.shape) != ((rank, inputs), (outputs, rank)):
            raise ValueError(
                f"{self.where}: {module}: lora_A and lora_B are {list(first.shape)} and "
                f"{list(second.shape)}; at rank {rank} of {CONFIG} on this base: [{rank}, {inputs}] and "
                f"[{outputs}, {rank}]"
            )
        a, b = (np.asarray(x).astype(np.float32) for x in (first, second))
        rows = [slice(None)] if row.rows is None else row.rows(self.base.sizes)
        return [_Factors(a.T, b[i].T, scale) for i in rows]

    def _replaced(self, tensors: Mapping[str, LazyArray]) -> dict[str, Any]:
        """Arrays of params that some of these tensors are a part of; the rest of them is the base's."""
        sizes, leaves = self.base.sizes, {}
        shapes = leaf_shapes(sizes)
        for row in rows_of(self.base.family, sizes, outputs=1):
            names = row.names(sizes)
            if not set(names) & tensors.keys():
                continue
            arrays = [tensors[name] if name in tensors else self._of_base(name) for name in names]
            for name, array in zip(names, arrays, strict=True):
                if row is not SCORE and array.shape != (expected := row.shape(sizes, shapes)):
                    raise ValueError(
                        f"{self.where}: {name} is {list(array.shape)} and in the base {list(expected)}; "
                        "resize the base first"
                    )
            parts = [row.read(sizes, array) for array in arrays]
            for i, leaf in enumerate(row.leaves):
                of_layers = [np.asarray(part[i]) for part in parts]
                leaves[leaf] = np.stack(of_layers) if row.stacked else of_layers[0]
        return leaves

    def _of_base(self, name: str) -> LazyArray:
        if self.base.tensors is None:
            raise ValueError(
                f"{self.where} has no {name}, as it has of other layers, and nor has the base, which is "
                "without weights"
            )
        return self.base.tensors[name]


def _equal(first: LazyArray, second: LazyArray) -> bool:
    return first.shape == second.shape and np.array_equal(np.asarray(first), np.asarray(second))


def projection(leaf: str) -> str:
    """The name of a projection from that of its weight."""
    return leaf.removeprefix("blocks.").removesuffix(".weight")


class _Factors(NamedTuple):
    a: np.ndarray  # [inputs, rank]
    b: np.ndarray  # [rank, outputs]
    scale: float


class _Stack(NamedTuple):
    a: np.ndarray  # [layers, inputs, rank]
    b: np.ndarray
    rank: int
    scale: float


def _stack(given: Mapping[int, _Factors], layers: int) -> _Stack:
    """The factors of all layers in two arrays, at the largest rank and the commonest scale."""
    rank = max(len(part.b) for part in given.values())
    scale = Counter(part.scale for part in given.values()).most_common(1)[0][0]
    one = next(iter(given.values()))
    a = np.zeros((layers, len(one.a), rank), np.float32)
    b = np.zeros((layers, rank, one.b.shape[1]), np.float32)
    for layer, part in given.items():
        a[layer, :, : len(part.b)] = part.a
        b[layer, : len(part.b)] = part.b if part.scale == scale else part.b * np.float32(part.scale / scale)
    return _Stack(a, b, rank, scale)
