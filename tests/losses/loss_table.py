"""One row per exported loss: what the conformance battery needs to know. A missing row fails a test."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from jaxpref import losses

__all__ = ["ROWS", "Row", "inputs_for"]


@dataclasses.dataclass(frozen=True)
class Row:
    loss: Callable[..., Any]
    bad_arguments: tuple[dict[str, Any], ...] = ()  # hyper-parameters that must raise ValueError
    # Value where chosen and rejected (and policy and reference) agree, at unit lengths.
    at_equality: float | None = None

    @property
    def name(self) -> str:
        return self.loss.__name__


ROWS = (
    Row(losses.dpo, ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")}), at_equality=np.log(2)),
    Row(
        losses.cdpo,
        ({"beta": 0.0}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}),
        at_equality=np.log(2),
    ),
    Row(losses.ipo, ({"tau": 0.0},), at_equality=25.0),
    Row(losses.ipo_mean, ({"tau": 0.0},), at_equality=25.0),
    Row(losses.simpo, ({"beta": 0.0}, {"gamma_beta_ratio": -1.0}), at_equality=np.log1p(np.exp(0.5))),
    Row(losses.sft),
    Row(losses.bradley_terry, at_equality=np.log(2)),
)


def _draw(name: str, rng: np.random.Generator, batch: int, scale: float) -> np.ndarray:
    if name.endswith("lengths"):
        return rng.integers(1, 20, batch)
    return rng.normal(-scale if name.endswith("logps") else 0.0, scale, batch)


def inputs_for(loss: Callable[..., Any], batch: int = 5, scale: float = 3.0, seed: int = 0) -> dict[str, Any]:
    """Random inputs of a loss by the names of its parameters without default."""
    import inspect

    rng = np.random.default_rng(seed)
    loss = loss.func if isinstance(loss, partial) else loss
    parameters = inspect.signature(loss).parameters.values()
    return {q.name: _draw(q.name, rng, batch, scale) for q in parameters if q.default is q.empty}
