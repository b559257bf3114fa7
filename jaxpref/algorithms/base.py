"""What an algorithm is: pure functions of a state, in optax's sense. One host loop runs them all."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int

from jaxpref.metrics import Mean, Metrics, summed
from jaxpref.policies.base import Model, whole
from jaxpref.types import Completions, Params, PRNGKey, Segments

__all__ = ["NONE", "Algorithm", "Constants", "Model", "TrainState", "num_tokens"]

Constants = Mapping[str, Params]  # what is not trained, by name
NONE: Constants = MappingProxyType({})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of algorithms that train one policy. Algorithms with several players define their own."""

    step: Int[Array, ""]  # optimizer updates done
    params: Params
    opt_state: optax.OptState
    # Other policies by name, that follow this one: see `algorithms.copies`.
    policies: dict[str, Params] = dataclasses.field(default_factory=dict)
    loss_state: Any = None  # what a loss carries from step to step, if it does
    memory: Any = None  # records of earlier steps, where an algorithm keeps some
    # What is not trained and not saved: judges and critics by name, and "policy": what the policy itself
    # adds to its params (`policies.base.whole`).
    constants: dict[str, Params] = dataclasses.field(default_factory=dict)

    @property
    def everyone(self) -> dict[str, Params]:
        """The params of every model by name, the trained policy among them."""
        own = {"policy": self.params} | self.policies
        others = {name: value for name, value in self.constants.items() if name != "policy"}
        return {name: whole(value, self.constants) for name, value in own.items()} | others


class Algorithm(NamedTuple):
    """`init` starts from policy params; `step` is pure, jittable and may donate its state.

    A state must have the fields `step` (int32 scalar) and `params` (the policy that is evaluated, saved and
    handed to the next stage); the loop never looks further. `collect`, where there is one, runs before
    `step` (and `evaluate`) on every batch, may touch the host, and returns the batch that they take, with
    metrics of its own. `constants` loads the params of models that are not trained. A state with such models
    has them in its field `constants`: the loop neither donates nor saves that field, only its fingerprint."""

    init: Callable[..., Any]  # (params, constants, key) -> state; both may be left out where there are none
    step: Callable[[Any, Any, PRNGKey], tuple[Any, Metrics]]
    evaluate: Callable[[Any, Any, PRNGKey], Metrics]  # the metrics of `step` with no update
    flops: Callable[[Any], float]  # model FLOPs of one step on such a batch, from shapes alone
    rewards: Callable[[Any, Any], Float[Array, "b k"]]  # implicit (or learned) rewards of a batch's responses
    collect: Callable[[Any, Any, PRNGKey], tuple[Any, Metrics]] | None = None
    constants: Callable[[], dict[str, Model]] | None = None
    parts: int = 1  # equal parts of its rows that `step` takes a batch in, each of which devices split
    recorded_reference: bool = (
        False  # it reads the column `reference_logps`, of the params a stage starts from
    )


def num_tokens(batch: Completions | Segments) -> Mean:
    """Tokens of a batch (each prompt once, and the scored ones of its responses), or steps of segments."""
    return summed(batch.num_tokens)
