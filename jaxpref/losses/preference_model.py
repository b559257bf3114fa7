"""Models of P(i beats j) that need not come from one score: preference matrices, and losses that fit them.

A preference matrix `P [b, k, k]` holds P_ij = P(response i beats response j): P + P^T = 1, and one half on
the diagonal. Rewards cannot express a cycle (A beats B beats C beats A); the functions below can. Sources:
arXiv:2312.00886 (pairs seen together), arXiv:2410.02197 (skew-symmetric embeddings).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats, floats, not_negative, positive
from jaxpref.losses.links import logistic

__all__ = [
    "bradley_terry_preferences",
    "check_preferences",
    "general_preference",
    "general_preference_scores",
    "general_preference_soft",
    "general_preferences",
    "pair_preference",
    "pair_preference_penalised",
    "pair_preference_soft",
    "symmetrised",
]

Batch = Float[Array, " b"]
Embeddings = Float[Array, "b m"]


def bradley_terry_preferences(
    rewards: Float[Array, "*b k"], *, temperature: float = 1.0
) -> Float[Array, "*b k k"]:
    """The preference matrix of rewards: P_ij = sigmoid((r_i - r_j) / temperature).

    Args:
      temperature: above 0.

    Returns:
      [*b, k, k] probabilities; one half on the diagonal.

    Raises:
      ValueError: temperature is not above 0.

    Example:
      >>> print(bradley_terry_preferences(jnp.log(jnp.array([9.0, 1.0])), temperature=2.0).tolist())  # log 3
      [[0.5000, 0.7500], [0.2500, 0.5000]]
    """
    positive(temperature=temperature)
    (rewards,) = floats(rewards)
    return jax.nn.sigmoid((rewards[..., :, None] - rewards[..., None, :]) / temperature)


def symmetrised(p: Float[Array, "*b k k"]) -> Float[Array, "*b k k"]:
    """(P + 1 - P^T) / 2, and one half on the diagonal, whatever a judge of ordered pairs left there.

    The mean over both orders of a judge that reads "A" before "B": it has no bias of position.

    Returns:
      [*b, k, k], a preference matrix if P holds probabilities.

    Example:
      >>> print(symmetrised(jnp.array([[0.9, 0.8], [0.4, 0.1]])).tolist())  # (0.8 + 1 - 0.4) / 2
      [[0.5000, 0.7000], [0.3000, 0.5000]]
    """
    (p,) = floats(p)
    both = (p + 1 - jnp.swapaxes(p, -1, -2)) / 2
    return jnp.where(jnp.eye(p.shape[-1], dtype=bool), 0.5, both)


def check_preferences(p: Float[Array, "*b k k"], *, tolerance: float = 1e-5) -> None:
    """Raises ValueError unless `p` is a preference matrix. Reads values: on the host, not under jit.

    Args:
      tolerance: largest deviation from one half on the diagonal, and of P + P^T from 1.

    Returns:
      None.

    Raises:
      ValueError: `p` is not square, not in [0, 1], not one half on the diagonal, or P + P^T is not 1.

    Example:
      >>> check_preferences(jnp.array([[0.5, 0.7], [0.7, 0.5]]))
      Traceback (most recent call last):
      ValueError: preferences: expected P + P^T = 1, off by 0.400 at (0, 1); see `symmetrised`
    """
    table = np.asarray(p, np.float64)
    if table.ndim < 2 or table.shape[-1] != table.shape[-2]:
        raise ValueError(f"preferences: expected one shape [..., k, k], got {table.shape}")
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"preferences: expected probabilities in [0, 1], got {table.min()} to {table.max()}")
    off = np.abs(np.diagonal(table, axis1=-2, axis2=-1) - 0.5)
    if (off > tolerance).any():
        raise ValueError(f"preferences: expected one half on the diagonal, off by up to {off.max():.3g}")
    off = np.abs(table + table.swapaxes(-1, -2) - 1)
    if (off > tolerance).any():
        at = tuple(int(i) for i in np.unravel_index(off.argmax(), off.shape))
        raise ValueError(
            f"preferences: expected P + P^T = 1, off by {off.max():.3g} at {at}; see `symmetrised`"
        )


def _check_even(embeddings: Float[Array, "*b m"]) -> None:
    if embeddings.shape[-1] % 2 or not embeddings.shape[-1]:
        raise ValueError(f"general preference: expected an even width, got {embeddings.shape[-1]}")


def _unit(v: Float[Array, "*b m"]) -> Float[Array, "*b m"]:
    """v / |v|; 0, with no gradient, for 0."""
    squares = (v**2).sum(-1, keepdims=True)
    return jnp.where(squares > 0, v / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _turned(v: Float[Array, "*b m"]) -> Float[Array, "*b m"]:
    """R^T v: each block (x, y) becomes (y, -x)."""
    blocks = v.reshape(*v.shape[:-1], -1, 2)
    return jnp.stack([blocks[..., 1], -blocks[..., 0]], -1).reshape(v.shape)


def general_preference_scores(
    embeddings: Float[Array, "*b k m"],
    eigenvalues: Float[Array, "*b half_m"] | None = None,
    *,
    normalize: bool = True,
) -> Float[Array, "*b k k"]:
    """s_ij = v_i^T R^T v_j = sum over blocks of (v_i0 v_j1 - v_i1 v_j0): skew-symmetric for any v.

    Zhang et al. 2024, arXiv:2410.02197. One block of unit vectors gives sin(angle_j - angle_i), and
    v = (r, 1) not normalised gives r_i - r_j, so Bradley-Terry is a special case. All of a list costs one
    forward for each response.

    Args:
      eigenvalues: weight of each block, such as a softmax over a prompt's state; multiplied by their number,
        so that uniform ones are the plain form. (The released training code also divides by the square root
        of a width, its inference example does neither.)
      normalize: to unit length, as in the paper (Sec. 4) and the released inference example (its training
        file does not).

    Returns:
      [*b, k, k] without unit; s_ij = -s_ji exactly.

    Raises:
      ValueError: the width is odd, or eigenvalues have another shape.

    Example:
      >>> turns = 2 * jnp.pi * jnp.arange(3) / 3  # a cycle: each beats the next by sin(120 degrees)
      >>> s = general_preference_scores(jnp.stack([jnp.cos(turns), jnp.sin(turns)], -1))
      >>> print(s[0, 1], s[1, 2], s[2, 0])
      0.8660 0.8660 0.8660
    """
    (v,) = floats(embeddings)
    _check_even(v)
    if normalize:
        v = _unit(v)
    second = _turned(v)
    if eigenvalues is not None:
        blocks = v.shape[-1] // 2
        if eigenvalues.shape != (*v.shape[:-2], blocks):
            raise ValueError(
                f"eigenvalues: expected one shape {(*v.shape[:-2], blocks)}, got {eigenvalues.shape}"
            )
        second = second * jnp.repeat(blocks * eigenvalues, 2, axis=-1)[..., None, :]
    table = jnp.einsum("...im,...jm->...ij", v, second, precision="highest")
    # Skew to the last bit: a matrix product need not add s_ij and s_ji in the same order.
    return (table - jnp.swapaxes(table, -1, -2)) / 2


def general_preferences(
    embeddings: Float[Array, "*b k m"],
    eigenvalues: Float[Array, "*b half_m"] | None = None,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
) -> Float[Array, "*b k k"]:
    """The preference matrix of embeddings: P_ij = sigmoid(s_ij / temperature) of `general_preference_scores`.

    Args:
      eigenvalues, normalize: as there. temperature: above 0 (paper and released code: 0.1).

    Returns:
      [*b, k, k] probabilities; one half on the diagonal.

    Raises:
      ValueError: temperature is not above 0, the width is odd, or eigenvalues have another shape.

    Example:
      >>> print(general_preferences(jnp.eye(2), temperature=0.5).tolist())  # sigmoid(1 / 0.5)
      [[0.5000, 0.8808], [0.1192, 0.5000]]
    """
    positive(temperature=temperature)
    return jax.nn.sigmoid(
        general_preference_scores(embeddings, eigenvalues, normalize=normalize) / temperature
    )


def _pair_score(chosen: Embeddings, rejected: Embeddings, normalize: bool) -> Batch:
    chosen, rejected = as_floats(chosen_embeddings=chosen, rejected_embeddings=rejected)
    _check_even(chosen)
    if normalize:
        chosen, rejected = _unit(chosen), _unit(rejected)
    return (chosen * _turned(rejected)).sum(-1)


def general_preference(
    chosen_embeddings: Embeddings,
    rejected_embeddings: Embeddings,
    *,
    temperature: float = 0.1,
    margin: float = 0.0,
    normalize: bool = True,
) -> Batch:
    """General preference model: -log sigmoid((s(w, l) - margin) / temperature).

    Zhang et al. 2024, arXiv:2410.02197: s is the skew form of `general_preference_scores`, so preferences may
    form cycles. With unit vectors s is in [-1, 1] and the temperature sets the sharpest probability.

    Args:
      temperature: above 0 (paper and released code: 0.1). margin: any number.
      normalize: embeddings to unit length (the released inference example does, its training file does not).

    Returns:
      [b] nats, 0 or more; log 2 for equal embeddings without margin.

    Raises:
      ValueError: shapes differ, the width is odd, or temperature is not above 0.

    Example:
      >>> loss = partial(losses.general_preference, jnp.array([[2.0, 0.0]]))  # a quarter turn is s = 1
      >>> print(loss(jnp.array([[0.0, 2.0]]), temperature=0.5, margin=0.5), loss(jnp.array([[1.0, 0.0]])))
      [0.3133] [0.6931]
    """
    positive(temperature=temperature)
    return logistic((_pair_score(chosen_embeddings, rejected_embeddings, normalize) - margin) / temperature)


def general_preference_soft(
    chosen_embeddings: Embeddings,
    rejected_embeddings: Embeddings,
    pair_preferences: Batch,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
) -> Batch:
    """`general_preference` against p = P(chosen beats rejected) instead of a label: cross entropy.

    Zhang et al. 2024, arXiv:2410.02197, with soft labels (ours). The minimum is at
    s = temperature * log(p / (1 - p)), where unit vectors can reach it.

    Args:
      temperature: above 0 (released code, hard labels: 0.1). normalize: embeddings to unit length.

    Returns:
      [b] nats, the entropy of (p, 1 - p) or more; p = 1 is `general_preference`.

    Raises:
      ValueError: shapes differ, the width is odd, or temperature is not above 0.

    Example:
      >>> w, x = jnp.array([[1.0, 0.0]] * 2), jnp.array([[0.0, 1.0]] * 2)  # h = 2: 0.1269 + (1 - p) h
      >>> print(losses.general_preference_soft(w, x, jnp.array([1.0, 0.75]), temperature=0.5))
      [0.1269 0.6269]
    """
    positive(temperature=temperature)
    margins = _pair_score(chosen_embeddings, rejected_embeddings, normalize) / temperature
    margins, p = as_floats(pair_scores=margins, pair_preferences=pair_preferences)
    return logistic(margins) + (1 - p) * margins


def pair_preference(chosen_rewards: Batch, rejected_rewards: Batch) -> Batch:
    """A cross-encoder that reads both responses: -log sigmoid(s(x, y_w, y_l) - s(x, y_l, y_w)).

    Preference models of Munos et al. 2023, arXiv:2312.00886, made antisymmetric by construction (ours).
    `chosen_rewards` is s with the chosen response first, `rejected_rewards` with the rejected first: Bradley-
    Terry of the two orders. `pair_preference_penalised` is for a model whose two orders stand for themselves.

    Returns:
      [b] nats, 0 or more; log 2 where the model prefers neither.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> print(losses.pair_preference(jnp.log(jnp.array([6.0])), jnp.log(jnp.array([2.0]))))  # -log(3/4)
      [0.2877]
    """
    chosen, rejected = as_floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return logistic(chosen - rejected)


def pair_preference_soft(chosen_rewards: Batch, rejected_rewards: Batch, pair_preferences: Batch) -> Batch:
    """`pair_preference` against p = P(chosen beats rejected) instead of a label: cross entropy.

    Munos et al. 2023, arXiv:2312.00886, antisymmetric by construction (ours). The minimum is at
    s(x, y_w, y_l) - s(x, y_l, y_w) = log(p / (1 - p)).

    Returns:
      [b] nats, the entropy of (p, 1 - p) or more; p = 1 is `pair_preference`.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> w, x = jnp.log(jnp.array([6.0])), jnp.log(jnp.array([2.0]))  # the minimum for p = 3/4
      >>> print(losses.pair_preference_soft(w, x, jnp.array([0.75])))
      [0.5623]
    """
    chosen, rejected, p = as_floats(
        chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, pair_preferences=pair_preferences
    )
    return logistic(chosen - rejected) + (1 - p) * (chosen - rejected)


def pair_preference_penalised(
    chosen_rewards: Batch, rejected_rewards: Batch, pair_preferences: Batch, *, symmetry_weight: float = 1.0
) -> Batch:
    """A cross-encoder whose two orders are probabilities of their own, held together by a penalty.

    Mean cross entropy of P12 = sigmoid(s(x, y_w, y_l)) against p and of P21 = sigmoid(s(x, y_l, y_w)) against
    1 - p, plus symmetry_weight * (P12 + P21 - 1)^2. For the models of Munos et al. 2023, arXiv:2312.00886;
    the penalty is ours. The minimum is at P12 = p = 1 - P21, where the penalty vanishes.

    Args:
      symmetry_weight: 0 or more (the default is ours).

    Returns:
      [b] nats (the penalty has no unit), the entropy of (p, 1 - p) or more.

    Raises:
      ValueError: shapes differ, or symmetry_weight is below 0.

    Example:
      >>> s, p = jnp.log(jnp.array([3.0])), jnp.array([0.75])  # P12 = p; P21 = 1 - p, then p
      >>> print(losses.pair_preference_penalised(s, -s, p), losses.pair_preference_penalised(s, s, p))
      [0.5623] [1.0870]
    """
    not_negative(symmetry_weight=symmetry_weight)
    first, second, p = as_floats(
        chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, pair_preferences=pair_preferences
    )
    entropy = (logistic(first) + (1 - p) * first + logistic(second) + p * second) / 2
    excess = jax.nn.sigmoid(first) - jax.nn.sigmoid(-second)
    return entropy + symmetry_weight * excess**2
