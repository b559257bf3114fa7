"""Planning for a known number of steps: values, policies and occupancies of each time step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.planning.tabular import TabularMDP

__all__ = ["horizon_occupancy", "horizon_values"]


def horizon_values(
    mdp: TabularMDP, horizon: int, temperature: float = 0.0, *, final: Float[Array, " s"] | float = 0.0
) -> tuple[Float[Array, "h1 s"], Float[Array, "h s a"], Float[Array, "h s a"]]:
    """Optimal values and policies of each time step, for a known number of steps.

    Backward: Q_t = r + discount * E V_{t+1}, V_t = max_a Q_t, or temperature * logsumexp(Q_t / temperature):
    the finite-horizon maximum causal entropy recursion (Ziebart 2010). `V[horizon]` is `final` (0 by default)
    outside terminal states. Ties of the hard policy share alike. Gradients are autodiff's, of any order
    where there is a temperature.

    Differs from the recursion in `imitation`, which has rewards of states only; with r(s, a) = r(s) the two
    are the same, its last values being log(number of actions) + r.

    Returns:
      `V [horizon + 1, s]` and `Q [horizon, s, a]` in the unit of the rewards, and policies `[horizon, s, a]`.

    Raises:
      ValueError: horizon below 1, or temperature below 0.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -6
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -6.0], [0.0, 0.0]]), ended)
      >>> v, q, policies = planning.horizon_values(mdp, 2)  # with two steps left, stay twice
      >>> print(v[:, 0], policies[:, 0, 0])
      [-4.0000 -2.0000 0.0000] [1.0000 1.0000]
    """
    if horizon < 1 or temperature < 0:
        raise ValueError(
            f"horizon_values: expected a horizon of 1 or more and a temperature of 0 or more, got {horizon} "
            f"and {temperature}"
        )
    ended = mdp.terminal[:, None]

    def back(after: Array, _: None) -> tuple[Array, tuple[Array, Array, Array]]:
        q = jnp.where(ended, 0, mdp.rewards + mdp.discount * mdp.transitions @ after)
        if temperature == 0:
            best = q.max(-1)
            ties = q >= best[:, None]
            policy = ties / ties.sum(-1, keepdims=True)
        else:
            best = temperature * jax.nn.logsumexp(q / temperature, -1)
            policy = jax.nn.softmax(q / temperature, -1)
        v = jnp.where(mdp.terminal, 0, best)
        return v, (v, q, policy)

    last = jnp.where(mdp.terminal, 0, jnp.asarray(final, mdp.rewards.dtype))
    _, (v, q, policies) = jax.lax.scan(back, last, None, length=horizon, reverse=True)
    return jnp.concatenate([v, last[None]]), q, policies


def horizon_occupancy(
    mdp: TabularMDP, policies: Float[Array, "h s a"], start: Float[Array, " s"]
) -> tuple[Float[Array, "h1 s"], Float[Array, "h s a"]]:
    """Probability of each state, and of each state and action, at each time step.

    Terminal states keep the probability that arrived and no action is taken in them, so the second sums to
    P(not ended yet) at each step. Nothing is discounted: weigh step t by `discount**t` for the occupancy
    that discounted rewards go with.

    Args:
      start: probabilities of first states.

    Returns:
      Probabilities of states `[h + 1, s]`, and of states and actions `[h, s, a]`.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.zeros((2, 2)), ended)
      >>> states, _ = planning.horizon_occupancy(mdp, jnp.full((2, 2, 2), 0.5), jnp.array([1.0, 0.0]))
      >>> print(states[:, 0])  # half of what is left ends at each step
      [1.0000 0.5000 0.2500]
    """

    def ahead(state: Array, policy: Array) -> tuple[Array, tuple[Array, Array]]:
        acting = jnp.where(mdp.terminal, 0, state)[:, None] * policy
        after = jnp.einsum("sa,sat->t", acting, mdp.transitions) + jnp.where(mdp.terminal, state, 0)
        return after, (state, acting)

    end, (states, actions) = jax.lax.scan(ahead, start, policies)
    return jnp.concatenate([states, end[None]]), actions
