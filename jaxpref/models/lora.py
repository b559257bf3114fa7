"""Low-rank adapters of the projections of a decoder (LoRA, arXiv:2106.09685): which, and in trees of params.

Needs no layers, which take half a second to import.
"""

import dataclasses
import re
from typing import Any

import jax

from jaxpref import keys
from jaxpref.trees import flat, nested
from jaxpref.types import Params, PRNGKey

__all__ = ["LoRA", "has_adapters", "with_dropout_keys", "without_adapters"]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which projections of a block have an adapter, `y = x @ weight + scale * (x @ a) @ b`, and of what size.

    `a [inputs, rank]` is uniform in +-1 / sqrt(inputs), as PEFT 0.21 draws it, and `b [rank, outputs]` is 0,
    so that a new adapter changes nothing, exactly. Both are float32 or wider, whatever the base is.

    Args:
      alpha: `scale` is alpha / rank, or with `rank_stabilised` alpha / sqrt(rank) (arXiv:2312.03732). The
        default, 32 at rank 16, is that of TRL 1.16's command line.
      targets: names of projections, such as `("query", "mlp.up")`, each a dotted name or the end of one; or a
        pattern that matches whole names (`re.fullmatch`), such as `attention.*`. A block has
        attention.query, .key, .value, .output and mlp.gate (where it is gated), .up, .down.
      dropout: share of the inputs of `a` that a step of training sets to 0; the others grow by
        1 / (1 - dropout).
      ranks, alphas: those of some projections, as (pattern, value); the first pattern that matches a whole
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


def has_adapters(blocks: Params) -> bool:
    """Whether the weights of blocks have adapters: they may be left out where they are all of the tree."""
    return any(path[-1].key == "lora_a" for path, _ in jax.tree.leaves_with_path(blocks))


def without_adapters(params: Params) -> Params:
    """The same tree, with the adapters off.

    Raises:
      ValueError: there are none.
    """
    leaves = flat(params)
    rest = [name for name in leaves if not name.rpartition(".")[2].startswith("lora_")]
    if len(rest) == len(leaves):
        raise ValueError("these params have no adapters that could be off; see policies.adapted")
    return nested(leaves, rest)


def with_dropout_keys(weights: Params, key: PRNGKey, path: tuple[str, ...] = ()) -> Params:
    """The weights of one block with a key beside each adapter, as `add_adapters(dropping=True)` has them."""
    if not isinstance(weights, dict):
        return weights
    inner = {name: with_dropout_keys(value, key, (*path, name)) for name, value in weights.items()}
    return inner | {"lora_key": keys.fold(key, ".".join(path))} if "lora_a" in weights else inner
