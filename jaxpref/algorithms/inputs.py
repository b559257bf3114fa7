"""Binds a loss to a batch: a loss names its inputs, and this is where the names get their arrays.

A loss function's parameters without default are its inputs. A name is a quantity of `QUANTITIES` (or of the
policy's own, `Policy.offers`), a column of the records, or one of these with a prefix: `chosen_`, `rejected_`
and the other names in `SIDES` (response 0, 1 or 2), `sampled_` (responses 2 and on, the policy's own beside a
recorded pair), and `reference_` for the same under the reference policy. Adding a loss therefore needs no
change here unless it needs a quantity that no other loss has needed.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.kernels.token_logps import KL, STATISTICS
from jaxpref.policies.base import Policy, no_log_probs
from jaxpref.types import Completions

__all__ = [
    "QUANTITIES",
    "SIDES",
    "Input",
    "bind",
    "check_loss",
    "call_loss",
    "inputs_of",
    "loss_name",
    "recorded",
    "row_weights",
]

SAMPLED = "sampled"  # prefix of responses 2 and on, [b, s]
SIDES = {
    "chosen": 0,
    "expert": 0,
    "rejected": 1,
    "learner": 1,
    "rationale": 2,
    "corrupted": 2,
    "retrieved": 2,
}

TOKEN_QUANTITIES = ("token_logps", *STATISTICS)
_LOG_PROBS = ("logps", "token_logps", "mismatched_logps")
HEAD_QUANTITIES = ("rewards", "embeddings", "values")
_RECORDED = ("lengths", "mask", "where", "valid", "preferences", "pair_preferences")  # of any batch
QUANTITIES = {
    "logps": "log-prob of a response, summed over scored tokens (nats) [b, k]",
    "token_logps": "log-prob of each scored token, 0 elsewhere (nats) [b, k, r]",
    **{name: f"{text} [b, k, r]" for name, text in STATISTICS.items()},
    "rewards": "output of a policy with one head output [b, k]",
    "embeddings": "outputs of a policy's head [b, k, m]",
    "hidden_states": "normalised hidden states that predict each response token [b, k, r, d]",
    "values": "output of a policy with one head output before each token: a critic [b, k, r]",
    "mismatched_logps": "log-prob of the next row's response after this row's prompt (nats), constant [b, k]",
    "lengths": "scored tokens [b, k]",
    "mask": "True on scored tokens [b, k, r]",
    "where": "True for responses with a scored token and a weight above 0 [b, k]",
    "valid": "True for rows that count: all that the loss reads is there, with a weight above 0 [b]",
    "pair_preferences": "P(response 0 beats response 1) of the records [b]",
    "preferences": "P(i beats j) of the records [b, k, k]",
    "key": "a random key, another one each step",
    "state": "what the loss carried over from the step before",
}


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a loss."""

    name: str
    base: str  # a quantity or a column
    reference: bool = False
    response: int | None = None  # None: of all responses
    sampled: bool = False  # of responses 2 and on

    @classmethod
    def of(cls, name: str) -> "Input":
        base, reference = name.removeprefix("reference_"), name.startswith("reference_")
        side, _, rest = base.partition("_")
        if side == SAMPLED and rest:
            return cls(name, rest, reference, sampled=True)
        if side in SIDES and rest:
            return cls(name, rest, reference, SIDES[side])
        return cls(name, base, reference)


