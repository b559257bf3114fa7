"""Binds a loss to a batch: a loss names its inputs, and this is where the names get their arrays.

A loss function's parameters without default are its inputs. Adding a loss therefore needs no change here
unless it needs a quantity that no other loss has needed.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float

from jaxpref.types import Completions

__all__ = ["PAIRWISE", "bind", "check_loss", "pairwise_inputs"]

PAIRWISE = {
    "chosen_logps": "policy log-prob of response 0, summed over scored tokens (nats) [b]",
    "rejected_logps": "the same of response 1 [b]",
    "reference_chosen_logps": "reference log-prob of response 0 (nats) [b]",
    "reference_rejected_logps": "the same of response 1 [b]",
    "chosen_lengths": "scored tokens of response 0 [b]",
    "rejected_lengths": "scored tokens of response 1 [b]",
}


def _name(loss: Callable[..., Any]) -> str:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", repr(loss))


def inputs_of(loss: Callable[..., Any]) -> list[str]:
    """Names of the parameters that have no default and are not bound yet."""
    parameters = inspect.signature(loss).parameters.values()
    return [q.name for q in parameters if q.default is q.empty and q.kind is not q.VAR_KEYWORD]


def check_loss(loss: Callable[..., Any], *, reference: str | None) -> None:
    """Raises ValueError, before anything runs, if `loss` cannot be fed by pairs and this reference."""
    wanted = inputs_of(loss)
    unknown = [n for n in wanted if n not in PAIRWISE]
    if unknown:
        raise ValueError(
            f"loss {_name(loss)}: unknown inputs {unknown}; pairs offer {sorted(PAIRWISE)} "
            "(an input is a parameter without default)"
        )
    needs_reference = any(n.startswith("reference") for n in wanted)
    if needs_reference and reference is None:
        raise ValueError(
            f"loss {_name(loss)} needs reference log-probs: set reference='initial' (frozen copy) or "
            "'batch' (a precomputed column)"
        )
    if not needs_reference and reference == "initial":
        raise ValueError(
            f"loss {_name(loss)} takes no reference: set reference=None (a frozen copy would cost memory "
            "and a forward pass for nothing)"
        )


def pairwise_inputs(
    logps: Float[Array, "b 2"], reference_logps: Float[Array, "b 2"] | None, batch: Completions
) -> dict[str, Array]:
    """The arrays behind `PAIRWISE`. Index order is the label: response 0 is the chosen one."""
    inputs = {
        "chosen_logps": logps[:, 0],
        "rejected_logps": logps[:, 1],
        "chosen_lengths": batch.lengths[:, 0],
        "rejected_lengths": batch.lengths[:, 1],
    }
    if reference_logps is not None:
        inputs["reference_chosen_logps"] = reference_logps[:, 0]
        inputs["reference_rejected_logps"] = reference_logps[:, 1]
    return inputs


def bind(loss: Callable[..., Any], inputs: Mapping[str, Array]) -> Array:
    """Calls `loss` with those of `inputs` that it names."""
    return loss(**{name: inputs[name] for name in inputs_of(loss)})
