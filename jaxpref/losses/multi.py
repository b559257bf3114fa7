"""Several objectives at once: a loss with one column for each, and two ways to combine their gradients."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratios

__all__ = ["conflict_averse_mixture", "raco", "signed_dpo", "weighted_sum"]

Batch = Float[Array, " b"]
Weights = Float[Array, " o"] | Sequence[float]  # an experiment holds plain numbers
Gradients = Any  # a pytree of arrays whose axis 0 counts objectives
_MOST_OBJECTIVES = 10


def signed_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    signs: Float[Array, "b o"],
    *,
    beta: float = 0.1,
) -> Float[Array, "b o"]:
    """DPO under several objectives that label the same pair: -log sigmoid(beta * sign * (u_w - u_l)).

    RACO, arXiv:2602.02495. A sign is +1 where the objective agrees with the order of the pair and -1 where it
    would reverse it; 0 gives log 2 with no gradient. All columns share one forward pass; `raco` combines
    their gradients.

    Args:
      signs: -1, 0 or +1 for each objective; data.
      beta: above 0 (the default is ours).

    Returns:
      [b, o] nats, 0 or more, one column for each objective; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])
      >>> print(losses.signed_dpo(w, x, ref, ref, jnp.array([[1.0, -1.0, 0.0]]), beta=0.5))
      [[0.3133 1.3133 0.6931]]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    check_axes(chosen_logps=(chosen_logps, "b"), signs=(signs, "b o"))
    (signs,) = floats(signs)
    return logistic(beta * jax.lax.stop_gradient(signs) * (first - second)[:, None])


def _combination(gradients: Gradients, coefficients: Float[Array, " o"]) -> Gradients:
    def combine(x):
        wide = jnp.promote_types(x.dtype, jnp.float32)
        c = coefficients.astype(wide)
        return jnp.tensordot(c, x.astype(wide), axes=1, precision=jax.lax.Precision.HIGHEST).astype(x.dtype)

    return jax.tree.map(combine, gradients)


def _check(gradients: Gradients, weights: Array) -> int:
    (o,) = jnp.shape(weights)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        if jnp.shape(leaf)[:1] != (o,):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"gradients{name}: expected axis 0 of {o} objectives, got {jnp.shape(leaf)}")
    return o


def weighted_sum(gradients: Gradients, weights: Weights) -> Gradients:
    """Sum over objectives of weight times gradient: the gradient of the weighted sum of the losses.

    Args:
      gradients: a pytree whose leaves have the `o` objectives on axis 0.
      weights: one for each objective, of any sign.

    Returns:
      A pytree like `gradients`, without axis 0.

    Raises:
      ValueError: axis 0 of a leaf is not the number of weights.

    Example:
      >>> print(weighted_sum({"w": jnp.eye(2)}, [0.25, 0.75])["w"])
      [0.2500 0.7500]
    """
    weights = jnp.asarray(weights)
    _check(gradients, weights)
    return _combination(gradients, weights)


def _gram(gradients: Gradients) -> Float[Array, "o o"]:
    """Inner products of the objectives' gradients over all leaves, float32 or better. On sharded leaves it is
    the global one under jit."""

    def one(x):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(1, x.ndim))
        return jnp.tensordot(x, x, axes=(axes, axes), precision=jax.lax.Precision.HIGHEST)

    return sum(one(x) for x in jax.tree.leaves(gradients))  # type: ignore[return-value]


def _faces(o: int) -> Bool[np.ndarray, "f o"]:
    """Every non-empty set of objectives."""
    if o > _MOST_OBJECTIVES:
        raise ValueError(f"gradients: at most {_MOST_OBJECTIVES} objectives, got {o}")
    return np.array(list(itertools.product((False, True), repeat=o))[1:])


