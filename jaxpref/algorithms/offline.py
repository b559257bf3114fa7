"""Optimisation of an objective on recorded responses: pairs, lists or labelled ones."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxpref.algorithms.bank import Rule, frozen, refreshed, start
from jaxpref.algorithms.base import Algorithm, TrainState, num_tokens
from jaxpref.algorithms.inputs import check_loss, fed, inputs_of, loss_name
from jaxpref.algorithms.quantities import Features, Source
from jaxpref.algorithms.reported import reward_metrics
from jaxpref.algorithms.update import accumulated_gradient, apply_gradient
from jaxpref.losses.preference_model import general_preference_scores
from jaxpref.metrics import Mean, Metrics, masked_mean
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["offline"]

_SUMMED = {"logps", "lengths"}  # all that `Policy.summed_loss` can feed


def offline(
    policy: Policy,
    *,
    loss: Callable[..., Any],
    optimizer: Callable[[], optax.GradientTransformation],
    reference: str | None = "initial",
    bank: Mapping[str, Rule] | None = None,
    reward_scale: float | None = None,
    loss_state: Callable[[], Any] | None = None,
    features: Features | None = None,
    combine: Callable[[Any], Any] | None = None,
    outputs_reward: Callable[[Array], Array] | None = None,
    microbatches: int = 1,
    pair_scan: bool = False,
) -> Algorithm:
    """Minimises the mean of `loss` over recorded responses.

    The loss names what it is fed (`algorithms.inputs`), and the shape of what it returns says what it is a
    mean over: `[b]` prompts (pairs and lists), `[b, k]` responses (labelled ones), `[b, o]` prompts, once for
    each of `o` objectives whose gradients `combine` makes one of.

    Args:
      loss: any function of `jaxpref.losses`, or one of yours.
      optimizer: builds the optax transformation.
      reference: "initial": a frozen copy of the starting params, run every step. "batch": the column
        `reference_logps` of the records (`jaxpref prepare` writes it). None: a reference-free loss. Or the
        name of another member of the `bank`.
      bank: other policies that follow this one, by name (`algorithms.bank`).
      reward_scale: factor of the reported rewards; by default the loss's own `beta`, or 1 if it has none.
      loss_state: builds the state of a loss that carries one, such as `losses.bco_state`.
      features: `(params, batch) -> {name: [b, k, ...]}`, more inputs by name; `reference_` ones too.
      combine: gradients with a leading axis `o` to one gradient, such as `losses.multi.raco` with weights.
      outputs_reward: reward `[b, k]` of a head's outputs `[b, k, m]`, for what is reported. By default one
        output is the reward, and several are an embedding of the general preference model, whose reward is
        the mean score against the other responses (arXiv:2410.02197). `losses.attributes` has another.
      microbatches: equal parts of the batch, accumulated exactly. A loss that couples the examples of a
        batch sees one part at a time; one with state takes no more than one part.
      pair_scan: take the gradient of the unembedding in the forward pass, a few pairs at a time: the same
        numbers with logits of a few pairs only. For policies that offer it (transformers do).
    """
    rules = dict(bank or {}) | ({"initial": frozen} if reference == "initial" else {})
    if reference not in ("batch", None, *rules):
        raise ValueError(
            f"reference: expected 'initial', 'batch' or None, or a member of the bank, got {reference!r}; "
            f"the bank has {sorted(rules)}"
        )
    if "policy" in rules:
        raise ValueError("bank: 'policy' is the trained policy itself; choose another name")
    quantities = policy.quantities is not None
    check_loss(loss, reference=reference, heads=quantities and policy.outputs > 0, tokens=quantities)
    source = Source(policy, inputs_of(loss), reference, features)
    bases = {i.base for i in source.inputs}
    _check_state("state" in bases, loss, loss_state, microbatches)
    if pair_scan:
        _check_pair_scan(policy, loss, bases, combine)
    transform = optimizer()
    scale = _beta(loss) if reward_scale is None else reward_scale

    def mean_of(losses: Array, batch: Completions) -> Mean:
        where = batch.mask.any(-1)
        rows = where.sum(-1) >= 2 if "where" in bases else batch.weights
        if combine is not None:
            weights = rows.astype(jnp.float32)
            return Mean(jnp.where(rows[:, None] > 0, losses * weights[:, None], 0).sum(0), weights.sum())
        if losses.ndim == 1:
            return masked_mean(losses, rows)
        return masked_mean(
            losses, where if "weights" not in batch.columns else where * batch.weights[:, None]
        )

    def rewards_of(found: dict, held: dict) -> Float[Array, "b k"]:
        if "embeddings" in found and ("rewards" in bases or "logps" not in found):
            return (outputs_reward or _outputs_reward)(found["embeddings"])
        return scale * (found["logps"] - held["logps"] if held else found["logps"])

    def forward(
        params: Params, batch: Completions, state: TrainState, key: PRNGKey
    ) -> tuple[Mean, tuple[Metrics, Any]]:
        held = source.of_reference(state.bank, batch)
        carried = state.loss_state
        if pair_scan and policy.summed_loss is not None:
            # `valid` rows are all there is to a mean of pairs, so the total may be taken a few at a time.
            def total(token_logps: Array, data: tuple) -> Array:
                part, part_held = data
                found = {"logps": token_logps.sum(-1), "lengths": part.lengths}
                return mean_of(fed(loss, found, part_held), part).total

            value, token_logps = policy.summed_loss(params, batch, total, (batch, held))
            mean = Mean(value, batch.weights.sum().astype(jnp.float32))
            found: dict[str, Any] = {"logps": token_logps.sum(-1)}
        else:
            found = source.of_policy(params, state.bank, batch)
            out = fed(loss, found | {"key": key, "state": carried}, held)
            if carried is not None:
                out, carried = out
            mean = mean_of(out, batch)
        metrics = {"loss": Mean(mean.total.sum(), mean.count), "num_tokens": num_tokens(batch)}
        more = _reported(rewards_of(found, held), found.get("logps"), batch, source)
        if held and "on_policy" in batch.columns:
            own = batch.columns["on_policy"] & batch.mask.any(-1)
            log_ratios = jax.lax.stop_gradient(found["logps"] - held["logps"])
            more["objective/kl"] = masked_mean(log_ratios, own * batch.weights[:, None])
        return mean, (metrics | more, jax.lax.stop_gradient(carried))

    def init(params: Params) -> TrainState:
        carried = None if loss_state is None else loss_state()
        return TrainState(jnp.int32(0), params, transform.init(params), start(rules, params), carried)

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        def loss_of_part(params: Params, part: Completions):
            return forward(params, part, state, key)

        gradient, (metrics, carried) = accumulated_gradient(
            loss_of_part, state.params, batch, microbatches, combine
        )
        params, opt_state, more = apply_gradient(transform, state.params, state.opt_state, gradient)
        done = state.step + 1
        members = refreshed(rules, state.bank, params, done)
        new = TrainState(done, params, opt_state, members, carried, state.memory)
        return new, metrics | more

    def evaluate(state: TrainState, batch: Completions, key: PRNGKey) -> Metrics:
        return forward(state.params, batch, state, key)[1][0]

    def rewards(state: TrainState, batch: Completions) -> Float[Array, "b k"]:
        found = source.of_policy(state.params, state.bank, batch)
        return rewards_of(found, source.of_reference(state.bank, batch))

    live = reference in rules
    passes = 3 + live + (1 + live) * ("mismatched_logps" in bases)
    return Algorithm(
        init, step, evaluate, lambda batch: passes * policy.flops(batch), rewards, parts=microbatches
    )


def _reported(rewards: Array, logps: Array | None, batch: Completions, source: Source) -> Metrics:
    """Drawn responses have an order only where the loss names chosen and rejected ones; beside self-samples,
    the recorded pair is what is compared."""
    inputs = source.inputs
    if any(i.sampled for i in inputs):
        tokens, mask = batch.response_tokens[:, :2], batch.response_mask[:, :2]
        batch = dataclasses.replace(batch, response_tokens=tokens, response_mask=mask)
        rewards, logps = rewards[:, :2], None if logps is None else logps[:, :2]
    elif "drawn" in batch.columns and not any(i.response is not None for i in inputs):
        where = batch.mask.any(-1) * batch.weights[:, None]
        return {"rewards/mean": masked_mean(jax.lax.stop_gradient(rewards), where)}
    return reward_metrics(rewards, logps, batch, labelled=any(i.base == "labels" for i in inputs))


def _outputs_reward(outputs: Float[Array, "b k m"]) -> Float[Array, "b k"]:
    m = outputs.shape[-1]
    if m == 1:
        return outputs[..., 0]
    if m % 2:
        raise ValueError(f"a head of {m} outputs has no reward of its own: set outputs_reward")
    return general_preference_scores(outputs).mean(-1)


def _check_state(
    stateful: bool, loss: Callable[..., Any], loss_state: Callable[[], Any] | None, microbatches: int
) -> None:
    name = loss_name(loss)
    if stateful and loss_state is None:
        raise ValueError(
            f"loss {name} carries state: set loss_state=losses.{name}_state (or a partial of it)"
        )
    if not stateful and loss_state is not None:
        raise ValueError(f"loss {name} carries no state: leave loss_state out")
    if stateful and microbatches > 1:
        raise ValueError(f"loss {name} carries state that every batch moves once: set microbatches=1")


def _check_pair_scan(
    policy: Policy, loss: Callable[..., Any], bases: set[str], combine: Callable[..., Any] | None
) -> None:
    if policy.summed_loss is None:
        raise ValueError("pair_scan: this policy has no summed_loss; leave it out")
    if bases - _SUMMED or combine is not None:
        raise ValueError(
            f"pair_scan takes losses of {sorted(_SUMMED)} alone, each pair by itself, and {loss_name(loss)} "
            f"also names {sorted(bases - _SUMMED) or 'combine'}; leave pair_scan out"
        )


def _beta(loss: Callable[..., Any]) -> float:
    parameter = inspect.signature(loss).parameters.get("beta")
    return 1.0 if parameter is None else float(parameter.default)
