"""Values of a finite Markov decision process, hard and soft, differentiable in rewards."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "DivergentValues",
    "TabularMDP",
    "advantages",
    "check_finite",
    "deterministic_mdp",
    "occupancy",
    "policy_values",
    "scaled_return",
    "sweep_residuals",
    "values",
]

Policy = Float[Array, "s a"]  # probabilities of actions


class TabularMDP(NamedTuple):
    """`s` states and `a` actions. In a terminal state nothing is earned, whatever the arrays say of it."""

    transitions: Float[Array, "s a s"]  # P(next | state, action), each row sums to 1
    rewards: Float[Array, "s a"]
    terminal: Bool[Array, " s"]
    discount: float = 1.0  # in (0, 1]; 1 asks for terminal states that every policy of interest reaches


class DivergentValues(ValueError):
    """Optimal values that are not finite: some loop is worth repeating for ever."""


def deterministic_mdp(
    successors: Int[Array, "s a"],
    rewards: Float[Array, "s a"],
    terminal: Bool[Array, " s"],
    discount: float = 1.0,
) -> TabularMDP:
    """A world whose actions have one outcome each, given as the number of the next state. Host side.

    Returns:
      The process, with transitions of 0 and 1.

    Raises:
      ValueError: a successor is no state, the shapes do not fit, or the discount is not in (0, 1].

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> print(mdp.transitions[0])  # in state 0, action 0 stays and action 1 ends
      [[1.0000 0.0000]
       [0.0000 1.0000]]
    """
    after, ends = np.asarray(successors), np.asarray(terminal)
    states = len(after)
    if np.shape(rewards) != after.shape or ends.shape != (states,):
        raise ValueError(
            f"mdp: successors {after.shape}, rewards {np.shape(rewards)} and terminal {ends.shape} do not fit"
        )
    if after.min() < 0 or after.max() >= states:
        given = f"{after.min()} to {after.max()}"
        raise ValueError(f"mdp: a successor is not in [0, {states}): {given}")
    if not 0 < discount <= 1:
        raise ValueError(f"mdp.discount: expected (0, 1], got {discount}")
    transitions = jax.nn.one_hot(after, states)
    return TabularMDP(transitions, jnp.asarray(rewards, transitions.dtype), jnp.asarray(ends), discount)


def values(
    mdp: TabularMDP, temperature: float = 0.0, *, tolerance: float = 1e-6, max_sweeps: int = 10_000
) -> tuple[Float[Array, " s"], Float[Array, "s a"], Policy]:
    """Optimal values and policy; with a temperature those of maximum-entropy control.

    V = max_a Q, or temperature * logsumexp(Q / temperature); ties of the hard policy share alike. Sweeps stop
    when no value moves by more than `tolerance`, relative to the largest; after `max_sweeps` the values so
    far are used (an improper world has no finite ones). Gradients with respect to rewards are exact:
    at the fixed point the values are linear in them with the occupancy of the policy as slope (envelope
    theorem), so the last step solves that linear system. Second derivatives are not those of the values.

    Returns:
      `V [s]` and `Q [s, a]` in the unit of the rewards, and the policy `[s, a]`.

    Raises:
      ValueError: `temperature` is below 0.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> v, q, policy = planning.values(mdp)
      >>> print(v, q[0], policy[0])
      [-1.0000 0.0000] [-3.0000 -1.0000] [0.0000 1.0000]
    """
    if temperature < 0:
        raise ValueError(f"values: expected a temperature of 0 or more, got {temperature}")
    fixed = jax.lax.stop_gradient(mdp)
    v, _ = _swept(fixed, temperature, hard=temperature == 0, tolerance=tolerance, max_sweeps=max_sweeps)
    q = _action_values(fixed, v)
    if temperature == 0:
        close = q >= q.max(-1, keepdims=True) - 10 * tolerance * jnp.maximum(jnp.abs(v).max(), 1)
        policy = close / close.sum(-1, keepdims=True)
        entropy = 0.0
    else:
        policy = jax.nn.softmax(q / temperature, -1)
        entropy = temperature * -(policy * jax.nn.log_softmax(q / temperature, -1)).sum(-1)
    v = policy_values(mdp, policy, bonus=entropy)
    return v, _action_values(mdp, v), policy


def sweep_residuals(mdp: TabularMDP, temperature: float = 0.0, *, sweeps: int) -> Float[Array, " sweeps"]:
    """Largest change of a value in each sweep of value iteration from 0.

    A discount below 1 bounds it by discount^sweep times the first one. Where it does not fall, some loop is
    worth more than 0.

    Returns:
      `[sweeps]`, in the unit of the rewards, 0 or more.

    Example:
      >>> loop = planning.deterministic_mdp(jnp.array([[0]]), jnp.array([[1.0]]), jnp.array([False]), 0.5)
      >>> print(planning.sweep_residuals(loop, sweeps=3))
      [1.0000 0.5000 0.2500]
    """

    return _residuals(mdp, temperature, hard=temperature == 0, sweeps=sweeps)


def check_finite(
    mdp: TabularMDP, temperature: float = 0.0, *, tolerance: float = 1e-6, max_sweeps: int = 10_000
) -> None:
    """Host side: checks that optimal values are finite. Below a discount of 1 they always are.

    Returns:
      Nothing.

    Raises:
      DivergentValues: at a discount of 1, no convergence in `max_sweeps`; where outcomes are certain and
        there is a temperature, with the spectral radius of sum_a P exp(r / temperature): below 1, the sum
        over all paths to an end has a limit.

    Example:
      >>> loop = planning.deterministic_mdp(jnp.array([[0]]), jnp.array([[1.0]]), jnp.array([False]))
      >>> try:
      ...     planning.check_finite(loop, max_sweeps=100)  # 1 for ever, not discounted
      ... except planning.DivergentValues as error:
      ...     print("no state is terminal" in str(error))
      True
    """
    if mdp.discount < 1:
        return
    v, moved = _swept(mdp, temperature, hard=temperature == 0, tolerance=tolerance, max_sweeps=max_sweeps)
    if float(moved) <= tolerance * max(float(jnp.abs(v).max()), 1):
        return
    why = "no state is terminal" if not np.asarray(mdp.terminal).any() else "some loop is worth repeating"
    transitions, going = np.asarray(mdp.transitions, np.float64), ~np.asarray(mdp.terminal)
    if temperature > 0 and going.any() and transitions.max(-1).min() == 1:
        weights = np.exp(np.asarray(mdp.rewards, np.float64) / temperature)
        kernel = np.einsum("sa,sat->st", weights, transitions)[np.ix_(going, going)]
        radius = np.abs(np.linalg.eigvals(kernel)).max()
        why += f"; the spectral radius of the sum over paths is {radius:.4g}, and it must be below 1"
    raise DivergentValues(
        f"values: not finite at discount 1 and temperature {temperature:g}: {why}. Lower the rewards (each "
        "step must cost enough), set a horizon, or a discount below 1"
    )


def policy_values(
    mdp: TabularMDP, policy: Policy, *, bonus: Float[Array, " s"] | float = 0.0
) -> Float[Array, " s"]:
    """Values of a policy by a linear solve: (1 - discount P) V = r + bonus.

    Args:
      bonus: earned in each state as well (an entropy).

    Returns:
      `V [s]`, in the unit of the rewards; 0 in terminal states.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> print(planning.policy_values(mdp, jnp.full((2, 2), 0.5)))  # V = (V - 2 - 1) / 2
      [-3.0000 0.0000]
    """
    kernel = _kernel(mdp, policy)
    earned = jnp.where(mdp.terminal, 0, (policy * mdp.rewards).sum(-1) + bonus)
    return jnp.linalg.solve(jnp.eye(len(kernel), dtype=kernel.dtype) - mdp.discount * kernel, earned)


def occupancy(mdp: TabularMDP, policy: Policy, start: Float[Array, " s"]) -> Float[Array, "s a"]:
    """Expected discounted number of times that each action is taken.

    Args:
      start: probabilities of first states.

    Returns:
      `[s, a]`, 0 or more, and 0 in terminal states.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.zeros((2, 2)), ended)
      >>> print(planning.occupancy(mdp, jnp.full((2, 2), 0.5), jnp.array([1.0, 0.0])))  # two visits to 0
      [[1.0000 1.0000]
       [0.0000 0.0000]]
    """
    kernel = _kernel(mdp, policy)
    visits = jnp.linalg.solve(jnp.eye(len(kernel), dtype=kernel.dtype) - mdp.discount * kernel.T, start)
    return jnp.where(mdp.terminal, 0, visits)[:, None] * policy


def advantages(v: Float[Array, " s"], q: Float[Array, "s a"]) -> Float[Array, "s a"]:
    """Q - V: by how much an action is better than the state.

    Returns:
      `[s, a]`: 0 or less for optimal values, and temperature * log policy for soft ones.

    Example:
      >>> print(planning.advantages(jnp.array([-1.0]), jnp.array([[-3.0, -1.0]])))
      [[-2.0000 0.0000]]
    """
    return q - v[:, None]


def scaled_return(mdp: TabularMDP, policy: Policy, start: Float[Array, " s"]) -> Float[Array, ""]:
    """(V of the policy - V of the uniform one) / (V* - V of the uniform one), weighted by `start`.

    arXiv:2206.02231, Sec. 5.

    Args:
      start: probabilities of first states.

    Returns:
      A scalar, at most 1: 1 for an optimal policy, 0 for the uniform one, negative below it.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> policy = jnp.array([[0.25, 0.75], [0.5, 0.5]])  # worth -5/3; the uniform one -3, the best -1
      >>> print(float(planning.scaled_return(mdp, policy, jnp.array([1.0, 0.0]))))
      0.6667
    """
    uniform = jnp.full_like(policy, 1 / policy.shape[-1])
    best, *_ = values(mdp)
    mine, low = policy_values(mdp, policy), policy_values(mdp, uniform)
    return start @ (mine - low) / (start @ (best - low))


@functools.partial(jax.jit, static_argnames=("hard", "tolerance", "max_sweeps"))  # once for all temperatures
def _swept(
    mdp: TabularMDP, temperature: float, *, hard: bool, tolerance: float, max_sweeps: int
) -> tuple[Float[Array, " s"], Float[Array, ""]]:
    """Values from 0 until none moves by more than the tolerance, and how much the last sweep moved them."""

    def going(carry: tuple[Array, Array, Array]) -> Array:
        v, moved, step = carry
        return (moved > tolerance * jnp.maximum(jnp.abs(v).max(), 1)) & (step < max_sweeps)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        v, _, step = carry
        new = _sweep(mdp, temperature, v, hard=hard)
        return new, jnp.abs(new - v).max(), step + 1

    start = jnp.zeros(mdp.rewards.shape[0], mdp.rewards.dtype)
    unmoved = jnp.asarray(jnp.inf, start.dtype)
    v, moved, _ = jax.lax.while_loop(going, body, (start, unmoved, jnp.int32(0)))
    return v, moved


@functools.partial(jax.jit, static_argnames=("hard", "sweeps"))
def _residuals(mdp: TabularMDP, temperature: float, *, hard: bool, sweeps: int) -> Float[Array, " sweeps"]:
    def sweep(v: Array, _: None) -> tuple[Array, Array]:
        new = _sweep(mdp, temperature, v, hard=hard)
        return new, jnp.abs(new - v).max()

    return jax.lax.scan(sweep, jnp.zeros(mdp.rewards.shape[0], mdp.rewards.dtype), None, length=sweeps)[1]


def _sweep(mdp: TabularMDP, temperature: float, v: Float[Array, " s"], *, hard: bool) -> Float[Array, " s"]:
    q = _action_values(mdp, v)
    best = q.max(-1) if hard else temperature * jax.nn.logsumexp(q / temperature, -1)
    return jnp.where(mdp.terminal, 0, best)


def _action_values(mdp: TabularMDP, v: Float[Array, " s"]) -> Float[Array, "s a"]:
    after = jnp.where(mdp.terminal, 0, v)
    return jnp.where(mdp.terminal[:, None], 0, mdp.rewards + mdp.discount * mdp.transitions @ after)


def _kernel(mdp: TabularMDP, policy: Policy) -> Float[Array, "s s"]:
    """P(next | state) before the end."""
    kernel = jnp.einsum("sa,sat->st", policy, mdp.transitions)
    return jnp.where(mdp.terminal[:, None] | mdp.terminal[None], 0, kernel)