def conflict_averse_mixture(
    gram: Float[Array, "o o"], weights: Float[Array, " o"], c: float
) -> Float[Array, " o"]:
    """The p on the simplex that minimises <G_p, g0> + c |g0| |G_p|, G_p = sum_i p_i g_i, g0 = sum_i w_i g_i.

    Exact up to rounding: on each face of the simplex the stationary point has a closed form, so all 2^o - 1
    are computed and the best one that lies in the simplex is taken. The objective is convex. Where gradients
    are linearly dependent, the minimiser need not be unique.

    Args:
      gram: inner products of the gradients. weights: w, on the simplex. c: 0 or more.

    Returns:
      [o], 0 or more, of sum 1.

    Raises:
      ValueError: there are more than 10 objectives.

    Example:
      >>> print(conflict_averse_mixture(jnp.eye(2), jnp.array([1.0, 0.0]), 0.4))  # all to what g0 neglects
      [0.0000 1.0000]
    """
    o = gram.shape[0]
    faces = _faces(o)
    tiny = 8 * o * float(jnp.finfo(gram.dtype).eps)
    largest = jnp.max(jnp.diagonal(gram))
    gram = gram / jnp.where(largest > 0, largest, 1)
    lengths = jnp.sqrt(jnp.diagonal(gram))
    lengths = jnp.where(lengths > 0, lengths, 1)
    cosines = gram / jnp.outer(lengths, lengths)  # solved with these: one gradient may be far shorter
    weights = weights.astype(gram.dtype)
    target = gram @ weights
    s = c * jnp.sqrt(jnp.maximum(weights @ target, 0))

    def value(p):
        return target @ p + s * jnp.sqrt(jnp.maximum(p @ gram @ p, 0))

    def candidates(face):
        # Off the face: an identity block, so that one solve serves faces of every size. The ridge makes faces
        # of linearly dependent gradients solvable; the values below are of the gram matrix as it is.
        inside = face.astype(gram.dtype)
        matrix = jnp.where(face[:, None] & face[None, :], cosines, 0)
        matrix = matrix + jnp.diag(jnp.where(face, tiny, 1))
        solved = jnp.linalg.solve(matrix, jnp.stack([inside, inside * target], 1) / lengths[:, None])
        ones, along = (solved / lengths[:, None] * inside[:, None]).T
        a, b, d = ones.sum(), along.sum(), along @ target
        root = jnp.sqrt(jnp.maximum(b**2 - a * (d - s**2), 0))
        safe = jnp.where(root > 0, root, 1)
        stationary = ((b + root) / a * ones - along) / safe
        # The shortest G_p of the face: the minimiser where the face holds p with G_p = 0.
        return jnp.stack([jnp.where(root > 0, stationary, inside / inside.sum()), ones / a])

    points = jax.vmap(candidates)(jnp.asarray(faces)).reshape(-1, o)
    points = jnp.concatenate([points, jnp.eye(o, dtype=gram.dtype)])
    feasible = (points >= -tiny).all(1) & jnp.isfinite(points).all(1)
    points = jnp.where(feasible[:, None], jnp.maximum(points, 0), 1 / o)
    points = points / points.sum(1, keepdims=True)
    values = jnp.where(feasible, jax.vmap(value)(points), jnp.inf)
    return points[jnp.argmin(values)]


def raco(gradients: Gradients, weights: Weights, *, c: float = 0.4, clip: bool = True) -> Gradients:
    """Conflict-averse combination of objectives' gradients: g0 + c |g0| G_p / |G_p|.

    RACO, arXiv:2602.02495. g0 = sum_i w_i g_i is the weighted sum, G_p = sum_i p_i g_i, and p minimises
    <G_p, g0> + c |g0| |G_p| on the simplex, so the addition pulls toward objectives that g0 serves worst.
    With `clip`, p is replaced by min(p, w), elementwise: none is pulled beyond the weight that it was given.
    c = 0 is `weighted_sum`; equal gradients g give (1 + c) g. Where G_p vanishes the addition does too.

    Differs from the released code, where `clip` is off by default. Gradients must be the global ones, before
    any clipping of norms: mixtures of parts are not the mixture of the whole.

    Args:
      gradients: a pytree whose leaves have the objectives on axis 0 (`jax.jacrev` of mean losses gives it).
      weights: on the simplex. c: 0 or more (released: 0.4). clip: whether p is held below the weights.

    Returns:
      A pytree like `gradients`, without axis 0.

    Raises:
      ValueError: c is below 0, axis 0 of a leaf is not the number of weights, or there are more than 10.

    Example:
      >>> print(raco({"w": jnp.array([[1.0, 2.0], [1.0, 2.0]])}, [0.5, 0.5], c=0.4)["w"])  # 1.4 g
      [1.4000 2.8000]
    """
    not_negative(c=c)
    gram = _gram(gradients)
    weights = jnp.asarray(weights).astype(gram.dtype)
    _check(gradients, weights)
    p = conflict_averse_mixture(gram, weights, c)
    if clip:
        p = jnp.minimum(p, weights)
    length = jnp.sqrt(jnp.maximum(weights @ gram @ weights, 0))
    squared = p @ gram @ p
    # Rounding leaves a vanishing G_p with a direction of its own, which must not be scaled up.
    largest = (p @ jnp.sqrt(jnp.diagonal(gram))) ** 2  # of |G_p|^2: all gradients in one direction
    some = squared > 16 * p.size * float(jnp.finfo(gram.dtype).eps) * largest
    pull = jnp.where(some, c * length / jnp.sqrt(jnp.where(some, squared, 1)), 0)
    return _combination(gradients, weights + pull * p)
