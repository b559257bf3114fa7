"""Dueling bandits with linear utilities: which two arms to compare next.

P(i beats j) = sigmoid(theta . (x_i - x_j)), with features `x [n, d]`. `fit_duels` estimates theta from what
was compared; a duel then picks two arms. As estimates get better both arms become the best one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import not_negative, positive
from jaxpref.types import PRNGKey

__all__ = ["DuelFit", "colstim", "fit_duels", "thompson_duel", "ucb_duel"]

Arms = Float[Array, "n d"]
Duel = tuple[Int[Array, ""], Int[Array, ""]]


class DuelFit(NamedTuple):
    """Estimated utilities and how sure they are."""

    theta: Float[Array, " d"]
    precision: Float[Array, "d d"]  # of theta: ridge + sum of sigmoid' x x^T, x the difference of a duel


def fit_duels(
    differences: Float[Array, "t d"],
    wins: Float[Array, " t"],
    where: Bool[Array, " t"] | None = None,
    *,
    ridge: float = 1.0,
    steps: int = 8,
    start: Float[Array, " d"] | None = None,
) -> DuelFit:
    """Ridge-penalised logistic maximum likelihood, by Newton steps, halved where they overshoot.

    A full step can move away from the maximum, and then never comes back: the logistic curve is flat there.

    *Differs from* a public port of CoLSTIM, which regresses wins in {0, 1} without centring: that is biased.

    Args:
      differences: x_i - x_j of each duel. wins: 1 where i won, 0 where j did, or a probability.
      where: False for duels that did not happen, so that a history of fixed size can be filled.
      ridge: above 0; the Gaussian prior's precision. steps: of Newton, from `start` or 0.

    Returns:
      The estimate and its precision, ridge + sum of sigmoid' x x^T over the duels.

    Raises:
      ValueError: `ridge` is not above 0.

    Example:
      >>> fit = selection.fit_duels(jnp.array([[2.0]]), jnp.array([0.5]))  # a draw: sigmoid'(0) = 1/4
      >>> print(fit.theta, fit.precision)
      [0.0000] [[2.0000]]
    """
    positive(ridge=ridge)
    happened = jnp.ones(wins.shape, differences.dtype) if where is None else where.astype(differences.dtype)
    d = differences.shape[1]
    prior = ridge * jnp.eye(d, dtype=differences.dtype)

    def precision(theta: Array) -> Array:
        p = jax.nn.sigmoid(differences @ theta)
        return prior + differences.T @ ((happened * p * (1 - p))[:, None] * differences)

    def loss(theta: Array) -> Array:
        margins = differences @ theta
        return (happened * (jax.nn.softplus(margins) - wins * margins)).sum() + ridge / 2 * (theta**2).sum()

    def newton(_: Array, theta: Array) -> Array:
        surprise = happened * (wins - jax.nn.sigmoid(differences @ theta))
        step = jnp.linalg.solve(precision(theta), differences.T @ surprise - ridge * theta)
        tried = theta[None] + (0.5 ** jnp.arange(6, dtype=step.dtype))[:, None] * step[None]
        return tried[jnp.argmin(jax.vmap(loss)(tried))]

    first = jnp.zeros(d, differences.dtype) if start is None else start
    theta = jax.lax.fori_loop(0, steps, newton, first)
    return DuelFit(theta, precision(theta))


def thompson_duel(arms: Arms, fit: DuelFit, key: PRNGKey, *, scale: float = 1.0) -> Duel:
    """Two draws of theta from its Gaussian posterior, and the best arm of each (double Thompson sampling).

    Args:
      scale: of the posterior's standard deviation; 0 duels the greedy arm with itself.

    Returns:
      Numbers of the two arms, which may be the same.

    Raises:
      ValueError: `scale` is below 0.

    Example:
      >>> from jaxpref.selection.duels import DuelFit
      >>> fit = DuelFit(theta=jnp.array([0.0, 1.0]), precision=jnp.eye(2))
      >>> first, second = selection.thompson_duel(jnp.eye(2), fit, jax.random.key(0), scale=0.0)
      >>> print(int(first), int(second))
      1 1
    """
    not_negative(scale=scale)
    noise = jax.random.normal(key, (arms.shape[1], 2), arms.dtype)
    # precision = L L^T, so L^-T noise has covariance precision^-1.
    root = jnp.linalg.cholesky(fit.precision)
    deviation = jax.scipy.linalg.solve_triangular(root, noise, lower=True, trans=1)
    utilities = arms @ (fit.theta[:, None] + scale * deviation)
    first, second = jnp.argmax(utilities, 0)
    return first, second


def ucb_duel(arms: Arms, fit: DuelFit, key: PRNGKey, *, width: float = 2.0) -> Duel:
    """The greedy arm i against its most optimistic challenger.

    argmax_j theta . (x_j - x_i) + width |x_j - x_i|, in the norm of the precision's inverse.

    Args:
      width: 0 or more; confidence in standard deviations. With little of it the greedy arm meets itself and
        nothing is learned any more (in the toy of the tests 1 does, 2 does not).

    Returns:
      Numbers of the greedy arm and of its challenger, which may be the same.

    Raises:
      ValueError: `width` is below 0.

    Example:
      >>> from jaxpref.selection.duels import DuelFit
      >>> precision = jnp.diag(jnp.array([100.0, 100.0, 0.01]))  # little is known about arm 2
      >>> fit = DuelFit(theta=jnp.array([1.0, 0.5, 0.0]), precision=precision)
      >>> first, second = selection.ucb_duel(jnp.eye(3), fit, jax.random.key(0))
      >>> print(int(first), int(second))
      0 2
    """
    del key
    not_negative(width=width)
    first = jnp.argmax(arms @ fit.theta)
    return first, _challenger(arms, fit, first, width)


def colstim(
    arms: Arms, fit: DuelFit, key: PRNGKey, *, width: float = 1.0, noise: float = 1.0, truncate: float = 3.0
) -> Duel:
    """CoLSTIM: an arm of utilities perturbed as the feedback is, against its most optimistic challenger.

    Bengs et al., ICML 2022: noise that imitates the feedback's law, Gumbel for logistic feedback, times the
    uncertainty |x_i| of each arm (norm of the precision's inverse). The paper's exact perturbation and update
    are not verified: scale and truncation are parameters, and theta is fitted by `fit_duels`.

    Args:
      width: of the challenger, as in `ucb_duel`. noise: factor of the perturbation.
      truncate: noise is cut to [-truncate, truncate].

    Returns:
      Numbers of the two arms, which may be the same.

    Raises:
      ValueError: `width` or `noise` is below 0, or `truncate` not above 0.

    Example:
      >>> from jaxpref.selection.duels import DuelFit
      >>> fit, key = DuelFit(theta=jnp.array([1.0, 0.5, 0.0]), precision=jnp.eye(3)), jax.random.key(0)
      >>> unperturbed = selection.colstim(jnp.eye(3), fit, key, width=2.0, noise=0.0)
      >>> print(unperturbed == selection.ucb_duel(jnp.eye(3), fit, key, width=2.0))
      True
    """
    not_negative(width=width, noise=noise)
    positive(truncate=truncate)
    drawn = jnp.clip(jax.random.gumbel(key, arms.shape[:1]), -truncate, truncate)
    first = jnp.argmax(arms @ fit.theta + noise * drawn * _norms(arms, fit))
    return first, _challenger(arms, fit, first, width)


def _challenger(arms: Arms, fit: DuelFit, first: Int[Array, ""], width: float) -> Int[Array, ""]:
    differences = arms - arms[first][None]
    return jnp.argmax(differences @ fit.theta + width * _norms(differences, fit))


def _norms(vectors: Arms, fit: DuelFit) -> Float[Array, " n"]:
    solved = jnp.linalg.solve(fit.precision, vectors.T).T
    return jnp.sqrt(jnp.maximum((vectors * solved).sum(-1), 0))
