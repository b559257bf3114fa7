"""The objective of a step, the weighted mean of a loss over a batch as a pure function of params, and its
gradient."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.algorithms.base import TrainState, num_tokens
from jaxpref.algorithms.inputs import call_loss, inputs_of, loss_name, row_weights
from jaxpref.algorithms.quantities import Features, Source
from jaxpref.algorithms.reported import reported
from jaxpref.losses.preference_model import general_preference_scores
from jaxpref.metrics import Mean, Metrics, merge, weighted_mean, widened
from jaxpref.policies.base import Policy, whole
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["Objective", "Unit", "accumulated_gradient", "beta_of", "declared_unit", "unit_of"]

Unit = Literal["prompt", "response", "objective"]  # what the loss has a number for


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The mean of `loss` over a batch, with metrics.

    The loss names its inputs (`algorithms.inputs`). It has one number for each prompt `[b]` (pairs and
    lists), for each response `[b, k]` (labelled ones, samples) or, with `objectives`, for each prompt and
    objective `[b, o]`: what its return annotation says, such as `Float[Array, "b k"]`; without one, its
    shape."""

    policy: Policy
    loss: Callable[..., Any]
    reference: str | None = None  # "batch" or one of the other policies
    reward_scale: float = 1.0
    features: Features | None = None
    # Reward `[b, k]` of a head's outputs `[b, k, m]`, for what is reported. By default one output is the
    # reward, and several are an embedding of the general preference model, whose reward is the mean score
    # against the other responses (arXiv:2410.02197). `losses.attributes` has another.
    outputs_reward: Callable[[Array], Array] | None = None
    objectives: bool = False
    pair_scan: bool = False

    @functools.cached_property
    def source(self) -> Source:
        return Source(self.policy, inputs_of(self.loss), self.reference, self.features)

    def of_reference(self, batch: Completions, state: TrainState, key: PRNGKey) -> dict[str, Array]:
        """What the reference gives, where it is computed once for several calls."""
        return self.source.of_reference(state.everyone, batch, jax.random.split(key)[1])

    def __call__(
        self,
        params: Params,
        batch: Completions,
        state: TrainState,
        key: PRNGKey,
        reference: Mapping[str, Array] | None = None,
    ) -> tuple[Mean, tuple[Metrics, Any]]:
        """The loss as a mean (one entry for each objective), the metrics, and the loss's new state.

        Gradients go to `params` alone; `state` gives the other policies, constants and what the loss carries.
        `reference`: what `of_reference` gave, if that was called.
        """
        params, policies = whole(params, state.constants), state.everyone
        loss_key, noise_key = jax.random.split(key)
        if reference is None:
            reference = self.source.of_reference(policies, batch, noise_key)
        carried = state.loss_state
        if self.pair_scan:
            mean, values = self._scanned(params, batch, reference)
        else:
            values = self.source.of_policy(params, policies, batch, noise_key)
            out = call_loss(self.loss, values | {"key": loss_key, "state": carried}, reference)
            if carried is not None:
                out, carried = out
            mean = self.mean(out, batch)
        metrics = {"loss": Mean(mean.total.sum(), mean.count), "num_tokens": num_tokens(batch)}
        rewards = self._rewards(values, reference)
        if rewards is not None:
            metrics |= reported(rewards, values.get("logps"), batch, self.source.inputs)
        if "logps" in values and "logps" in reference and "on_policy" in batch.columns:
            own = batch.columns["on_policy"] * batch.response_weights
            log_ratios = jax.lax.stop_gradient(values["logps"] - reference["logps"])
            metrics["objective/kl"] = weighted_mean(log_ratios, own)
        return mean, (metrics, jax.lax.stop_gradient(carried))

    def weights(self, losses: Any, batch: Completions) -> Float[Array, "b *k"]:
        """Of each row or response, whichever the loss has a number for; `losses` may be a shape alone."""
        unit = unit_of(self.loss, losses, batch, objectives=self.objectives)
        return batch.response_weights if unit == "response" else row_weights(self.source.inputs, batch)

    def mean(self, losses: Array, batch: Completions) -> Mean:
        """The mean of what the loss returned, each row or response by its weight."""
        return weighted_mean(losses, self.weights(losses, batch))

    def rewards(self, state: TrainState, batch: Completions) -> Float[Array, "b k"]:
        """Implicit rewards, scale * log-ratio to the reference, or those of the policy's head."""
        key, everyone = jax.random.key(0), state.everyone  # noise is the same wherever rewards are compared
        values = self.source.of_policy(everyone["policy"], everyone, batch, key)
        rewards = self._rewards(values, self.source.of_reference(everyone, batch, key))
        if rewards is None:
            raise ValueError(
                f"loss {loss_name(self.loss)} names neither log-probs nor outputs of a head: no rewards"
            )
        return rewards

    def _rewards(
        self, values: Mapping[str, Array], reference: Mapping[str, Array]
    ) -> Float[Array, "b k"] | None:
        names_rewards = any(i.base == "rewards" for i in self.source.inputs)
        if "embeddings" in values and (names_rewards or "logps" not in values):
            return (self.outputs_reward or _outputs_reward)(values["embeddings"])
        if "logps" not in values:
            return None
        logps = values["logps"]
        return self.reward_scale * (logps - reference["logps"] if "logps" in reference else logps)

    def _scanned(
        self, params: Params, batch: Completions, reference: Mapping[str, Array]
    ) -> tuple[Mean, dict[str, Any]]:
        """As `__call__`, for pairs, whose rows are independent: summed over a few rows at a time."""
        assert self.policy.summed_loss is not None

        def total(token_logps: Array, data: tuple) -> Array:
            part, part_reference = data
            values = {"logps": token_logps.sum(-1), "lengths": part.lengths}
            return self.mean(call_loss(self.loss, values, part_reference), part).total

        value, token_logps = self.policy.summed_loss(params, batch, total, (batch, reference))
        values = {"logps": token_logps.sum(-1), "lengths": batch.lengths}
        losses = jax.eval_shape(lambda values: call_loss(self.loss, values, reference), values)
        return Mean(value, self.weights(losses, batch).sum()), {"logps": values["logps"]}