def loss_name(loss: Callable[..., Any]) -> str:
    """For messages."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", repr(loss))


def inputs_of(loss: Callable[..., Any]) -> tuple[Input, ...]:
    """The parameters that have no default and are not bound yet."""
    parameters = inspect.signature(loss).parameters.values()
    return tuple(Input.of(q.name) for q in parameters if q.default is q.empty and q.kind is not q.VAR_KEYWORD)


def check_loss(loss: Callable[..., Any], *, reference: str | None, policy: Policy) -> None:
    """Raises ValueError, before anything runs, if `loss` cannot be called with this reference and policy."""
    name, wanted = loss_name(loss), inputs_of(loss)
    kl = [i.name for i in wanted if i.base in KL]
    needs_reference = any(i.reference for i in wanted) or bool(kl)
    if needs_reference and reference is None:
        raise ValueError(
            f"loss {name} needs reference log-probs: set reference='initial' (frozen copy) or 'batch' (a "
            "precomputed column)"
        )
    if not needs_reference and reference == "initial":
        raise ValueError(
            f"loss {name} takes no reference: set reference=None (a frozen copy would cost memory and a "
            "forward pass for nothing)"
        )
    beyond = kl + [i.name for i in wanted if i.reference and i.base != "logps"]
    if beyond and reference == "batch":
        raise ValueError(
            f"loss {name} needs {beyond} of the reference, and the records hold its summed log-probs only: "
            "set reference='initial'"
        )
    given = {*policy.offers, *(("rewards",) if "embeddings" in policy.offers else ())}
    given |= set(_LOG_PROBS) if policy.token_logps is not no_log_probs else set()
    for bases, what in (
        (_LOG_PROBS, "log-probs: it scores responses, and takes a loss of rewards or embeddings"),
        (HEAD_QUANTITIES, "a head: build the policy with outputs=1 (rewards) or more (embeddings)"),
        (STATISTICS, "statistics of tokens, which transformer policies give"),
        (("hidden_states",), "hidden states, which transformer policies give"),
    ):
        missing = [i.name for i in wanted if i.base in bases and i.base not in given]
        if missing:
            raise ValueError(f"loss {name} needs {missing}: the policy lacks {what}")


def row_weights(inputs: Sequence[Input], batch: Completions) -> Float[Array, " b"]:
    """Weight of each row in the mean of a loss with these inputs: 0 where something that it reads is absent.

    A loss reads the responses it names (chosen, rejected, sampled ones), or all of them. One that names
    `where` or `mask` knows which are absent, and needs two to compare."""
    k = batch.mask.shape[1]
    named = {i.response for i in inputs if i.response is not None}
    named |= set(range(2, k)) if any(i.sampled for i in inputs) else set()
    all_of = {i.base for i in inputs if i.response is None and not i.sampled}
    computed = all_of - {"key", "state", *_RECORDED, *batch.columns}  # by the policy, or features
    if computed and not all_of & {"where", "mask"}:
        named = set(range(k))
    if not named:
        return batch.weights
    there = batch.present[:, np.array(sorted(n for n in named if n < k), int)].all(-1)
    return jnp.where(there, batch.response_weights.max(-1), 0)


def recorded(batch: Completions, inputs: Sequence[Input] = ()) -> dict[str, Array]:
    """What a batch itself offers: the quantities that need no policy, and its columns.

    Raises:
      ValueError: a column has the name of a quantity.
    """
    where = batch.response_weights > 0
    offered = {
        "lengths": batch.lengths,
        "mask": batch.mask & where[..., None],
        "where": where,
        "valid": row_weights(inputs, batch) > 0,
    }
    taken = sorted((QUANTITIES.keys() - {"pair_preferences"}) & batch.columns.keys())
    if taken:
        raise ValueError(
            f"the records' column {taken[0]} has the name of a computed quantity; give it another one, "
            "or leave it out (columns= of the readers of files)"
        )
    offered |= batch.columns
    if batch.preferences is not None:
        offered |= {"preferences": batch.preferences, "pair_preferences": batch.preferences[:, 0, 1]}
    return offered


def bind(loss: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    """Calls `loss` with those of `inputs` that it names."""
    return loss(**{i.name: inputs[i.name] for i in inputs_of(loss)})


def call_loss(loss: Callable[..., Any], policy: Mapping[str, Any], reference: Mapping[str, Array]) -> Any:
    """Calls `loss` with what it names out of `policy` and `reference`, which hold all responses."""
    return bind(loss, {i.name: _value(loss, i, policy, reference) for i in inputs_of(loss)})


def _value(
    loss: Callable[..., Any], wanted: Input, policy: Mapping[str, Any], reference: Mapping[str, Array]
) -> Any:
    offered = reference if wanted.reference else policy
    if wanted.base not in offered:
        kind = "reference has" if wanted.reference else "batch and policy have"
        what = QUANTITIES.get(
            wanted.base, "correct the name, or add such a column to the records (Records.with_column)"
        )
        raise ValueError(
            f"loss {loss_name(loss)} needs {wanted.name}, and the {kind} no {wanted.base!r}: {what}; there "
            f"are {sorted(offered)}, of one response with chosen_ or rejected_ in front"
        )
    value = offered[wanted.base]
    if wanted.sampled:
        if value.shape[1] < 3:
            raise ValueError(
                f"loss {loss_name(loss)} needs {wanted.name}, responses 2 and on of each prompt, and "
                f"there are {value.shape[1]}: draw some beside the recorded pair (online with hybrid=True)"
            )
        return value[:, 2:]
    if wanted.response is None:
        return value
    if value.shape[1] <= wanted.response:
        raise ValueError(
            f"loss {loss_name(loss)} needs {wanted.name}, response {wanted.response} (from 0), and here a "
            f"prompt has {value.shape[1]} response{'s' * (value.shape[1] > 1)}; train on records of pairs, "
            "or choose a loss of single responses"
        )
    return value[:, wanted.response]
