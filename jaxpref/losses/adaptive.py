"""Pairwise losses that carry state from step to step: a strength or a label noise that follows the run.

Each returns `(losses, new_state)` and has a `<name>_state` that builds the first one. The state is updated
from the global batch; microbatches would update it once for each part, which changes the values. Sources:
arXiv:2406.04412, 2407.08639 and 2411.10442.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_same_shape, floats, not_negative, positive, within
from jaxpref.losses.links import logistic
from jaxpref.losses.rows import mean_over, only, valid_log_ratios
from jaxpref.losses.scores import per_token
from jaxpref.types import PRNGKey

__all__ = [
    "BetaDPOState",
    "MixedPOState",
    "SPAState",
    "beta_dpo",
    "beta_dpo_state",
    "mixed_po",
    "mixed_po_state",
    "spa",
    "spa_state",
]

Batch = Float[Array, " b"]
Rows = Bool[Array, " b"]


class BetaDPOState(NamedTuple):
    """Moving averages of the batch mean and of the batch standard deviation of u_w - u_l (nats)."""

    mean: Float[Array, ""]
    deviation: Float[Array, ""]


def beta_dpo_state() -> BetaDPOState:
    """Both averages at 0, as released (with no correction of the bias)."""
    return BetaDPOState(jnp.zeros(()), jnp.zeros(()))


def _filtered(margins: Batch, valid: Rows, state: BetaDPOState, fraction: float, key: PRNGKey) -> Rows:
    """The rows kept: a draw without replacement, by the Gumbel-top-k method, so weights may underflow."""
    spread = jnp.where(state.deviation > 0, state.deviation, 1)
    z = jnp.clip((margins - state.mean) / spread, -1e4, 1e4)
    log_weights = jnp.where(state.deviation > 0, -0.5 * z**2, 0)
    noisy = log_weights + jax.random.gumbel(key, margins.shape, margins.dtype)
    order = jnp.argsort(jnp.where(valid, -noisy, jnp.inf))
    ranks = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
    # The small number is for products such as 10 * (1 - 0.9), which come out just below a whole number.
    count = jnp.floor(valid.sum() * (1 - fraction) + 1e-4)
    return valid & (ranks < jnp.maximum(count, 1))


def beta_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    valid: Rows,
    key: PRNGKey,
    state: BetaDPOState,
    *,
    beta: float = 0.1,
    alpha: float = 0.6,
    filtered: float = 0.2,
    momentum: float = 0.9,
) -> tuple[Batch, BetaDPOState]:
    """DPO with a beta for each batch, on a draw of its rows that favours ordinary margins D = u_w - u_l.

    Wu et al. 2024, arXiv:2407.08639, as released; nats. First M and S, moving averages of the batch's mean
    and standard deviation of D, take in this batch. Then floor((1 - filtered) n) of the n valid rows, at
    least one, are drawn without replacement with weights exp(-((D - M) / S)^2 / 2), equal ones while S = 0.
    Their strength is beta * (1 + alpha * (mean of their D - M)), at least 0.001, without gradient. A row that
    is not drawn has loss 0; the others are scaled so that the mean over valid rows is the mean over those
    drawn. alpha = filtered = 0 is `dpo`.

    The batch is the global one; microbatches would average and draw in each part, which changes the value.

    Differs from the released code, whose deviation is NaN in a batch of one row (here 0).

    Args:
      beta: above 0 (released: 0.1). alpha: 0 or more (0.6). filtered: share left out, in [0, 1) (0.2).
      momentum: of the averages, in [0, 1) (0.9).
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    within("filtered", filtered, 0, 1)
    within("momentum", momentum, 0, 1)
    first, second = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    margins = first - second
    fixed, n = jax.lax.stop_gradient(margins), valid.sum()
    mean = mean_over(valid, fixed)
    variance = only(valid, (fixed - mean) ** 2).sum() / jnp.maximum(n - 1, 1)
    batch = BetaDPOState(mean, jnp.sqrt(variance))
    new = jax.tree.map(
        lambda old, x: jnp.where(n > 0, momentum * old + (1 - momentum) * x, old).astype(old.dtype),
        state,
        batch,
    )
    kept = _filtered(fixed, valid, new, filtered, key)
    strength = jnp.maximum(beta * (1 + alpha * (mean_over(kept, fixed) - new.mean)), 1e-3)
    scale = n / jnp.maximum(kept.sum(), 1)
    return only(kept, scale * logistic(strength * margins)), new


class MixedPOState(NamedTuple):
    """Mean of all rewards so far, chosen and rejected (nats), and how many there were."""

    mean: Float[Array, ""]
    count: Float[Array, ""]


def mixed_po_state() -> MixedPOState:
    """No rewards yet."""
    return MixedPOState(jnp.zeros(()), jnp.zeros(()))


