"""Which prompts and pairs to label: their scores, and the rows with the largest ones.

Select before judging: `top_rows` makes a record of fewer rows, so that labels of the others are never asked
for. Scores are `[b]`, and the highest are labelled first.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, xlogy
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, not_negative
from jaxpref.selection.gather import take_rows, values_of
from jaxpref.types import Completions, PRNGKey

__all__ = [
    "active_preferences",
    "bald",
    "balpm",
    "margins",
    "neighbour_distances",
    "predictive_entropy",
    "top_rows",
]


def top_rows(completions: Completions, scores: Float[Array, " b"], budget: int) -> Completions:
    """The `budget` rows with the largest scores, best first; padding comes last.

    Returns:
      A record of `budget` rows. Of equal scores the first row comes first.

    Raises:
      ValueError: `budget` is not in [1, b].

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.arange(3).reshape(3, 1, 1)  # three prompts with one response each
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> best = selection.top_rows(batch, jnp.array([0.5, 2.0, 1.0]), budget=2)
      >>> print(best.response_tokens.ravel())
      [1 2]
    """
    b = scores.shape[0]
    if not 1 <= budget <= b:
        raise ValueError(f"budget: expected 1 to {b} rows, got {budget}")
    rows = jax.lax.top_k(jnp.where(completions.valid, scores, -jnp.inf), budget)[1]
    return take_rows(completions, rows)


def predictive_entropy(
    logps: Float[Array, "b n"], *, entropy_sign: int = 1, where: Bool[Array, "b n"] | None = None
) -> Float[Array, " b"]:
    """-(1/n) sum_n log pi(y_n|x): entropy of a policy's answers, estimated from n of its samples.

    Stage 1 of APL (arXiv:2402.08114). *Differs from* oat's code, which keeps the prompts of the *lowest*
    entropy: `entropy_sign=-1`.

    Args:
      logps: nats, at temperature 1, summed over tokens.
      entropy_sign: 1, or -1 for minus the entropy.
      where: samples that count; None counts all.

    Returns:
      `[b]`, nats, 0 or more for log-probs of tokens (0 or less with `entropy_sign=-1`).

    Raises:
      ValueError: `entropy_sign` is neither 1 nor -1.

    Example:
      >>> print(selection.predictive_entropy(jnp.array([[-1.0, -3.0], [-0.5, -0.5]])))
      [2.0000 0.5000]
    """
    if entropy_sign not in (1, -1):
        raise ValueError(f"entropy_sign: expected 1 (uncertain prompts first) or -1, got {entropy_sign}")
    return -entropy_sign * jnp.mean(logps, -1, where=where)


def margins(values: Float[Array, "b k"], where: Bool[Array, "b k"] | None = None) -> Float[Array, " b"]:
    """Largest minus smallest value of each row, such as |implicit reward 0 - implicit reward 1| of pairs.

    Large: the policy is sure of the pair (labelled first in APL, arXiv:2402.08114). Small: it is not
    (labelled first in arXiv:2406.17312, as `-margins(...)`). The two papers disagree.

    Args:
      where: responses that count; None counts all.

    Returns:
      `[b]`, in the unit of `values`, 0 or more.

    Example:
      >>> print(selection.margins(jnp.array([[1.0, 4.0, 2.0], [3.0, 3.0, 3.0]])))
      [3.0000 0.0000]
    """
    where = jnp.ones(values.shape, bool) if where is None else where
    high = jnp.where(where, values, -jnp.inf).max(-1)
    return high - jnp.where(where, values, jnp.inf).min(-1)


def active_preferences(
    completions: Completions,
    key: PRNGKey,
    *,
    candidates: int,
    budget: int,
    by: str = "implicit_rewards",
    entropy_sign: int = 1,
    largest: bool = True,
) -> Completions:
    """Active preference learning: uncertain prompts, and among them the pairs the policy is surest of.

    Muldrew et al. 2024, arXiv:2402.08114. The record holds the columns `behaviour_logps` and `by`.

    Args:
      candidates: rows that stage 1 keeps, by `predictive_entropy`. budget: rows that stage 2 keeps of them.
      by: column whose `margins` stage 2 ranks by.
      entropy_sign: as in `predictive_entropy`.
      largest: False keeps the smallest margins (arXiv:2406.17312).

    Returns:
      A record of `budget` rows, best first.

    Raises:
      ValueError: `candidates` is below `budget`, either is not in [1, b], or a column is missing.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, logps = jnp.arange(6).reshape(3, 2, 1), -jnp.array([[1.0, 1], [3, 3], [2, 2]])
      >>> sure = jnp.array([[9.0, 0], [1, 0], [4, 0]])  # stage 1 keeps rows 1 and 2, stage 2 row 2
      >>> columns = {"behaviour_logps": logps, "implicit_rewards": sure}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> best = selection.active_preferences(batch, jax.random.key(0), candidates=2, budget=1)
      >>> print(best.response_tokens[..., 0])
      [[4 5]]
    """
    del key
    if candidates < budget:
        raise ValueError(f"candidates: expected at least the budget of {budget}, got {candidates}")
    exist = completions.present
    logps = values_of(completions, "behaviour_logps")
    entropy = predictive_entropy(logps, entropy_sign=entropy_sign, where=exist)
    stage = top_rows(completions, entropy, candidates)
    sure = margins(values_of(stage, by), stage.present)
    return top_rows(stage, sure if largest else -sure, budget)


def bald(probabilities: Float[Array, "e n"]) -> Float[Array, " n"]:
    """H(mean p) - mean H(p) over an ensemble of e: what its members disagree about.

    H(p) = -p log p - (1 - p) log(1 - p). Houlsby et al. 2011, arXiv:1112.5745. Members that agree give 0,
    however unsure each of them is.

    Args:
      probabilities: of the first response of a pair, by each member, in [0, 1].

    Returns:
      `[n]`, nats, in [0, log 2].

    Example:
      >>> print(selection.bald(jnp.array([[1.0, 0.5], [0.0, 0.5]])))  # log 2, and members that agree
      [0.6931 0.0000]
    """

    def entropy(p: Array) -> Array:
        return -xlogy(p, p) - xlogy(1 - p, 1 - p)

    return entropy(probabilities.mean(0)) - entropy(probabilities).mean(0)


def standardised(features: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Each feature with mean 0 and standard deviation 1 over the pool; constant ones become 0."""
    centred = features - features.mean(0, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(0, keepdims=True))
    return centred / jnp.where(deviation > 0, deviation, 1)


