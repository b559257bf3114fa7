"""Random keys by path (seed, stage, purpose, ...), so that no two uses share randomness by accident.

The tree of a run; `stage` is None for what belongs to no stage:

| stage | purpose | below it | where |
|---|---|---|---|
| None | init | name of an array or module, layer | `policy.init` |
| None | model | | `training.models.random_model` |
| None | samples | | `jaxpref sample` |
| None | tournament | player, batch | `evals.tournament` |
| None | evaluator | name, ... | what is the same at every evaluation: where episodes start |
| a name | data | | order of the records, on the host (`number`) |
| a name | start | | `Algorithm.init`: what a stage adds to the params it starts from |
| a name | step | step | `Algorithm.step` |
| a name | collect | step | `Algorithm.collect` |
| a name | evaluation | step, batch, "loss" or "collect" | a pass over held-out records |
| a name | evaluator | name, step, batch | what an evaluator draws |

Data sets and worlds that are made have seeds of their own, among their arguments, and are no part of this
tree.

A key that is passed on (to `init`, `step`, `sample`, a loss) belongs to the function that takes it, which
draws from it, splits it, or folds into it: one of the three, and no number twice.

*Why not `jax.random.fold_in` alone*: jax derives keys by encrypting a counter under the parent, so that
`fold_in(key, i)` is `split(key, n)[i]`. *Why these paths differ*: every part of a path folds twice, and its
first counter is at least 2^31: below 3 2^30 for a name (from its hash), 2^32 - 1 for an integer. Splits and
draws count from 0. So no name is an integer, and neither is a child of a split into at most 2^31. Counters
under one parent give different keys for certain, since the cipher is a permutation of them. Keys of
different parents, and the 62 bits of names' hashes, coincide as random numbers do: n keys have two equal
ones with probability below n^2 / 2^62.
"""

import hashlib
import itertools
import json
import operator
from typing import Any, Literal

import jax
from jaxtyping import Array, Int, Key

__all__ = ["SCHEME", "Purpose", "fold", "key", "number"]

SCHEME = 2  # kept with a run, which does not go on under another one: its data order and draws would change
_INTEGER = 2**32 - 1

Purpose = Literal[
    "init",
    "model",
    "samples",
    "tournament",
    "data",
    "start",
    "step",
    "collect",
    "evaluation",
    "evaluator",
]


def key(seed: int, stage: str | None, purpose: Purpose, *path: str | int | Int[Array, ""]) -> Key[Array, ""]:
    """The key at this place of the tree, the same on every process; `path` as in `fold`."""
    return fold(_named(jax.random.key(seed), (stage, purpose)), *path)


def fold(key: Key[Array, ""], *path: str | int | Int[Array, ""]) -> Key[Array, ""]:
    """A child of `key`, by names and by integers in [0, 2^32), which may be traced.

    Names that follow one another are one step: `fold(key, "a", "b")` is not `fold(fold(key, "a"), "b")`.

    Raises:
      ValueError: an integer is negative or too large (only those that are not traced are checked).
    """
    for names, parts in itertools.groupby(path, lambda part: isinstance(part, str)):
        if names:
            key = _named(key, tuple(parts))
        else:
            for part in parts:
                key = jax.random.fold_in(jax.random.fold_in(key, _INTEGER), _checked(part))
    return key


def number(seed: int, stage: str | None, purpose: Purpose, *path: str | int) -> int:
    """An integer in [0, 2^63) for this place of the tree: a seed for numpy or for a world on the host."""
    return int.from_bytes(_digest((int(seed), stage, purpose, *path))[:8], "big") >> 1


def _digest(path: tuple[str | int | None, ...]) -> bytes:
    # JSON, so that ("a", "b"), ("ab",) and (None, "b") are different texts; a hash that every process shares.
    return hashlib.sha256(json.dumps(path).encode()).digest()


def _named(key: Key[Array, ""], names: tuple[Any, ...]) -> Key[Array, ""]:
    digest = _digest(names)
    high, low = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
    return jax.random.fold_in(jax.random.fold_in(key, 2**31 + high // 4), low)


def _checked(part: Any) -> Any:
    if isinstance(part, jax.Array):
        return part
    if not 0 <= operator.index(part) < 2**32:
        raise ValueError(f"keys: {part} in a path is not in [0, 2^32); count from 0")
    return part