def mixed_po(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Int[Array, " b"],
    valid: Rows,
    state: MixedPOState,
    *,
    beta: float = 0.1,
    preference_weight: float = 0.8,
    quality_weight: float = 0.2,
    generation_weight: float = 1.0,
) -> tuple[Batch, MixedPOState]:
    """Mixed preference optimisation: 0.8 DPO + 0.2 BCO + 1.0 NLL of the chosen response; nats.

    Wang et al. 2024, arXiv:2411.10442, as released: BCO's shift is the mean of all rewards beta * u seen so
    far, both sides, this batch included and without gradient. The NLL is per token of the chosen response.

    The batch is the global one; microbatches would each move the shift, which changes the value.

    Differs from TRL <= 0.28, which the released code built on: its shift is the mean of the batches' means,
    the same while batches have one size. From TRL >= 0.29, whose shift is 0. From the released code in that
    its NLL is averaged over the tokens of the whole batch: there a long response weighs more.

    Args:
      beta: above 0 (0.1). preference_weight, quality_weight, generation_weight: 0 or more.
    """
    positive(beta=beta)
    not_negative(
        preference_weight=preference_weight,
        quality_weight=quality_weight,
        generation_weight=generation_weight,
    )
    check_same_shape({"chosen_logps": chosen_logps, "chosen_lengths": chosen_lengths})
    first, second = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    first, second = beta * first, beta * second
    count = state.count + 2 * valid.sum()
    fresh = jax.lax.stop_gradient((first - state.mean) + (second - state.mean))
    shift = state.mean + only(valid, fresh).sum() / jnp.maximum(count, 1)
    quality = logistic(first - shift) + logistic(shift - second)
    (chosen,) = floats(chosen_logps)
    likelihood = per_token(only(valid, chosen), chosen_lengths)
    losses = preference_weight * logistic(first - second) + quality_weight * quality
    losses -= generation_weight * likelihood
    new = MixedPOState(shift.astype(state.mean.dtype), count.astype(state.count.dtype))
    return only(valid, losses), new


class SPAState(NamedTuple):
    """The batch means of beta * (u_w - u_l) of the last steps, a ring, and how many steps there were."""

    margins: Float[Array, " window"]
    steps: Int[Array, ""]


def spa_state(window: int = 50) -> SPAState:
    """No steps yet, and room for `window` of them (released: 50)."""
    if window < 1:
        raise ValueError(f"window: expected 1 or more, got {window}")
    return SPAState(jnp.zeros(window), jnp.int32(0))


def spa_threshold(state: SPAState, percentile: float = 0.1) -> Float[Array, ""]:
    """Mean of the order statistics floor(percentile * n) and the one above, of the n margins in the ring;
    minus infinity where there are none."""
    size = state.margins.size
    n = jnp.minimum(state.steps, size)
    ordered = jnp.sort(jnp.where(jnp.arange(size) < n, state.margins, jnp.inf))
    low = jnp.floor(percentile * n + 1e-4).astype(int)
    pair = ordered[jnp.clip(jnp.stack([low, low + 1]), 0, jnp.maximum(n - 1, 0))]
    return jnp.where(n > 0, pair.mean(), -jnp.inf)


def spa(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    valid: Rows,
    state: SPAState,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
    percentile: float = 0.1,
    warmup_steps: int = 100,
) -> tuple[Batch, SPAState]:
    """Spread preference annotation ("Selfie"): `cdpo` on the pairs whose margin is low, `dpo` on the others.

    Kim et al. 2024, arXiv:2406.04412, the refinement of self-made labels; nats. A pair is smoothed where
    beta * (u_w - u_l) is not above the threshold: the `percentile` of the mean margins of the last steps
    (averaging two order statistics, as released), without this step. No pair is in the first `warmup_steps`.

    The state takes one mean a step over the global batch; with microbatches it would take one for each part.

    Differs from the released code in that decoupled noise detection is off (its m = 1: margins are the
    policy's own, not of an extrapolation from the reference), in that the threshold is of what the ring
    holds while it is not full, and in that the first steps are a number, there a fifth of the run.

    Args:
      beta: above 0 (released: 0.1). label_smoothing: e, in [0, 0.5) (0.1). percentile: in (0, 1) (0.1).
      warmup_steps: 0 or more (ours).
    """
    positive(beta=beta)
    within("label_smoothing", label_smoothing, 0, 0.5)
    within("percentile", percentile, 0, 1, low_open=True)
    not_negative(warmup_steps=warmup_steps)
    first, second = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    margins = beta * (first - second)
    doubtful = (margins <= spa_threshold(state, percentile)) & (state.steps >= warmup_steps)
    losses = logistic(margins) + jnp.where(doubtful, label_smoothing * margins, 0)
    mean = jax.lax.stop_gradient(mean_over(valid, margins)).astype(state.margins.dtype)
    new = SPAState(state.margins.at[state.steps % state.margins.size].set(mean), state.steps + 1)
    some = valid.any()
    return only(valid, losses), jax.tree.map(lambda x, old: jnp.where(some, x, old), new, state)
