"""Constants of a run: arrays that are not trained, loaded once and laid out over the mesh."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpref.policies.base import Model
from jaxpref.training import sharding
from jaxpref.types import Params

__all__ = ["Loaded", "check_same", "fingerprint", "loaded"]


class Loaded(NamedTuple):
    """Params by name, and a fingerprint of each: all of them that a checkpoint holds."""

    params: dict[str, Params]
    fingerprints: dict[str, str]

    def __or__(self, other: "Loaded") -> "Loaded":
        return Loaded(self.params | other.params, self.fingerprints | other.fingerprints)


def loaded(models: Mapping[str, Model], mesh: jax.sharding.Mesh) -> Loaded:
    """Models on the mesh, each as its axes say."""
    shardings = {n: sharding.param_shardings(m.params, m.axes, mesh) for n, m in models.items()}
    params = {name: sharding.put_params(model.params, shardings[name]) for name, model in models.items()}
    return Loaded(params, {name: fingerprint(model.params) for name, model in models.items()})


def fingerprint(params: Any) -> str:
    """SHA-256 of names, types, shapes and values of arrays, one fetched after the other where they are spread
    over processes, all of which must then call this."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        array = np.ascontiguousarray(sharding.fetch(leaf) if spread else leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {np.shape(leaf)}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_same(directory: Any, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compares the fingerprints beside a checkpoint with those of the run that reads it.

    Raises:
      ValueError: some differ, or only one side has them.
    """
    differing = sorted(name for name in {*saved, *now} if saved.get(name) != now.get(name))
    if differing:
        raise ValueError(
            f"{directory}: the checkpoint was written beside other models of the names {differing} (their "
            "weights differ); give the run the ones it began with, or start in a new workdir"
        )
