"""DFT (arXiv:2502.18679): a positive response against samples of the model, with a partition per example."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, floats, positive
from jaxpref.losses.rows import entry_of, only, slots
from jaxpref.losses.scores import per_token

__all__ = ["dft", "dft2", "dft_state"]

Lists = Float[Array, "b k"]
Rows = Bool[Array, " b"]
Ids = Int[Array, " b"]
Table = Float[Array, " examples"]


def dft_state(num_examples: int) -> Table:
    """log u of every training example, 0 before the first step. A checkpoint must hold it.

    Returns:
      [examples] of zeros.

    Raises:
      ValueError: num_examples is below 1.

    Example:
      >>> print(losses.dft_state(2))
      [0.0000 0.0000]
    """
    if num_examples < 1:
        raise ValueError(f"num_examples: expected 1 or more, got {num_examples}")
    return jnp.zeros(num_examples)


def _surrogate(
    scores: Lists, log_weights: Lists, ids: Ids, valid: Rows, table: Table, gamma: float
) -> tuple[Float[Array, " b"], Table]:
    """-s_0 + mean_j exp(g_j - log u) s_j over the samples j, with the bracket held fixed."""
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma: expected a number in (0, 1], got {gamma}")
    if scores.shape[1] < 2:
        raise ValueError("logps: expected a positive response and at least one sample, got one response")
    log_weights = jax.lax.stop_gradient(log_weights[:, 1:])
    batch = jax.nn.logsumexp(log_weights, axis=1) - math.log(log_weights.shape[1])
    before = entry_of(table, ids, valid)
    kept = math.log1p(-gamma) if gamma < 1 else -math.inf
    now = jnp.logaddexp(kept + before, math.log(gamma) + batch)
    weights = jnp.exp(log_weights - now[:, None])
    losses = -scores[:, 0] + (weights * scores[:, 1:]).mean(1)
    new = table.at[slots(table, ids, valid)].set(now.astype(table.dtype), mode="drop")
    return only(valid, losses), new


def dft(
    logps: Lists,
    reference_logps: Lists,
    example_ids: Ids,
    valid: Rows,
    state: Table,
    *,
    tau: float = 1.0,
    gamma: float = 0.85,
) -> tuple[Float[Array, " b"], Table]:
    """Discriminative fine-tuning: response 0 is the positive one, the others are samples of the model.

    Guo et al. 2025, arXiv:2502.18679, as released. With g_j = logp_j / tau - reference logp_j over the
    samples, log u of the example moves to log((1 - gamma) u + gamma mean_j exp(g_j)), and the loss is
    -logp_0 + mean_j exp(g_j - log u) logp_j with the weights held fixed. It is a surrogate: its gradient
    means something, its value does not. gamma = 1 has no memory and weights softmax(g). tau divides the
    policy's log-prob but not the reference's. Ids of one batch must differ, else the state keeps one of them.

    Args:
      tau: above 0 (released: 1). gamma: in (0, 1] (released: 0.85).

    Returns:
      [b] nats, of either sign (0 in rows that are not valid, NaN for an id that the state does not have), and
      the new state.

    Raises:
      ValueError: shapes differ, a list has no sample, or a hyper-parameter is outside its range.

    Example:
      >>> logps, ids = jnp.array([[-1.0, -2.0, -4.0]]), jnp.array([0])  # g = 0, and all weights are 1
      >>> print(*losses.dft(logps, logps / 2, ids, ids == 0, losses.dft_state(1), tau=2.0))  # 1 - (2 + 4) / 2
      [-2.0000] [0.0000]
    """
    positive(tau=tau)
    check_axes(
        logps=(logps, "b k"),
        reference_logps=(reference_logps, "b k"),
        example_ids=(example_ids, "b"),
        valid=(valid, "b"),
    )
    scores, reference = (only(valid, x) for x in floats(logps, reference_logps))
    return _surrogate(scores, scores / tau - reference, example_ids, valid, state, gamma)


def dft2(
    logps: Lists,
    lengths: Int[Array, "b k"],
    example_ids: Ids,
    valid: Rows,
    state: Table,
    *,
    tau: float = 0.3,
    gamma: float = 0.9,
) -> tuple[Float[Array, " b"], Table]:
    """DFT2: `dft` with log-probs per token and no reference, g_j = logp_j / |y_j| / tau.

    Guo et al. 2025, arXiv:2502.18679, as released. The value is a surrogate, as in `dft`.

    Args:
      tau: above 0 (released: 0.3). gamma: in (0, 1] (released: 0.9).

    Returns:
      [b] nats a token, of either sign (0 in rows that are not valid, NaN for an unknown id), and the new
      state.

    Raises:
      ValueError: shapes differ, a list has no sample, or a hyper-parameter is outside its range.

    Example:
      >>> logps, n, ids = jnp.array([[-2.0, -4.0, -4.0]]), jnp.array([[2, 2, 2]]), jnp.array([0])
      >>> loss = partial(losses.dft2, tau=0.5, gamma=1.0)  # no memory, equal samples: 1 - 2; log u = -2 / tau
      >>> print(*loss(logps, n, ids, ids == 0, losses.dft_state(1)))
      [-1.0000] [-4.0000]
    """
    positive(tau=tau)
    check_axes(
        logps=(logps, "b k"), lengths=(lengths, "b k"), example_ids=(example_ids, "b"), valid=(valid, "b")
    )
    (scores,) = floats(logps)
    scores = per_token(only(valid, scores), lengths)
    return _surrogate(scores, scores / tau, example_ids, valid, state, gamma)