# Of a part of the batch: its total and count, its metrics, and anything else (kept where there is one part).
LossOfBatch = Callable[[Params, Any, PRNGKey], tuple[Mean, tuple[Metrics, Any]]]


def accumulated_gradient(
    loss: LossOfBatch,
    params: Params,
    batch: Any,
    key: PRNGKey,
    *,
    microbatches: int = 1,
    combine: Callable[[Params], Params] | None = None,
) -> tuple[Params, tuple[Metrics, Any]]:
    """Gradient of `loss.total / loss.count` over the whole batch, computed in `microbatches` equal parts.

    The totals are differentiated, summed in float32 or wider, and the sum divided once by the global count
    (the sum of weights), so parts of unequal weight (ragged responses, padding rows) give exactly the
    full-batch gradient; a mean of means would not. Counts are treated as data. Losses that couple the
    examples of a batch see one part at a time, and each part has a key of its own.

    With `combine` the totals are `[o]`, and it gets their gradients (a leading axis `o`) of the whole batch.

    Rows are dealt out in a strided way (row i goes to part i mod n) so that a batch sharded over devices
    stays sharded in every part.
    """

    def total(params, part, key):
        mean, aux = loss(params, part, key)
        return mean.total, (mean.count, aux)

    differentiate = jax.grad(total, has_aux=True) if combine is None else _by_objective(total)
    if microbatches == 1:
        gradient, (count, aux) = differentiate(params, batch, key)
    else:
        gradient, count, metrics = _summed(differentiate, params, batch, key, microbatches)
        aux = (metrics, None)
    scale = 1 / jnp.where(count == 0, 1, count)
    gradient = jax.tree.map(lambda g, p: (g * scale).astype(p.dtype), gradient, params)
    return gradient if combine is None else combine(gradient), aux


def _summed(
    differentiate: Callable[..., Any], params: Params, batch: Any, key: PRNGKey, microbatches: int
) -> tuple[Params, Array, Metrics]:
    """Gradient (float32 or wider), count and metrics of all parts of a batch together."""
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if any(n % microbatches for n in rows):
        raise ValueError(f"microbatches={microbatches} does not divide a batch of {sorted(rows)} rows")
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(carry, given):
        gradient, count, metrics = carry
        g, (n, (m, _)) = differentiate(params, *given)
        gradient = jax.tree.map(lambda total, x: total + x.astype(total.dtype), gradient, g)
        return (gradient, count + n, merge(metrics, m)), None

    shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda x: x[0], parts), key)
    gradient, (count, (metrics, _)) = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    gradient = widened(gradient)
    return jax.lax.scan(add, (gradient, count, metrics), (parts, jax.random.split(key, microbatches)))[0]


def _by_objective(total: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients of each entry of a vector of totals, stacked: one forward pass, a backward pass for each."""

    def differentiate(params, part, key):
        totals, pull, aux = jax.vjp(lambda p: total(p, part, key), params, has_aux=True)
        return jax.vmap(lambda one: pull(one)[0])(jnp.eye(len(totals), dtype=totals.dtype)), aux

    return differentiate


def unit_of(loss: Callable[..., Any], losses: Array, batch: Completions, *, objectives: bool) -> Unit:
    """What each entry of the loss belongs to, by its return annotation or, without one, by its shape.

    Raises:
      ValueError: the loss returned another shape than it declares, or one that is neither.
    """
    b, k = batch.mask.shape[:2]
    declared = "objective" if objectives else declared_unit(loss)
    unit: Unit = declared or ("prompt" if losses.ndim == 1 else "response")
    expected = {"prompt": (b,), "response": (b, k), "objective": (b, losses.shape[-1] if losses.ndim else 0)}
    if losses.shape != expected[unit]:
        each = {"prompt": "[b]", "response": "[b, k]", "objective": "[b, objectives]"}[unit]
        raise ValueError(
            f"loss {loss_name(loss)} returned shape {list(losses.shape)}; one number for each {unit} is "
            f"{each}, here with b = {b} and k = {k}. Its return annotation says which it is, such as "
            'Float[Array, "b"] or Float[Array, "b k"]'
        )
    return unit


def declared_unit(loss: Callable[..., Any]) -> Unit | None:
    """What the return annotation says that the loss has a number for; None where it says nothing."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    given = inspect.signature(loss).return_annotation
    first = (getattr(given, "__args__", None) or (given,))[0]  # of (losses, state)
    units: dict[str, Unit] = {"b": "prompt", "b k": "response", "b o": "objective"}
    return units.get(getattr(first, "dim_str", "").strip())


def beta_of(loss: Callable[..., Any]) -> float:
    """The loss's own `beta`, or 1: the scale of implicit rewards."""
    parameter = inspect.signature(loss).parameters.get("beta")
    return 1.0 if parameter is None else float(parameter.default)


def _outputs_reward(outputs: Float[Array, "b k m"]) -> Float[Array, "b k"]:
    m = outputs.shape[-1]
    if m == 1:
        return outputs[..., 0]
    if m % 2:
        raise ValueError(f"a head of {m} outputs has no reward of its own: set outputs_reward")
    return general_preference_scores(outputs).mean(-1)
