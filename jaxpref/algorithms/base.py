"""What an algorithm is: pure functions of a state, in optax's sense. One host loop runs them all."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int

from jaxpref.metrics import Mean, Metrics, summed
from jaxpref.types import Completions, Params, PRNGKey, Segments

__all__ = ["Algorithm", "Model", "TrainState", "num_tokens"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of one-policy algorithms. Rules with more players define their own."""

    step: Int[Array, ""]  # optimizer updates done
    params: Params
    opt_state: optax.OptState
    bank: dict[str, Params] = dataclasses.field(default_factory=dict)  # other policies; see `algorithms.bank`
    loss_state: Any = None  # what a loss carries from step to step, if it does
    memory: Any = None  # records of earlier steps, where an algorithm keeps some


class Algorithm(NamedTuple):
    """`init` starts from policy params; `step` is pure, jittable and may donate its state.

    A state must have the fields `step` (int32 scalar) and `params` (the policy that is evaluated, saved and
    handed to the next stage); the loop never looks further. `collect`, where there is one, runs before
    `step` (and `evaluate`) on every batch, may touch the host, and returns what they eat, with metrics of its
    own. `models` loads params of other models that `init` takes as a second argument and keeps in the state.
    """

    init: Callable[..., Any]  # (params[, models]) -> state
    step: Callable[[Any, Any, PRNGKey], tuple[Any, Metrics]]
    evaluate: Callable[[Any, Any, PRNGKey], Metrics]  # the metrics of `step` with no update
    flops: Callable[[Any], float]  # model FLOPs of one step on such a batch, from shapes alone
    rewards: Callable[[Any, Any], Float[Array, "b k"]]  # implicit (or learned) rewards of a batch's responses
    collect: Callable[[Any, Any, PRNGKey], tuple[Any, Metrics]] | None = None
    models: Callable[[], dict[str, "Model"]] | None = None
    parts: int = 1  # equal parts of its rows that `step` takes a batch in, each of which devices split


class Model(NamedTuple):
    """A trained model from elsewhere: a judge, a critic, a stronger policy."""

    params: Params  # host arrays
    axes: Any  # logical axis names, as `Policy.axes()`


def num_tokens(batch: Completions | Segments) -> Mean:
    """Tokens of a batch (each prompt once, and the scored ones of its responses), or steps of segments."""
    return summed(batch.num_tokens)
