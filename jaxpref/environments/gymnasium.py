"""Worlds of gymnasium, behind one function: the only place that imports the package."""

import importlib
from typing import Any, Protocol

import numpy as np

__all__ = ["World", "gymnasium_world"]


class World(Protocol):
    """The part of gymnasium's `Env` that evaluators call; any object that has it may be used."""

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


def gymnasium_world(*, name: str) -> World:
    """`gymnasium.make(name)`, such as "Hopper-v5".

    Raises:
      ValueError: gymnasium is not installed, or has no world of this name.
    """
    try:
        gymnasium = importlib.import_module("gymnasium")
    except ImportError as error:
        raise ValueError(
            f"{name}: gymnasium is not installed; install the extra: pip install 'jaxpref[control]'"
        ) from error
    try:
        return gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"gymnasium cannot make {name!r}: {error}") from error
