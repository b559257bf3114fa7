"""Policy losses that regress log-ratios on how often a response wins, as a preference model tells it.

SPPO (arXiv:2405.00675) and general preference optimisation, GPO (arXiv:2410.02197).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import as_floats, check_axes, floats, positive
from jaxpref.losses.scores import log_ratios

__all__ = ["gpo", "gpo_scores", "sppo", "win_rates"]

Batch = Float[Array, " b"]


def _row_means(
    table: Float[Array, "b k k"], where: Bool[Array, "b k"] | None, own: float
) -> Float[Array, "b k"]:
    check_axes(table=(table, "b k j"))
    (table,) = floats(table)
    responses = table.shape[-1]
    if where is None:
        where = jnp.ones(table.shape[:-1], bool)
    check_axes(table=(table, "b k k"), where=(where, "b k"))
    # The entry of a response against itself is known; a judge may have left anything there.
    table = jnp.where(jnp.eye(responses, dtype=bool), own, table)
    means = jnp.where(where[:, None, :], table, 0).sum(-1) / jnp.maximum(where.sum(-1), 1)[:, None]
    return jnp.where(where, means, 0)


def win_rates(
    preferences: Float[Array, "b k k"], where: Bool[Array, "b k"] | None = None
) -> Float[Array, "b k"]:
    """Mean of P(i beats j) over all j of the list, itself (one half) among them: the scores of `sppo`.

    Args:
      preferences: P(i beats j), in [0, 1]; the diagonal is not read.
      where: which responses exist; None: all.

    Returns:
      [b, k] in [0, 1]; 0 for a response that does not exist.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> print(win_rates(jnp.array([[[0.5, 0.75], [0.25, 0.5]]])))
      [[0.6250 0.3750]]
    """
    return _row_means(preferences, where, 0.5)


def gpo_scores(scores: Float[Array, "b k k"], where: Bool[Array, "b k"] | None = None) -> Float[Array, "b k"]:
    """Mean of the skew scores s(i, j) over all j of the list, itself (0) among them: the scores of `gpo`.

    Differs from the released script, which antisymmetrises a table that may be skew already: twice this.

    Args:
      scores: s(i, j) = -s(j, i), log-odds that i beats j; the diagonal is not read.
      where: which responses exist; None: all.

    Returns:
      [b, k] in the unit of `scores`, of sum 0 where all exist; 0 for a response that does not exist.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> print(gpo_scores(jnp.array([[[0.0, 1.0], [-1.0, 0.0]]])))
      [[0.5000 -0.5000]]
    """
    return _row_means(scores, where, 0.0)


def sppo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_scores: Batch,
    rejected_scores: Batch,
    *,
    beta: float = 0.001,
) -> Batch:
    """Self-play preference optimisation: ((u_w - (P_w - 1/2) / beta)^2 + (u_l - (P_l - 1/2) / beta)^2) / 2.

    Wu et al. 2024, arXiv:2405.00675, as released. `chosen_scores` and `rejected_scores` are win rates P in
    [0, 1] against the policy's own responses (`win_rates`); chosen and rejected are those with the highest
    and the lowest of a list. The reference is the policy that drew them. Win rates of 1 and 0 are
    `sppo_hard`.

    Args:
      beta: 1 / eta of the paper, above 0 (0.001).

    Returns:
      [b] nats squared, 0 or more; 0 where policy and reference agree and both win rates are one half.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.5]), jnp.array([-2.5]), jnp.array([-2.0])
      >>> high, low, half = jnp.array([0.75]), jnp.array([0.25]), jnp.array([0.5])
      >>> print(losses.sppo(w, x, ref, ref, high, low, beta=0.5), losses.sppo(w, x, ref, ref, half, half))
      [0.0000] [0.2500]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    first, chosen, rejected = as_floats(
        chosen_logps=first, chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    first, second = first - (chosen - 0.5) / beta, second - (rejected - 0.5) / beta
    return (first**2 + second**2) / 2


def gpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_scores: Batch,
    rejected_scores: Batch,
    *,
    beta: float = 0.001,
) -> Batch:
    """General preference optimisation: `sppo` with mean scores in place of win rates less one half.

    ((u_w - s_w / beta)^2 + (u_l - s_l / beta)^2) / 2, Zhang et al. 2024, arXiv:2410.02197, Eq. 5.3.
    `chosen_scores` and `rejected_scores` are `gpo_scores`.

    Differs from the paper, which has no factor one half and sums over all samples. Its released scripts learn
    from the best and the worst of five, as here (their policy trainer is not public). As there, the log of
    the normaliser is taken for 0, and the reference is the policy of the round before, which drew the
    responses.

    Args:
      beta: 1 / eta, above 0 (released scripts: 0.001; the paper's text gives none).

    Returns:
      [b] nats squared, 0 or more; 0 where policy and reference agree and both scores are 0.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0, -2.0]), jnp.array([-3.0, -2.0]), jnp.full(2, -2.0)
      >>> high, low = jnp.full(2, 0.5), jnp.full(2, -0.5)  # targets +1 and -1: reached, and at the reference
      >>> print(losses.gpo(w, x, ref, ref, high, low, beta=0.5))
      [0.0000 1.0000]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    first, chosen, rejected = as_floats(
        chosen_logps=first, chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    first, second = first - chosen / beta, second - rejected / beta
    return (first**2 + second**2) / 2