def neighbour_distances(features: Float[Array, "n d"], neighbours: int) -> Float[Array, " n"]:
    """Distance of each point to its `neighbours`-th nearest other point; n passes over `[n, d]`.

    Returns:
      `[n]`, Euclidean, in the unit of the features.

    Raises:
      ValueError: `neighbours` is not in [1, n - 1].

    Example:
      >>> print(selection.neighbour_distances(jnp.array([[0.0], [1.0], [3.0]]), 1))
      [1.0000 1.0000 2.0000]
    """
    n = features.shape[0]
    if not 1 <= neighbours < n:
        raise ValueError(f"neighbours: expected 1 to {n - 1} of a pool of {n}, got {neighbours}")

    def distance(i: Array) -> Array:
        squares = ((features - features[i][None]) ** 2).sum(-1)
        return -jax.lax.top_k(-squares.at[i].set(jnp.inf), neighbours)[0][-1]

    return jnp.sqrt(jax.lax.map(distance, jnp.arange(n)))


@functools.partial(jax.jit, static_argnames=("budget", "neighbours", "entropy_weight", "dimension", "guard"))
def balpm(
    uncertainty: Float[Array, " n"],
    features: Float[Array, "n d"],
    *,
    budget: int,
    labelled: Bool[Array, " n"] | None = None,
    neighbours: int = 13,
    entropy_weight: float = 0.01,
    dimension: float = 1.0,
    guard: float = 1e-4,
) -> Int[Array, " m"]:
    """BAL-PM: a batch of points that an ensemble disagrees about, from all over the pool.

    Melo et al. 2024, arXiv:2406.10023. Each pick is the largest uncertainty + entropy_weight * H, with
    H(x) = log(2 d_k(x) + guard) - psi(m(x) + 1) / dimension: d_k is the distance to the k-th nearest other
    point of the pool, m the points labelled or picked before within it. With an ensemble that agrees, a new
    region comes before a second point of an old one.

    *Differs from* the released code, whose features are not standardised (`f - mean / std`) and whose nearest
    neighbour of a point is the point itself.

    Args:
      uncertainty: `bald` of the ensemble, nats. features: of the prompts, frozen; standardised here.
      budget: points to pick. labelled: points of the pool that have a label; never picked.
      neighbours, entropy_weight, dimension: released code's k = 13, beta = .01, d = 1.

    Returns:
      Indices of the points, in the order picked.

    Raises:
      ValueError: shapes do not fit, or a number is out of its range.

    Example:
      >>> unsure, pool = jnp.array([0.003, 0.002, 0.001, 0.0]), jnp.array([[0.0], [1.0], [8.0], [9.0]])
      >>> print(selection.balpm(unsure, pool, budget=2, neighbours=1))  # 1 lies beside 0
      [0 2]
    """
    n = features.shape[0]
    check_axes(uncertainty=(uncertainty, "n"), features=(features, "n d"))
    not_negative(entropy_weight=entropy_weight)
    if not 1 <= budget <= n or not dimension > 0 or not guard > 0:
        given = f"{budget}, {dimension} and {guard}"
        raise ValueError(f"balpm: expected a budget of 1 to {n}, dimension and guard above 0, got {given}")
    points = standardised(features)
    radius = neighbour_distances(points, neighbours)
    near = _near(points, radius, uncertainty.dtype)
    taken, count = _labelled(labelled, near, n, uncertainty.dtype)

    def pick(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        count, taken = carry
        entropy = jnp.log(2 * radius + guard) - digamma(count + 1) / dimension
        chosen = jnp.argmax(jnp.where(taken, -math.inf, uncertainty + entropy_weight * entropy))
        return (count + near(chosen), taken.at[chosen].set(True)), chosen

    return jax.lax.scan(pick, (count, taken), None, length=budget)[1]


def _near(points: Array, radius: Array, dtype: jnp.dtype) -> Callable[[Array], Array]:
    """For point i, 1 at each point that counts it among its neighbours, else 0."""

    def near(i: Array) -> Array:
        squares = ((points - points[i][None]) ** 2).sum(-1)
        # The k-th neighbour itself counts, whichever way its distance was rounded.
        return (squares <= (radius * (1 + 1e-5)) ** 2).astype(dtype)

    return near


def _labelled(
    labelled: Array | None, near: Callable[[Array], Array], n: int, dtype: jnp.dtype
) -> tuple[Array, Array]:
    """Points that have a label, and how many of them each point has in its neighbourhood."""
    count = jnp.zeros(n, dtype)
    if labelled is None:
        return jnp.zeros(n, bool), count

    def add(i: Array, count: Array) -> Array:
        return count + jnp.where(labelled[i], near(i), 0)

    return labelled, jax.lax.fori_loop(0, n, add, count)
