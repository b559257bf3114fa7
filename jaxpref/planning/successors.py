"""Successor features: expected sums of features under a policy, so that values are linear in the weights."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.planning.tabular import Policy, policy_values, values
from jaxpref.planning.worlds import World, with_weights

__all__ = ["gpi_values", "random_successors", "successor_features"]


def successor_features(world: World, policy: Policy) -> Float[Array, "s m"]:
    """Expected discounted sum of features from each state: the policy's values are `psi @ weights`.

    Returns:
      `psi [s, m]`, in the units of the features.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.ones((2, 2)), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> print(planning.successor_features(world, jnp.full((2, 2), 0.5))[:, 0])  # two steps on average
      [2.0000 0.0000]
    """

    def of_feature(feature: Float[Array, "s a"]) -> Float[Array, " s"]:
        return policy_values(world.mdp._replace(rewards=feature), policy)

    return jax.vmap(of_feature, -1, -1)(world.features)


def gpi_values(
    weights: Float[Array, " m"], successors: Float[Array, "n s m"], *, temperature: float = 0.0
) -> Float[Array, " s"]:
    """Generalised policy improvement: in each state the best of `n` policies' values.

    V(s) = sum_i softmax_i(v_i(s) / temperature) v_i(s), v_i = psi_i @ weights; temperature 0: the maximum,
    which is V* if a policy that is optimal for `weights` is among them. As in the released code of
    arXiv:2206.02231.

    Returns:
      `[s]`, in the unit of the rewards, at most V*.

    Example:
      >>> psi = jnp.array([[[-1.0], [0.0]], [[-3.0], [0.0]]])  # two policies, two states, one feature
      >>> print(planning.gpi_values(jnp.array([2.0]), psi))
      [-2.0000 0.0000]
    """
    each = successors @ weights
    if temperature == 0:
        return each.max(0)
    return (jax.nn.softmax(each / temperature, 0) * each).sum(0)


def random_successors(
    world: World,
    *,
    num_policies: int,
    typical: Sequence[float] | None = None,
    seed: int = 0,
    max_sweeps: int = 1000,
) -> Float[Array, "n s m"]:
    """Successor features of policies that are optimal for random weights.

    Args:
      typical: sign and size of each weight: those drawn are |z| times it, z standard normal. None: z itself,
        under which many policies walk some loop for ever.
      max_sweeps: of value iteration, before policy iteration (`values`).

    Returns:
      `[num_policies, s, m]`, in the units of the features.

    Raises:
      ValueError: at discount 1 some weights have no optimal policy, since a loop is worth repeating.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, -jnp.ones((2, 2)), ended)
      >>> world = planning.World(mdp, mdp.rewards[..., None], jnp.ones(1), jnp.array([1.0, 0.0]))
      >>> psi = planning.random_successors(world, num_policies=2, typical=[1.0])  # all of them end at once
      >>> print(psi[..., 0].tolist())
      [[-1.0000, 0.0000], [-1.0000, 0.0000]]
    """
    drawn = jax.random.normal(jax.random.key(seed), (num_policies, world.features.shape[-1]))
    if typical is not None:
        drawn = jnp.abs(drawn) * jnp.asarray(typical, drawn.dtype)[None]

    def of_weights(weights: Float[Array, " m"]) -> Float[Array, "s m"]:
        policy = values(with_weights(world, weights), max_sweeps=max_sweeps)[2]
        return successor_features(world, policy)

    found = jax.lax.map(of_weights, drawn.astype(world.features.dtype))
    endless = np.flatnonzero(~np.isfinite(np.asarray(found)).all((1, 2)))
    if endless.size:
        raise ValueError(
            f"random_successors: {endless.size} of {num_policies} random weights have no finite values at "
            f"discount {world.mdp.discount:g}, such as {np.asarray(drawn[endless[0]]).round(3).tolist()}; "
            "give the weights' signs (`typical`), or set the world's discount below 1"
        )
    return found
