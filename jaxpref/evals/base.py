"""What an evaluator is.

An evaluator is a function `(context, *, name, num_prompts, ...) -> Evaluation`. It runs when its stage
starts and ends, and every `evaluators_every` steps. `num_prompts` bounds its cost (`--smoke` lowers it).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxpref import keys
from jaxpref.evals.intervals import Estimate
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["Context", "Estimate", "Evaluation", "Picture", "TextSample"]


@dataclasses.dataclass(frozen=True)
class TextSample:
    id: str
    prompt: str
    response: str
    score: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture for the report as plain data, and its kind, a name in `report.pictures.KINDS`."""

    title: str
    kind: str
    data: Mapping[str, Any]  # as JSON has it


@dataclasses.dataclass(frozen=True)
class Evaluation:
    name: str
    metrics: dict[str, Estimate]
    samples: tuple[TextSample, ...] = ()
    pictures: tuple[Picture, ...] = ()


def _no_member(name: str) -> Params:
    raise ValueError(f"no params called {name!r} here: this evaluation knows only the policy it evaluates")


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator may use. `put` shards a host batch, `fetch` brings an array to every host.

    `member` gives other params by name: one of the other policies, "initial" (which the stage started from)
    or the name of an earlier stage (the params that it ended with). They come from a frozen copy in the state
    if it has one, else from weights and checkpoints, and are read only when asked for; a resumed run gets the
    same ones. An unknown name is a ValueError.
    """

    policy: Policy
    params: Params
    tokenizer: Any
    seed: int
    rewards: Callable[[Completions], Float[Array, "b k"]]  # the algorithm's (implicit) rewards
    put: Callable[[Any], Any]
    fetch: Callable[[Any], Any]
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit  # on the devices of the run
    rows_multiple: int = 1  # `put` refuses a batch whose rows are no multiple of this; see `rows`
    # Samples of this name when the stage began; at its beginning, the last ones of the stage before.
    baseline: Callable[[str], list[TextSample]] = lambda name: []
    member: Callable[[str], Params] = _no_member
    stage: str | None = None  # where this evaluation is: after `step` steps of that stage
    step: int = 0

    def rows(self, wanted: int) -> int:
        """Rows of a batch with room for `wanted`: the fewest that divide over the devices. No metric depends
        on the mesh, so evaluators pad batches instead of refusing them."""
        return -(-wanted // self.rows_multiple) * self.rows_multiple

    def key(self, name: str) -> PRNGKey:
        """The key of all samples of the evaluator of this name, different at each step of each stage: samples
        of two evaluations are independent, so one may be judged against the other."""
        return keys.key(self.seed, self.stage, "evaluator", name, self.step)
