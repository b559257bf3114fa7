"""Optimisation of an objective on recorded responses: pairs, lists or labelled ones."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxpref.algorithms.base import NONE, Algorithm, Constants, TrainState
from jaxpref.algorithms.copies import Rule, base, frozen, refreshed, start
from jaxpref.algorithms.inputs import check_loss, inputs_of, loss_name
from jaxpref.algorithms.members import average_of, each_member, learner_of, started
from jaxpref.algorithms.objective import Objective, accumulated_gradient, beta_of, declared_unit
from jaxpref.algorithms.optimizers import apply_gradient
from jaxpref.algorithms.quantities import Features
from jaxpref.metrics import Metrics
from jaxpref.policies.base import Policy, with_noise
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["offline"]

RULES_OF = {"initial": {"initial": frozen}, "base": {"base": base}}  # of references that need not be named
_SUMMED = {"logps", "lengths"}  # all that `Policy.summed_loss` can feed


def offline(
    policy: Policy,
    *,
    loss: Callable[..., Any],
    optimizer: Callable[[], optax.GradientTransformation],
    reference: str | None = "initial",
    policies: Mapping[str, Rule] | None = None,
    reward_scale: float | None = None,
    loss_state: Callable[[], Any] | None = None,
    features: Features | None = None,
    combine: Callable[[Any], Any] | None = None,
    outputs_reward: Callable[[Array], Array] | None = None,
    microbatches: int = 1,
    pair_scan: bool = False,
) -> Algorithm:
    """Minimises the weighted mean of `loss` over recorded responses (`objective.Objective`).

    Args:
      loss: any function of `jaxpref.losses`, or one of yours.
      optimizer: builds the optax transformation.
      reference: "initial": a frozen copy of the starting params, run every step. "base": the policy with its
        adapters off, which new adapters start from. "batch": the column `reference_logps` of the records
        (`jaxpref prepare` writes it; one of other params than the stage starts from is refused). None: a
        reference-free loss. Or the name of another one of `policies`.
      policies: other policies that follow this one, by name (`algorithms.copies`).
      reward_scale: factor of the reported rewards; by default the loss's own `beta`, or 1 if it has none.
      loss_state: builds the state of a loss that carries one, such as `losses.bco_state`.
      features: `(params, batch, key) -> {name: [b, k, ...]}`, more inputs by name; `reference_` ones too.
      combine: gradients with a leading axis `o` to one gradient, such as `losses.multi.raco` with weights.
      outputs_reward: reward `[b, k]` of a head's outputs `[b, k, m]`, for what is reported; see
        `Objective.outputs_reward`.
      microbatches: equal parts of the batch, accumulated exactly. A loss that couples the examples of a
        batch sees one part at a time; one with state takes no more than one part.
      pair_scan: take the gradient of the unembedding in the forward pass, a few pairs at a time: the same
        numbers with logits of a few pairs only. For policies that offer it (transformers do).
    """
    rules = RULES_OF.get(reference or "", {}) | dict(policies or {})
    _check(policy, loss, reference, rules, loss_state, microbatches, combine is not None)
    if pair_scan:
        _check_pair_scan(policy, loss, combine)
    scale = beta_of(loss) if reward_scale is None else reward_scale
    learning = learner_of(policy)
    objective = Objective(
        learning, loss, reference, scale, features, outputs_reward, combine is not None, pair_scan
    )
    learner = _Offline(policy, objective, optimizer(), rules, loss_state, combine, microbatches)
    return Algorithm(
        learner.init,
        learner.step,
        learner.evaluate,
        learner.flops,
        learner.rewards,
        parts=microbatches,
        recorded_reference=reference == "batch",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Offline:
    policy: Policy  # whose params are trained
    objective: Objective  # of that policy or, of an ensemble, of a member
    transform: optax.GradientTransformation
    rules: Mapping[str, Rule]  # of the policies that follow this one
    loss_state: Callable[[], Any] | None
    combine: Callable[[Any], Any] | None
    microbatches: int

    def init(self, params: Params, constants: Constants = NONE, key: PRNGKey | None = None) -> TrainState:
        carried = None if self.loss_state is None else self.loss_state()
        opt_state, others = started(self.policy, self.transform, params), start(self.rules, params)
        return TrainState(jnp.int32(0), params, opt_state, others, carried, constants=dict(constants))

    def step(self, state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        acting = self._acting(state)
        # Once for all members, and not in parts: it keeps nothing for a backward pass.
        anchor = None if self.policy.members is None else self.objective.of_reference(batch, acting, key)

        def loss(params: Params, part: tuple[Completions, Any], key: PRNGKey):
            noisy = with_noise(self.objective.policy, params, key)
            return self.objective(noisy, part[0], acting, key, part[1])

        def update(params: Params, opt_state: optax.OptState):
            gradient, (metrics, carried) = accumulated_gradient(
                loss, params, (batch, anchor), key, microbatches=self.microbatches, combine=self.combine
            )
            params, opt_state, more = apply_gradient(self.transform, params, opt_state, gradient)
            return params, opt_state, carried, metrics | more

        params, opt_state, carried, metrics = each_member(self.policy, update, state.params, state.opt_state)
        done = state.step + 1
        moved = refreshed(self.rules, state.policies, params, done)
        new = dataclasses.replace(
            state, step=done, params=params, opt_state=opt_state, policies=moved, loss_state=carried
        )
        return new, metrics

    def evaluate(self, state: TrainState, batch: Completions, key: PRNGKey) -> Metrics:
        acting = self._acting(state)
        return self.objective(acting.params, batch, acting, key)[1][0]

    def rewards(self, state: TrainState, batch: Completions) -> Array:
        return self.objective.rewards(self._acting(state), batch)

    def flops(self, batch: Completions) -> float:
        live = self.objective.reference in self.rules
        mismatched = any(i.base == "mismatched_logps" for i in self.objective.source.inputs)
        learning = 1 if self.policy.members is None else self.policy.members.size
        passes = learning * (1 + self.policy.backward + mismatched) + live * (1 + mismatched)
        return passes * self.policy.flops(batch)

    def _acting(self, state: TrainState) -> TrainState:
        """The state with params of what acts: of an ensemble, the averages."""
        if self.policy.members is None:
            return state
        others = {name: average_of(self.policy, params) for name, params in state.policies.items()}
        return dataclasses.replace(state, params=average_of(self.policy, state.params), policies=others)


def _check(
    policy: Policy,
    loss: Callable[..., Any],
    reference: str | None,
    rules: Mapping[str, Rule],
    loss_state: Callable[[], Any] | None,
    microbatches: int,
    combined: bool,
) -> None:
    if reference not in ("batch", None, *rules):
        raise ValueError(
            f"reference: expected 'initial', 'base', 'batch' or None, or one of `policies`, got "
            f"{reference!r}; there are {sorted(rules)}"
        )
    if policy.members is not None and (loss_state is not None or combined):
        raise ValueError(
            "loss_state and combine are for one policy; the members of an ensemble have a loss and a "
            "gradient each: leave them out"
        )
    if "policy" in rules:
        raise ValueError("policies: 'policy' is the trained policy itself; choose another name")
    check_loss(loss, reference=reference, policy=policy)
    if not combined and declared_unit(loss) == "objective":
        raise ValueError(f"loss {loss_name(loss)} has a number for each objective: set combine")
    name, stateful = loss_name(loss), any(i.base == "state" for i in inputs_of(loss))
    if stateful and loss_state is None:
        raise ValueError(
            f"loss {name} carries state: set loss_state=losses.{name}_state (or a partial of it)"
        )
    if not stateful and loss_state is not None:
        raise ValueError(f"loss {name} carries no state: leave loss_state out")
    if stateful and microbatches > 1:
        raise ValueError(f"loss {name} carries state that every batch moves once: set microbatches=1")


def _check_pair_scan(policy: Policy, loss: Callable[..., Any], combine: Callable[..., Any] | None) -> None:
    bases = {i.base for i in inputs_of(loss)}
    if policy.summed_loss is None:
        raise ValueError("pair_scan: this policy has no summed_loss; leave it out")
    if bases - _SUMMED or combine is not None:
        raise ValueError(
            f"pair_scan takes losses of {sorted(_SUMMED)} alone, each pair by itself, and {loss_name(loss)} "
            f"also names {sorted(bases - _SUMMED) or 'combine'}; leave pair_scan out"
        )
