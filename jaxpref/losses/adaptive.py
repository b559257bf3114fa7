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
    """Both averages at 0, as in the released code (arXiv:2407.08639), which does not correct their bias.

    Returns:
      state of `beta_dpo` before the first step, float32 scalars.

    Example:
      >>> [float(average) for average in losses.beta_dpo_state()]
      [0.0, 0.0]
    """
    return BetaDPOState(jnp.zeros(()), jnp.zeros(()))


def _averaged(margins: Batch, valid: Rows, state: BetaDPOState, momentum: float) -> BetaDPOState:
    """The averages after this batch, the same as before where it has no valid row."""
    n, mean = valid.sum(), mean_over(valid, margins)
    variance = only(valid, (margins - mean) ** 2).sum() / jnp.maximum(n - 1, 1)
    return jax.tree.map(
        lambda old, x: jnp.where(n > 0, momentum * old + (1 - momentum) * x, old).astype(old.dtype),
        state,
        BetaDPOState(mean, jnp.sqrt(variance)),
    )


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

    Wu et al. 2024, arXiv:2407.08639, as released; nats. M and S, moving averages of the batch's mean and
    standard deviation of D, are updated first. Then floor((1 - filtered) n) of the n valid rows, at least
    one, are drawn without replacement with weights exp(-((D - M) / S)^2 / 2), which are equal while
    S = 0. The strength is max(0.001, beta * (1 + alpha * (mean D of the drawn - M))), without gradient.

    The batch is the global one; microbatches would average and draw in each part, which changes the value.

    Differs from the released code, whose deviation is NaN in a batch of one row (here 0).

    Args:
      beta: above 0 (released: 0.1). alpha: 0 or more (0.6). filtered: share left out, in [0, 1) (0.2).
      momentum: of the averages, in [0, 1) (0.9).

    Returns:
      losses [b], nats, 0 in rows not drawn, the others scaled so that the mean over valid rows is the mean
      over drawn ones; and the new state. alpha = filtered = 0 is `dpo`.

    Raises:
      ValueError: a hyper-parameter is out of range, or shapes differ.

    Example:
      >>> logps, row = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)], jnp.array([True])  # D = 2
      >>> start, key = losses.beta_dpo_state(), jax.random.key(0)
      >>> value, state = losses.beta_dpo(*logps, row, key, start, beta=0.5, alpha=0.0, filtered=0.0)
      >>> print(value, losses.dpo(*logps, beta=0.5), state.mean)  # (1 - 0.9) * 2
      [0.3133] [0.3133] 0.2000
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    within("filtered", filtered, 0, 1)
    within("momentum", momentum, 0, 1)
    first, second = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    margins = first - second
    fixed = jax.lax.stop_gradient(margins)
    new = _averaged(fixed, valid, state, momentum)
    kept = _filtered(fixed, valid, new, filtered, key)
    strength = jnp.maximum(beta * (1 + alpha * (mean_over(kept, fixed) - new.mean)), 1e-3)
    scale = valid.sum() / jnp.maximum(kept.sum(), 1)
    return only(kept, scale * logistic(strength * margins)), new


class MixedPOState(NamedTuple):
    """Mean of all rewards so far, chosen and rejected (nats), and how many there were."""

    mean: Float[Array, ""]
    count: Float[Array, ""]


def mixed_po_state() -> MixedPOState:
    """No rewards yet: mean and count are 0 (arXiv:2411.10442).

    Returns:
      state of `mixed_po` before the first step, float32 scalars.

    Example:
      >>> [float(x) for x in losses.mixed_po_state()]
      [0.0, 0.0]
    """
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
    far, both sides, this batch (the global one) included, without gradient; microbatches would each move it,
    which changes the value. The NLL is per token of the chosen response.

    Differs from the released code, whose NLL is averaged over the tokens of the whole batch, and from the TRL
    it built on (<= 0.28), whose shift is the mean of the batches' means. In TRL >= 0.29 the shift is 0.

    Args:
      beta: above 0. preference_weight, quality_weight, generation_weight: 0 or more. (All four as released.)

    Returns:
      losses [b], nats, 0 or more; and the new state.

    Raises:
      ValueError: a hyper-parameter is out of range, or shapes differ.

    Example:
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # beta * u: 0.5 and -0.5
      >>> start, lengths, row = losses.mixed_po_state(), jnp.array([2]), jnp.array([True])
      >>> print(losses.mixed_po(*logps, lengths, row, start, beta=0.5)[0])  # 0.2506 + 2 * 0.0948 + 1 / 2
      [0.9402]
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
    """No steps yet, and room for the margins of `window` of them.

    Args:
      window: 1 or more (released code of arXiv:2406.04412: 50).

    Returns:
      state of `spa` before the first step: float32 [window] and an int32 counter.

    Raises:
      ValueError: window is below 1.

    Example:
      >>> state = losses.spa_state(3)
      >>> print(state.margins, state.steps)
      [0. 0. 0.] 0
    """
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
    beta * (u_w - u_l) does not exceed the threshold: the `percentile` of the mean margins of the last steps
    (the average of two order statistics, as released), without this step. No pair is smoothed in the first
    `warmup_steps`.

    The state takes one mean a step over the global batch; with microbatches it would take one for each part.

    Differs from the released code in three ways: decoupled noise detection is off (its m = 1, so margins are
    the policy's own, not those of an extrapolation from the reference); while the ring is not full the
    threshold is taken over what it holds; the warm-up is a number of steps, there a fifth of the run.

    Args:
      beta: above 0 (released: 0.1). label_smoothing: e, in [0, 0.5) (0.1). percentile: in (0, 1) (0.1).
      warmup_steps: 0 or more (ours).

    Returns:
      losses [b], nats (a smoothed one is l(h) + e h, h the margin times beta); and the new state.

    Raises:
      ValueError: a hyper-parameter is out of range, or shapes differ.

    Example:
      >>> logps, row = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)], jnp.array([True])  # h = 1
      >>> first, state = losses.spa(*logps, row, losses.spa_state(), beta=0.5, warmup_steps=0)
      >>> second, _ = losses.spa(*logps, row, state, beta=0.5, warmup_steps=0)  # the threshold is now 1
      >>> print(first, second)
      [0.3133] [0.4133]
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
