"""The value of a segment to a person who compares two: its partial return, or its regret.

Partial return: the sum of rewards in the segment. Regret: by how much the segment falls short of optimal
behaviour. Knox et al. 2022, arXiv:2206.02231. The functions at the top take arrays of steps; those that begin
with `score_by_` read segments of numbered states and actions in a world with given weights, are higher for
better segments, and differentiate in the weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpref.planning.successors import gpi_values
from jaxpref.planning.tabular import TabularMDP, advantages, values
from jaxpref.planning.worlds import World, with_weights

__all__ = [
    "deterministic_regret",
    "partial_return",
    "general_regret",
    "score_by_deterministic_regret",
    "score_by_regret",
    "score_by_return",
    "score_by_successors",
    "win_probability",
]

Steps = Float[Array, "*n t"]
Mask = Bool[Array, "*n t"]
Numbers = Int[Array, "*n t"]
Scores = Float[Array, "*n"]


def partial_return(rewards: Steps, mask: Mask, *, discount: float = 1.0) -> Scores:
    """sum_t discount^t r_t over the real steps. Other positions may hold anything.

    Changes under potential shaping, unlike regret.

    Returns:
      `[*n]`, in the unit of the rewards.

    Example:
      >>> mask = jnp.array([True, True, False])
      >>> print(float(planning.partial_return(jnp.array([1.0, 2.0, 4.0]), mask, discount=0.5)))  # 1 + 2 / 2
      2.0000
    """
    earned = jnp.where(mask, rewards, 0)
    return earned @ (discount ** jnp.arange(mask.shape[-1], dtype=earned.dtype))


def deterministic_regret(
    rewards: Steps,
    start_values: Scores,
    end_values: Scores,
    mask: Mask,
    *,
    discount: float = 1.0,
) -> Scores:
    """V*(s_0) - (sum_t discount^t r_t + discount^k V*(s_k)), for a segment of k steps.

    Knox et al. 2022, arXiv:2206.02231 (there without discount). In stochastic worlds it also counts the luck
    of the outcomes, and may be negative; `general_regret` does not.

    Args:
      start_values, end_values: V* of the states in which the segment starts and ends.

    Returns:
      `[*n]`, in the unit of the rewards, 0 or more where outcomes are certain.

    Example:
      >>> rewards, mask = jnp.array([-2.0, -1.0]), jnp.array([True, True])  # -1 was possible
      >>> print(float(planning.deterministic_regret(rewards, jnp.array(-1.0), jnp.array(0.0), mask)))
      2.0000
    """
    steps = mask.sum(-1)
    return start_values - (partial_return(rewards, mask, discount=discount) + discount**steps * end_values)


def general_regret(step_advantages: Steps, mask: Mask, *, discount: float = 1.0) -> Scores:
    """sum_t -discount^t A*(s_t, a_t), A* = Q* - V*: 0 only if every action is optimal.

    Knox et al. 2022, arXiv:2206.02231, for stochastic worlds (there without discount). In deterministic ones
    it is `deterministic_regret` if the world's discount is `discount`. Invariant to potential shaping.

    Returns:
      `[*n]`, in the unit of the rewards, 0 or more for advantages of 0 or less.

    Example:
      >>> print(float(planning.general_regret(jnp.array([-2.0, 0.0]), jnp.array([True, True]))))
      2.0000
    """
    return -partial_return(step_advantages, mask, discount=discount)


def win_probability(first: Scores, second: Scores, *, temperature: float = 1.0) -> Scores:
    """P(first beats second) = sigmoid((first - second) / temperature).

    Args:
      temperature: 0 or more, in the unit of the scores; at 0 the larger score wins for sure.

    Returns:
      `[*n]`, in [0, 1]; one half for ties.

    Raises:
      ValueError: `temperature` is below 0.

    Example:
      >>> first, second = jnp.array([2.0, 1.0]), jnp.array([0.0, 1.0])
      >>> print(planning.win_probability(first, second))
      [0.8808 0.5000]
      >>> print(planning.win_probability(first, second, temperature=0.0))
      [1.0000 0.5000]
    """
    if temperature < 0:
        raise ValueError(f"temperature: expected 0 or more, got {temperature}")
    if temperature == 0:
        return 0.5 + 0.5 * jnp.sign(first - second)
    return jax.nn.sigmoid((first - second) / temperature)


def score_by_return(
    world: World,
    weights: Float[Array, " m"],
    states: Numbers,
    actions: Numbers,
    mask: Mask,
    *,
    discount: float = 1.0,
) -> Scores:
    """`partial_return` under the rewards of `weights`. Actions in terminal states earn nothing.

    Returns:
      `[*n]`, in the unit of the rewards, higher for better segments.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> segment = jnp.array([0, 0]), jnp.array([0, 1]), jnp.array([True, True])  # stay, then end
      >>> print(float(planning.score_by_return(world, world.weights, *segment)))
      -3.0000
    """
    mdp = with_weights(world, weights)
    earned = jnp.where(mdp.terminal[:, None], 0, mdp.rewards)[states, actions]
    return partial_return(earned, mask, discount=discount)


def score_by_regret(
    world: World,
    weights: Float[Array, " m"],
    states: Numbers,
    actions: Numbers,
    mask: Mask,
    *,
    temperature: float = 0.0,
    max_sweeps: int = 10_000,
    discount: float = 1.0,
) -> Scores:
    """Minus `general_regret`, with the optimal values of the rewards of `weights`.

    Args:
      temperature: of the values (`planning.values`); 0: hard ones, whose slope jumps where the best action
        changes. Above 0, minus regret is temperature * log pi of the segment's actions.
      max_sweeps: of value iteration, before policy iteration (`values`); it sets the time and not the values.

    Returns:
      `[*n]`, in the unit of the rewards; 0 or less, and 0 for optimal segments. NaN where values are.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> segment = jnp.array([0, 0]), jnp.array([0, 1]), jnp.array([True, True])  # stay, then end
      >>> print(float(planning.score_by_regret(world, world.weights, *segment)))
      -2.0000
    """
    mdp = with_weights(world, weights)
    v, q, _ = values(mdp, temperature, max_sweeps=max_sweeps)
    shortfall = jnp.where(mdp.terminal[:, None], 0, advantages(v, q))[states, actions]
    return -general_regret(shortfall, mask, discount=discount)


def score_by_deterministic_regret(
    world: World,
    weights: Float[Array, " m"],
    states: Numbers,
    actions: Numbers,
    mask: Mask,
    *,
    temperature: float = 0.0,
    max_sweeps: int = 10_000,
    discount: float = 1.0,
) -> Scores:
    """Minus `deterministic_regret`, in a world whose outcomes are certain, which says where a segment ends.

    Args:
      temperature, max_sweeps: as in `score_by_regret`.

    Returns:
      `[*n]`, in the unit of the rewards; 0 or less, and 0 for optimal segments.

    Raises:
      ValueError: some action has several outcomes.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> segment = jnp.array([0, 0]), jnp.array([0, 1]), jnp.array([True, True])  # stay, then end
      >>> print(float(planning.score_by_deterministic_regret(world, world.weights, *segment)))
      -2.0000
    """
    mdp = with_weights(world, weights)
    v, *_ = values(mdp, temperature, max_sweeps=max_sweeps)
    return -_by_values(world, weights, v, states, actions, mask, discount)


def score_by_successors(
    world: World,
    weights: Float[Array, " m"],
    states: Numbers,
    actions: Numbers,
    mask: Mask,
    *,
    successors: Float[Array, "n s m"],
    temperature: float = 0.01,
    discount: float = 1.0,
) -> Scores:
    """Minus `deterministic_regret` with values out of a fixed set of policies (`gpi_values`).

    The released code of arXiv:2206.02231 and 2310.02456 learns rewards this way. Its temperature is 0.001,
    for float64; a softmax in float32 needs 0.01 or more.

    Args:
      successors: `successor_features` of n policies. temperature: of `gpi_values`.

    Returns:
      `[*n]`, in the unit of the rewards, higher for better segments.

    Raises:
      ValueError: some action has several outcomes.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> segment = jnp.array([0, 0]), jnp.array([0, 1]), jnp.array([True, True])  # stay, then end
      >>> psi = planning.successor_features(world, planning.optimal_policy(mdp))[None]
      >>> print(float(planning.score_by_successors(world, world.weights, *segment, successors=psi)))
      -2.0000
    """
    v = gpi_values(weights, successors, temperature=temperature)
    return -_by_values(world, weights, v, states, actions, mask, discount)


def _by_values(
    world: World,
    weights: Float[Array, " m"],
    v: Float[Array, " s"],
    states: Numbers,
    actions: Numbers,
    mask: Mask,
    discount: float,
) -> Scores:
    mdp = with_weights(world, weights)
    _check_certain(mdp)
    v = jnp.where(mdp.terminal, 0, v)
    earned = jnp.where(mdp.terminal[:, None], 0, mdp.rewards)[states, actions]
    last = jnp.maximum(mask.sum(-1) - 1, 0)[..., None]
    after = jnp.where(mdp.terminal[:, None], 0, mdp.transitions @ v)[states, actions]
    end = jnp.take_along_axis(after, last, -1)[..., 0]
    return deterministic_regret(earned, v[states[..., 0]], end, mask, discount=discount)


def _check_certain(mdp: TabularMDP) -> None:
    """Host side: a world is known when a step is traced."""
    several = np.argwhere((np.asarray(mdp.transitions) > 0).sum(-1) > 1)
    if several.size:
        state, action = several[0]
        raise ValueError(f"score: state {state}, action {action} has several outcomes; use score_by_regret")
