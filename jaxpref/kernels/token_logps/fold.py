"""What a pass over the vocabulary keeps of each row, and the gradient that follows from it.

One fold serves every implementation: blocks of logits are added in any order, partial results of devices
that hold parts of the vocabulary merge, and the end gives log-probs and statistics. Arrays are `[n, 1]`
for rows and `[n, c]` for tiles, so that the same code runs inside a Pallas kernel.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = [
    "KL",
    "LOWEST",
    "STATISTICS",
    "Carry",
    "add",
    "finish",
    "logits_gradient",
    "merge_devices",
    "rebased",
    "start",
]

STATISTICS = {
    "logsumexp": "log-normaliser of the logits, nats",
    "entropy": "of the full distribution, nats, in [0, log v]",
    "log_sum_p2": "log of the sum of squared probabilities (WPO, arXiv:2406.11827), nats, in [-log v, 0]",
    "top1": "True where no other token has a larger logit than the target (ties count); no gradient",
    "reverse_kl": "KL(policy || reference) over the full vocabulary, nats",
    "forward_kl": "KL(reference || policy) over the full vocabulary (TDPO, arXiv:2404.11999), nats",
}
KL = ("reverse_kl", "forward_kl")  # these need the reference's logits beside the policy's

Carry = dict[str, Array]

# Below every logit, yet finite: differences of it are no NaN, and exp of them is exactly 0.
LOWEST = -1e30


def start(rows: int, statistics: tuple[str, ...], dtype: jnp.dtype) -> Carry:
    """The carry of a fold over nothing. Sums are relative to `top`, the largest logit so far.

    Returns:
      `[rows, 1]` arrays by name: `top` of `LOWEST`, and sums of 0.

    Example:
      >>> from jaxpref.kernels.token_logps import fold
      >>> print(sorted(fold.start(2, ("entropy",), jnp.float32)))
      ['entropy', 'target', 'top', 'total']
    """
    zero, lowest = jnp.zeros((rows, 1), dtype), jnp.full((rows, 1), LOWEST, dtype)
    carry = {"top": lowest, "total": zero, "target": zero}
    for name in ("entropy", "log_sum_p2", "reverse_kl", "forward_kl"):
        if name in statistics:
            carry[name] = zero
    if any(name in statistics for name in KL):
        carry |= {"reference_top": lowest, "reference_total": zero}
    return carry


def rebased(carry: Carry, top: Array, reference_top: Array | None = None) -> Carry:
    """The same sums relative to other tops.

    Returns:
      The new carry.

    Example:
      >>> from jaxpref.kernels.token_logps import fold
      >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))
      >>> carry = fold.add(fold.start(1, (), logits.dtype), logits, logits[:, 1:])
      >>> print(fold.rebased(carry, jnp.zeros((1, 1)))["total"])  # 1 + 3
      [[4.0]]
    """
    shift = carry["top"] - top
    scale = jnp.exp(shift)
    moved = {"top": top, "total": carry["total"] * scale, "target": carry["target"]}
    if "entropy" in carry:
        moved["entropy"] = (carry["entropy"] + carry["total"] * shift) * scale
    if "log_sum_p2" in carry:
        moved["log_sum_p2"] = carry["log_sum_p2"] * jnp.square(scale)
    if reference_top is not None:
        reference_shift = carry["reference_top"] - reference_top
        reference_scale = jnp.exp(reference_shift)
        moved |= {
            "reference_top": reference_top,
            "reference_total": carry["reference_total"] * reference_scale,
        }
        apart = shift - reference_shift
        if "reverse_kl" in carry:
            moved["reverse_kl"] = (carry["reverse_kl"] + carry["total"] * apart) * scale
        if "forward_kl" in carry:
            total = carry["reference_total"]
            moved["forward_kl"] = (carry["forward_kl"] - total * apart) * reference_scale
    return moved


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=1, keepdims=True)


def _weighted(p: Array, x: Array) -> Array:
    """Sum of `p x` with `0 log 0 = 0`."""
    return _sum(jnp.where(p > 0, p * x, 0))


def add(
    carry: Carry,
    logits: Float[Array, "n c"],
    picked: Float[Array, "n 1"],
    reference_logits: Float[Array, "n c"] | None = None,
) -> Carry:
    """The fold with one more block of logits.

    Args:
      picked: the target's logit where it is in this block, else 0.

    Returns:
      The new carry.

    Example:
      >>> from jaxpref.kernels.token_logps import fold
      >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))
      >>> carry = fold.add(fold.start(1, (), logits.dtype), logits, logits[:, 1:])
      >>> print(carry["top"], carry["total"])  # log 3, and (1 + 3) / 3
      [[1.0986]] [[1.3333]]
    """
    top = jnp.maximum(carry["top"], jnp.max(logits, axis=1, keepdims=True))
    reference_top = None
    if reference_logits is not None:
        block_top = jnp.max(reference_logits, axis=1, keepdims=True)
        reference_top = jnp.maximum(carry["reference_top"], block_top)
    new = rebased(carry, top, reference_top)
    shifted = logits - top
    p = jnp.exp(shifted)
    new["total"] += _sum(p)
    new["target"] += picked
    if "entropy" in carry:
        new["entropy"] += _weighted(p, shifted)
    if "log_sum_p2" in carry:
        new["log_sum_p2"] += _sum(jnp.square(p))
    if reference_logits is not None and reference_top is not None:
        reference_shifted = reference_logits - reference_top
        q = jnp.exp(reference_shifted)
        new["reference_total"] += _sum(q)
        if "reverse_kl" in carry:
            new["reverse_kl"] += _weighted(p, shifted - reference_shifted)
        if "forward_kl" in carry:
            new["forward_kl"] += _weighted(q, reference_shifted - shifted)
    return new


def merge_devices(carry: Carry, axis_name: str) -> Carry:
    """The fold over the whole vocabulary from those over its parts, one on each device of a mesh axis.

    Returns:
      The same carry on each device.

    Example:
      >>> from jaxpref.kernels.token_logps import fold
      >>> one = lambda logits: fold.add(fold.start(1, (), logits.dtype), logits, jnp.zeros((1, 1)))
      >>> merged = lambda logits: fold.finish(fold.merge_devices(one(logits), "tensor"))["logsumexp"]
      >>> parts = jnp.log(jnp.array([[[1.0]], [[3.0]]]))  # `vmap` stands in for two devices; log 4 on both
      >>> print(jax.vmap(merged, axis_name="tensor")(parts).ravel())
      [1.3863 1.3863]
    """
    reference_top = None
    if "reference_top" in carry:
        reference_top = jax.lax.pmax(carry["reference_top"], axis_name)
    moved = rebased(carry, jax.lax.pmax(carry["top"], axis_name), reference_top)
    tops = ("top", "reference_top")
    return {name: x if name in tops else jax.lax.psum(x, axis_name) for name, x in moved.items()}


def finish(carry: Carry) -> dict[str, Array]:
    """Log-probs and statistics at the end of a fold.

    Returns:
      `logps`, `logsumexp`, `top1` and whatever else the fold was started with, each `[n, 1]` (`STATISTICS`).

    Example:
      >>> from jaxpref.kernels.token_logps import fold
      >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))
      >>> outputs = fold.finish(fold.add(fold.start(1, (), logits.dtype), logits, logits[:, 1:]))
      >>> print(jnp.exp(outputs["logps"]), jnp.exp(outputs["logsumexp"]), outputs["top1"])
      [[0.7500]] [[4.0000]] [[ True]]
    """
    total, log_total = carry["total"], jnp.log(carry["total"])
    outputs = {
        # Not target - logsumexp: for large logits that would round twice at their size.
        "logps": carry["target"] - carry["top"] - log_total,
        "logsumexp": carry["top"] + log_total,
        "top1": carry["target"] >= carry["top"],
    }
    if "entropy" in carry:
        outputs["entropy"] = log_total - carry["entropy"] / total
    if "log_sum_p2" in carry:
        outputs["log_sum_p2"] = jnp.log(carry["log_sum_p2"]) - 2 * log_total
    if "reference_top" in carry:
        reference_log_total = jnp.log(carry["reference_total"])
        outputs["reference_logsumexp"] = carry["reference_top"] + reference_log_total
        apart = reference_log_total - log_total
        if "reverse_kl" in carry:
            outputs["reverse_kl"] = carry["reverse_kl"] / total + apart
        if "forward_kl" in carry:
            outputs["forward_kl"] = carry["forward_kl"] / carry["reference_total"] - apart
    return outputs


def logits_gradient(
    outputs: dict[str, Array],
    upstream: dict[str, Array],
    logits: Float[Array, "n c"],
    hits: Bool[Array, "n c"],
    reference_logits: Float[Array, "n c"] | None = None,
) -> Float[Array, "n c"]:
    """Gradient with respect to a block of logits, from `outputs` of `finish` and their `[n, 1]` gradients.

    The reference's logits are constants.

    Args:
      hits: True at the target's column.

    Returns:
      `[n, c]`. Rows whose upstream gradients are 0 get exactly 0.

    Example:
      >>> from jaxpref.kernels.token_logps import fold
      >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))
      >>> outputs = fold.finish(fold.add(fold.start(1, (), logits.dtype), logits, logits[:, 1:]))
      >>> hits, upstream = jnp.array([[False, True]]), {"logps": jnp.ones((1, 1))}
      >>> print(fold.logits_gradient(outputs, upstream, logits, hits))  # (0, 1) - (1/4, 3/4)
      [[-0.2500 0.2500]]
    """
    log_p = logits - outputs["logsumexp"]
    p = jnp.exp(log_p)
    weight = -upstream["logps"]  # everything that multiplies p is gathered first: one exp, few products
    if "logsumexp" in upstream:
        weight = weight + upstream["logsumexp"]
    safe_log_p = jnp.where(p > 0, log_p, 0) if {"entropy", "reverse_kl"} & upstream.keys() else log_p
    if "entropy" in upstream:
        weight = weight - upstream["entropy"] * (safe_log_p + outputs["entropy"])
    if "log_sum_p2" in upstream:
        squared = jnp.exp(2 * log_p - outputs["log_sum_p2"])
        weight = weight - 2 * upstream["log_sum_p2"]
    log_q = jnp.zeros_like(log_p)
    if reference_logits is not None and upstream.keys() & set(KL):
        log_q = reference_logits - outputs["reference_logsumexp"]
        if "reverse_kl" in upstream:
            apart = jnp.where(p > 0, log_p - log_q, 0)
            weight = weight + upstream["reverse_kl"] * (apart - outputs["reverse_kl"])
        if "forward_kl" in upstream:
            weight = weight + upstream["forward_kl"]
    gradient = p * weight + jnp.where(hits, upstream["logps"], 0)
    if "log_sum_p2" in upstream:
        gradient = gradient + 2 * upstream["log_sum_p2"] * squared
    if "forward_kl" in upstream:
        gradient = gradient - upstream["forward_kl"] * jnp.exp(log_q)
    return gradient
