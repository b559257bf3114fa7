"""Low-rank adapters of the projections of a decoder (LoRA, arXiv:2106.09685)."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxpref import keys
from jaxpref.models.layers import Linear
from jaxpref.types import Params, PRNGKey

__all__ = ["LoRA", "add_adapters", "has_adapters", "merged", "with_dropout_keys"]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which projections of each block have an adapter, `y = x @ weight + scale * (x @ a) @ b`, and of what size.

    `a [inputs, rank]` is uniform in +-1 / sqrt(inputs), as PEFT 0.21 draws it, and `b [rank, outputs]` is 0, so
    that a new adapter changes nothing, exactly. Both are float32 or wider, whatever the base is.

    `alpha`: `scale` is alpha / rank, or alpha / sqrt(rank) where `rank_stabilised` (arXiv:2312.03732). The
      default, 32 at rank 16, is that of TRL 1.16's command line.
    `targets`: names of projections, such as `("query", "mlp.up")`, each a whole dotted name or the end of one;
      or a pattern that matches whole names (`re.fullmatch`), such as `attention.*`. A block has
      attention.query, .key, .value, .output and mlp.gate (where gated), .up, .down.
    `dropout`: share of the inputs of `a` that a training step sets to 0, the others growing by 1 / (1 - dropout).
    `ranks`, `alphas`: other ones for some projections, (pattern, value); the first pattern that matches a whole
      name counts.
    """

    rank: int = 16
    alpha: float = 32.0
    rank_stabilised: bool = False
    targets: str | tuple[str, ...] = ".*"
    dropout: float = 0.0
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        ranks = (self.rank, *(rank for _, rank in self.ranks))
        if min(ranks) < 1:
            raise ValueError(f"LoRA.rank: expected 1 or more, got {min(ranks)}")
        for alpha in (self.alpha, *(alpha for _, alpha in self.alphas)):
            if not 0 < alpha < float("inf"):
                raise ValueError(f"LoRA.alpha: expected a positive number, got {alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA.dropout: expected a share in [0, 1), got {self.dropout}")
        if not self.targets:
            raise ValueError("LoRA.targets: name at least one projection, such as 'attention.*'")
        given = (self.targets,) if isinstance(self.targets, str) else ()
        for pattern in (*given, *(p for p, _ in self.ranks), *(p for p, _ in self.alphas)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"LoRA: {pattern!r} is no pattern: {error}") from error

    def targets_name(self, name: str) -> bool:
        """Whether the projection of this dotted name has an adapter."""
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, name) is not None
        return any(name == target or name.endswith(f".{target}") for target in self.targets)

    def rank_of(self, name: str) -> int:
        return _first(self.ranks, name, self.rank)

    def scale_of(self, name: str) -> float:
        rank = self.rank_of(name)
        return _first(self.alphas, name, self.alpha) / (rank**0.5 if self.rank_stabilised else rank)


def _first(given: tuple[tuple[str, Any], ...], name: str, default: Any) -> Any:
    return next((value for pattern, value in given if re.fullmatch(pattern, name)), default)


def add_adapters(
    block: nnx.Module, lora: LoRA, key_of: Callable[[str], PRNGKey], *, dropping: bool = False
) -> None:
    """Adds adapters to the projections of a block. `key_of(name)` is the key that `a` is drawn with.

    `dropping`: each has a place for a key, with which it drops some of its inputs.

    Raises:
      ValueError: no projection has such a name.
    """
    names = []
    for name, linear in _projections(block):
        names.append(name)
        if lora.targets_name(name):
            linear.adapt(lora.rank_of(name), lora.scale_of(name), key_of(name))
            if dropping:
                linear.drop(lora.dropout, key_of(name))
    if isinstance(lora.targets, tuple):
        unknown = [t for t in lora.targets if not any(n == t or n.endswith(f".{t}") for n in names)]
    else:
        unknown = [] if any(map(lora.targets_name, names)) else [lora.targets]
    if unknown:
        raise ValueError(f"LoRA.targets: {unknown} names no projection; there are {', '.join(names)}")


def _projections(block: nnx.Module) -> Iterator[tuple[str, Linear]]:
    for path, module in nnx.iter_modules(block):
        if isinstance(module, Linear):
            yield ".".join(map(str, path)), module


def has_adapters(blocks: Params) -> bool:
    """Whether the weights of blocks have adapters: they may be left out where they are all of the tree."""
    return any(path[-1].key == "lora_a" for path, _ in jax.tree.leaves_with_path(blocks))


def merged(params: Params, lora: LoRA) -> Params:
    """Params of the plain model that equals the one with these adapters: `weight + scale * a @ b`.

    The sum is float32 (float64 for such arrays) and then rounded to the dtype of the weight, so a bfloat16 model
    loses what of the adapters is below 2^-9 of a weight. Host arrays stay on the host.
    """
    return {**params, "blocks": _merged(params["blocks"], lora)}


def _merged(tree: Params, lora: LoRA, path: tuple[str, ...] = ()) -> Params:
    if not isinstance(tree, Mapping):
        return tree
    if "lora_a" not in tree:
        return {name: _merged(value, lora, (*path, name)) for name, value in tree.items()}
    rest = {name: value for name, value in tree.items() if not name.startswith("lora_")}
    weight = rest["weight"] if isinstance(rest["weight"], jax.Array) else np.asarray(rest["weight"])
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    a, b = (tree[name].astype(wide) for name in ("lora_a", "lora_b"))
    changed = weight.astype(wide) + lora.scale_of(".".join(path)) * (a @ b)
    return rest | {"weight": changed.astype(weight.dtype)}


def with_dropout_keys(weights: Params, key: PRNGKey, path: tuple[str, ...] = ()) -> Params:
    """The weights of one block with a key beside each adapter, for a module with `add_adapters(dropping=True)`."""
    if not isinstance(weights, dict):
        return weights
    inner = {name: with_dropout_keys(value, key, (*path, name)) for name, value in weights.items()}
    return inner | {"lora_key": keys.fold(key, ".".join(path))} if "lora_a" in weights else inner
