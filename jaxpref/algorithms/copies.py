"""Other policies, by name, beside the one that is trained, and the rule by which each follows it.

`dict[str, Params]` in the state. "policy" stands for the trained policy itself, "initial" for a frozen copy
of the params a stage starts from, "base" for what lies below its adapters. A rule says what a member becomes
after each step; the reference of a loss, the samplers and the judges all name members, so that proximity to
the behaviour policy (BPO), an average of iterates (Nash-EMA) or the iterate before (SPPO, SPAC, iterative
DPO) is a matter of one name.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.metrics import widened
from jaxpref.models.lora import without_adapters
from jaxpref.types import Params

__all__ = ["Rule", "averaged", "base", "copied", "frozen", "interpolated", "refreshed", "start"]

# (member, policy, the others before the step, steps done) -> member
Rule = Callable[[Params, Params, Mapping[str, Params], Int[Array, ""]], Params]


def base(member: Params, policy: Params, policies: Mapping[str, Params], step: Int[Array, ""]) -> Params:
    """The policy with its adapters off: what lies below them, and what new adapters start from.

    It takes no memory and no products with adapters. Of what is trained beside them (a head) it has a copy,
    as the stage starts.
    """
    del policy, policies, step
    return member


def frozen(member: Params, policy: Params, policies: Mapping[str, Params], step: Int[Array, ""]) -> Params:
    """The params that the stage started from, never renewed."""
    del policy, policies, step
    return member


def copied(
    member: Params, policy: Params, policies: Mapping[str, Params], step: Int[Array, ""], *, every: int
) -> Params:
    """A copy of the policy, renewed after every `every` steps: the start of the current phase.

    With T steps and `every = T / F` there are F phases (F = 1: the initial policy for good; F = T: always the
    policy before the current step).
    """
    del policies
    if every < 1:
        raise ValueError(f"copied: every must be at least 1 step, got {every}")
    return jax.lax.cond(step % every == 0, lambda: policy, lambda: member)


def averaged(
    member: Params, policy: Params, policies: Mapping[str, Params], step: Int[Array, ""], *, decay: float
) -> Params:
    """Exponential moving average of the params, `decay * member + (1 - decay) * policy`, in float32 or wider:
    a bfloat16 average stops where a step of it is below 2^-9 of its size."""
    del policies, step
    if not 0 <= decay <= 1:
        raise ValueError(f"averaged: expected a decay in [0, 1], got {decay}")
    return _blend(member, policy, 1 - decay)


def interpolated(
    member: Params,
    policy: Params,
    policies: Mapping[str, Params],
    step: Int[Array, ""],
    *,
    of: str,
    weight: float,
    start: str = "initial",
) -> Params:
    """`(1 - weight) * policies[start] + weight * policies[of]` in parameter space: BPO's "ema" anchor with
    `of` the behaviour policy (released code of arXiv:2406.12168: weight 0.01 by default, 0.005 in its run
    script, whose anchor is the behaviour policy itself)."""
    del member, policy, step
    if not 0 <= weight <= 1:
        raise ValueError(f"interpolated: expected a weight in [0, 1], got {weight}")
    for name in (of, start):
        if name not in policies:
            raise ValueError(f"interpolated: there is no policy {name!r}; there are {sorted(policies)}")
    return _blend(widened(policies[start]), policies[of], weight)


def start(rules: Mapping[str, Rule], params: Params) -> dict[str, Params]:
    """Every member starts from the policy's params, those that blend in float32 or wider. Arrays are copied,
    since a step donates its state, and a donated buffer must not appear twice.

    Raises:
      ValueError: `base` of a policy without adapters.
    """
    return {name: jax.tree.map(jnp.copy, _start(rule, params)) for name, rule in rules.items()}


def _start(rule: Any, params: Params) -> Params:
    while isinstance(rule, functools.partial):
        rule = rule.func
    if rule is base:
        return without_adapters(params)
    return widened(params) if rule in (averaged, interpolated) else params


def refreshed(
    rules: Mapping[str, Rule], policies: Mapping[str, Params], policy: Params, step: Int[Array, ""]
) -> dict[str, Params]:
    """The other policies after `step` steps. Members without a rule (judges) stay."""
    return {
        name: rules[name](member, policy, policies, step) if name in rules else member
        for name, member in policies.items()
    }


def _blend(old: Params, new: Params, weight: Float[Array, ""] | float) -> Params:
    return jax.tree.map(lambda o, n: (o + weight * (n.astype(o.dtype) - o)).astype(o.dtype), old, new)
