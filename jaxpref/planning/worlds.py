"""A finite world with features: rewards are `features @ weights`, and the weights may be unknown."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.planning.tabular import Policy, TabularMDP, values

__all__ = ["World", "greedy_policy", "optimal_policy", "state_action_features", "with_weights"]


class World(NamedTuple):
    """What a simulated person knows (`weights`) and what a learner sees (all but those).

    The rewards of `mdp` are `features @ weights`.
    """

    mdp: TabularMDP
    features: Float[Array, "s a m"]  # of taking an action in a state: their expectation over outcomes
    weights: Float[Array, " m"]  # the true ones
    start: Float[Array, " s"]  # probabilities of first states; 0 in terminal ones
    shape: tuple[int, ...] = ()  # (rows, columns) of a grid whose states are its cells, row by row


def with_weights(world: World, weights: Float[Array, " m"]) -> TabularMDP:
    """The world's decision process with rewards of other weights; differentiable in them.

    Returns:
      The process, with rewards `features @ weights`.

    Example:
      >>> mdp = planning.deterministic_mdp(jnp.array([[0]]), jnp.array([[3.0]]), jnp.array([False]), 0.9)
      >>> world = planning.World(mdp, jnp.array([[[1.0, 2.0]]]), jnp.array([1.0, 1.0]), jnp.ones(1))
      >>> print(planning.with_weights(world, jnp.array([2.0, -1.0])).rewards)  # 2 * 1 - 1 * 2
      [[0.0000]]
    """
    return world.mdp._replace(rewards=world.features @ weights)


def state_action_features(world: World) -> World:
    """The same world with a feature for each action of each state, so that weights are a table of rewards.

    Terminal states have features of 0: what is done in them is worth 0 whatever the weights.

    Returns:
      The world, with `m = s a` features and its rewards as weights, state by state.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> print(planning.state_action_features(world).weights)
      [-2.0000 -1.0000 0.0000 0.0000]
    """
    states, actions = world.mdp.rewards.shape
    kept = ~np.asarray(world.mdp.terminal)
    one = np.eye(states * actions).reshape(states, actions, -1) * kept[:, None, None]
    rewards = np.asarray(world.mdp.rewards) * kept[:, None]
    dtype = world.mdp.rewards.dtype
    return world._replace(features=jnp.asarray(one, dtype), weights=jnp.asarray(rewards.reshape(-1), dtype))


def optimal_policy(mdp: TabularMDP) -> Policy:
    """Plans: the policy that is best for the rewards of `mdp`; tied actions share equally.

    Returns:
      Probabilities of actions `[s, a]`.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -1, end at -2
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-1.0, -2.0], [0.0, 0.0]]), ended)
      >>> print(planning.optimal_policy(mdp)[0])  # whoever stays has to end later
      [0.0000 1.0000]
    """
    return values(mdp)[2]


def greedy_policy(mdp: TabularMDP) -> Policy:
    """Does not plan: in each state the actions with the largest reward of `mdp`; tied actions share equally.

    The right reading of a table of advantages (arXiv:2310.02456).

    Returns:
      Probabilities of actions `[s, a]`.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -1, end at -2
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-1.0, -2.0], [0.0, 0.0]]), ended)
      >>> print(planning.greedy_policy(mdp)[0])
      [1.0000 0.0000]
    """
    best = mdp.rewards >= mdp.rewards.max(-1, keepdims=True)
    return best / best.sum(-1, keepdims=True)
