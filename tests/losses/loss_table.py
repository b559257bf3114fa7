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


LOG2 = np.log(2)
NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})

ROWS = (
    # A link of the difference of log-ratios.
    Row(losses.dpo, NO_BETA, at_equality=LOG2),
    Row(losses.cdpo, (*NO_BETA, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}), at_equality=LOG2),
    Row(losses.robust_dpo, (*NO_BETA, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}), at_equality=LOG2),
    Row(losses.ipo, ({"tau": 0.0},), at_equality=25.0),
    Row(losses.rso_hinge, NO_BETA, at_equality=1.0),
    Row(
        losses.exo,
        (*NO_BETA, {"label_smoothing": 0.0}, {"label_smoothing": 0.5}),
        at_equality=np.log(0.5) - 0.5 * np.log(0.999 * 0.001),
    ),
    Row(losses.discopop, (*NO_BETA, {"temperature": 0.0}, {"temperature": 1.0}), at_equality=LOG2 / 2 + 0.5),
    # Lengths.
    Row(losses.ipo_mean, ({"tau": 0.0},), at_equality=25.0),
    Row(losses.ln_dpo, NO_BETA, at_equality=LOG2),
    Row(losses.simpo, ({"beta": 0.0}, {"gamma_beta_ratio": -1.0}), at_equality=np.log1p(np.exp(0.5))),
    Row(losses.length_dpo, (*NO_BETA, {"alpha": -0.1}), at_equality=LOG2),
    Row(losses.mipo, NO_BETA, at_equality=np.log(3)),
    # Divergences.
    Row(losses.forward_kl_dpo, NO_BETA, at_equality=LOG2),
    Row(losses.js_dpo, NO_BETA, at_equality=LOG2),
    Row(losses.alpha_dpo, (*NO_BETA, {"alpha": 0.0}, {"alpha": 1.0}), at_equality=LOG2),
    Row(losses.chi_po, (*NO_BETA, {"clip": 0.0}), at_equality=LOG2),
    # No reference.
    Row(losses.slic_hf, ({"delta": 0.0}, {"sft_weight": -1.0}), at_equality=0.9),
    Row(losses.cpo, (*NO_BETA, {"sft_weight": -1.0}), at_equality=LOG2 - 1),
    Row(losses.orpo, ({"odds_weight": -1.0},), at_equality=0.1 * LOG2 - 1),
    # Moved margins and added terms.
    Row(losses.dpop, (*NO_BETA, {"penalty": -1.0}), at_equality=LOG2),
    Row(losses.flex_dpo, ({"beta_chosen": 0.0}, {"beta_rejected": 0.0}), at_equality=LOG2),
    Row(losses.cal_dpo, NO_BETA, at_equality=LOG2 + 500**2),
    Row(losses.dpo_sft, (*NO_BETA, {"sft_weight": -1.0}), at_equality=LOG2 - 5e-5),
    Row(losses.iterative_rpo, (*NO_BETA, {"sft_weight": -1.0}), at_equality=LOG2 - 1),
    # Each reward by itself.
    Row(losses.nca, NO_BETA, at_equality=2 * LOG2),
    Row(losses.bco_pair, NO_BETA, at_equality=2 * LOG2),
    Row(losses.apo_zero, NO_BETA, at_equality=1.0),
    Row(losses.apo_down, NO_BETA, at_equality=1.0),
    Row(losses.sppo_hard, NO_BETA, at_equality=500**2),
    # Likelihood and rewards.
    Row(losses.sft),
    Row(losses.bradley_terry, at_equality=LOG2),
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
