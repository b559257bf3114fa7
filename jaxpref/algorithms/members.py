"""Updates of the members of an ensemble (`policies.ensemble`), each by itself."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxpref.metrics import Metrics
from jaxpref.policies.base import Policy
from jaxpref.types import Params

__all__ = ["average_of", "each_member", "learner_of", "started"]

# (params, optimizer's state) -> both of them after a step, what the loss carries, metrics
Update = Callable[[Params, optax.OptState], tuple[Params, optax.OptState, Any, Metrics]]


def learner_of(policy: Policy) -> Policy:
    """What is trained: the policy itself, or of an ensemble a member."""
    return policy if policy.members is None else policy.members.policy


def average_of(policy: Policy, params: Params) -> Params:
    """Params of `learner_of(policy)` that act as these do."""
    return params if policy.members is None else policy.members.average(params)


def started(policy: Policy, transform: optax.GradientTransformation, params: Params) -> optax.OptState:
    """The state of the optimizer, of an ensemble one for each member."""
    return transform.init(params) if policy.members is None else jax.vmap(transform.init)(params)


def each_member(policy: Policy, update: Update, params: Params, opt_state: optax.OptState) -> Any:
    """What `update` gives for the params, or for each member one after the other, with the means of metrics.

    One after the other, so that activations of one are in memory; what all share (the base, the batch, the
    anchor) exists once."""
    if policy.members is None:
        return update(params, opt_state)
    *moved, metrics = jax.lax.map(lambda one: update(*one), (params, opt_state))
    return *moved, jax.tree.map(lambda x: x.mean(0), metrics)
