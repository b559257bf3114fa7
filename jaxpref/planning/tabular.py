"""Values of a finite Markov decision process, hard and soft, differentiable in rewards."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

__all__ = [
    "TabularMDP",
    "advantages",
    "deterministic_mdp",
    "expected_steps",
    "occupancy",
    "policy_values",
    "scaled_return",
    "sweep_residuals",
    "values",
]

Policy = Float[Array, "s a"]  # probabilities of actions
_IMPROVEMENTS = 100  # steps of policy iteration at most; a handful is common


class TabularMDP(NamedTuple):
    """`s` states and `a` actions. In a terminal state nothing is earned, whatever the arrays say of it."""

    transitions: Float[Array, "s a s"]  # P(next | state, action), each row sums to 1
    rewards: Float[Array, "s a"]
    terminal: Bool[Array, " s"]
    discount: float = 1.0  # in (0, 1]; 1 asks for terminal states that every policy of interest reaches


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

    V = max_a Q, or temperature * logsumexp(Q / temperature); ties of the hard policy share alike. Sweeps run
    until no value moves by more than `tolerance`, relative to the largest, or `max_sweeps` were made. From
    there steps of policy iteration, a linear solve each, go on to the fixed point, which near-critical worlds
    need (a loop that costs 1e-4 takes 10^5 sweeps). Gradients with respect to rewards are exact: at the fixed
    point the values are linear in them with the occupancy of the policy as slope (envelope theorem), so the
    last step solves that linear system. Second derivatives are not those of the values.

    Returns:
      `V [s]` and `Q [s, a]` in the unit of the rewards, and the policy `[s, a]`. All NaN, gradients as well,
      where there is no finite fixed point or the precision of the type does not reach it (`check_finite`
      says why): of a world that may take more than 10^5 steps in float32, 10^13 in float64.

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
    fixed, hard = jax.lax.stop_gradient(mdp), temperature == 0
    swept = _swept(fixed, temperature, hard=hard, tolerance=tolerance, max_sweeps=max_sweeps)
    v, reached = _settled(fixed, temperature, swept, hard=hard, tolerance=tolerance)
    policy, entropy = _improved(fixed, temperature, v, hard=hard, tolerance=tolerance)
    here = jnp.where(reached, 1, jnp.nan).astype(v.dtype)  # a factor: the gradient is NaN as well
    v = policy_values(mdp, policy, bonus=entropy) * here
    return v, _action_values(mdp, v), policy * here


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


def policy_values(
    mdp: TabularMDP, policy: Policy, *, bonus: Float[Array, " s"] | float = 0.0
) -> Float[Array, " s"]:
    """Values of a policy by a linear solve: (1 - discount P) V = r + bonus.

    Args:
      bonus: earned in each state as well (an entropy).

    Returns:
      `V [s]`, in the unit of the rewards; 0 in terminal states. NaN where the policy does not end and nothing
      is discounted (`expected_steps`).

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> print(planning.policy_values(mdp, jnp.full((2, 2), 0.5)))  # V = (V - 2 - 1) / 2
      [-3.0000 0.0000]
    """
    kernel = _kernel(mdp, policy)
    earned = jnp.where(mdp.terminal, 0, (policy * mdp.rewards).sum(-1) + bonus)
    v = jnp.linalg.solve(jnp.eye(len(kernel), dtype=kernel.dtype) - mdp.discount * kernel, earned)
    return v * _ends(mdp, policy)


def expected_steps(mdp: TabularMDP, policy: Policy) -> Float[Array, " s"]:
    """Expected number of steps before the end, discounted as rewards are.

    Returns:
      `[s]`, 0 in terminal states, 1 or more elsewhere. All NaN where a state never ends at discount 1, or so
      late that rounding decides: the linear system is singular then, and a solution of it is any number.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.zeros((2, 2)), ended)
      >>> print(planning.expected_steps(mdp, jnp.full((2, 2), 0.5)))
      [2.0000 0.0000]
    """
    kernel = _kernel(mdp, policy)
    ones = jnp.ones(len(kernel), kernel.dtype)
    steps = jnp.linalg.solve(jnp.eye(len(kernel), dtype=kernel.dtype) - mdp.discount * kernel, ones)
    known = (steps.min() > 0.5) & (_rounding(steps) * steps.max() < 0.2)  # False of NaN
    return jnp.where(known, jnp.where(mdp.terminal, 0, steps), jnp.nan)


def occupancy(mdp: TabularMDP, policy: Policy, start: Float[Array, " s"]) -> Float[Array, "s a"]:
    """Expected discounted number of times that each action is taken.

    Args:
      start: probabilities of first states.

    Returns:
      `[s, a]`, 0 or more, and 0 in terminal states. NaN as in `policy_values`.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])
      >>> mdp = planning.deterministic_mdp(successors, jnp.zeros((2, 2)), ended)
      >>> print(planning.occupancy(mdp, jnp.full((2, 2), 0.5), jnp.array([1.0, 0.0])))  # two visits to 0
      [[1.0000 1.0000]
       [0.0000 0.0000]]
    """
    kernel = _kernel(mdp, policy)
    visits = jnp.linalg.solve(jnp.eye(len(kernel), dtype=kernel.dtype) - mdp.discount * kernel.T, start)
    return jnp.where(mdp.terminal, 0, visits)[:, None] * policy * _ends(mdp, policy)


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
) -> Float[Array, " s"]:
    """Values from 0 until none moves by more than the tolerance."""

    def going(carry: tuple[Array, Array, Array]) -> Array:
        v, moved, step = carry
        return (moved > tolerance * _scale(v)) & (step < max_sweeps)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        v, _, step = carry
        new = _sweep(mdp, temperature, v, hard=hard)
        return new, jnp.abs(new - v).max(), step + 1

    start = jnp.zeros(mdp.rewards.shape[0], mdp.rewards.dtype)
    unmoved = jnp.asarray(jnp.inf, start.dtype)
    return jax.lax.while_loop(going, body, (start, unmoved, jnp.int32(0)))[0]


@functools.partial(jax.jit, static_argnames=("hard", "tolerance"))
def _settled(
    mdp: TabularMDP, temperature: float, v: Float[Array, " s"], *, hard: bool, tolerance: float
) -> tuple[Float[Array, " s"], Bool[Array, ""]]:
    """Policy iteration from `v` until nothing but rounding moves it, and whether that was reached.

    A step is (I - P)^-1 of what a sweep moves, Newton's method. Where soft values have no limit it is never
    shorter than about the temperature, until the policy's steps are too many for the type.
    """

    def improved(v: Array) -> tuple[Array, Array, Array]:
        policy, entropy = _improved(mdp, temperature, v, hard=hard, tolerance=tolerance)
        new, steps = policy_values(mdp, policy, bonus=entropy), expected_steps(mdp, policy).max()
        noise = (_rounding(v) + 20 * tolerance * hard) * _scale(v) * steps  # `hard`: where ties are broken
        if not hard:
            noise = jnp.where(mdp.discount < 1, noise, jnp.minimum(noise, 0.25 * temperature))
        return new, jnp.abs(new - v).max(), noise + tolerance * _scale(v)

    def going(carry: tuple[Array, ...]) -> Array:
        _, new, moved, before, noise, step = carry
        settled = (moved <= tolerance * _scale(new)) | ((moved <= noise) & (moved > 0.5 * before))
        return ~settled & jnp.isfinite(moved) & (step < _IMPROVEMENTS)

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        _, v, before, _, _, step = carry
        new, moved, noise = improved(v)
        return v, new, moved, before, noise, step + 1

    new, moved, noise = improved(v)
    carry = (v, new, moved, jnp.full_like(moved, jnp.inf), noise, jnp.int32(0))
    v, _, moved, _, noise, _ = jax.lax.while_loop(going, body, carry)
    return v, moved <= noise


def _improved(
    mdp: TabularMDP, temperature: float, v: Float[Array, " s"], *, hard: bool, tolerance: float
) -> tuple[Policy, Array]:
    """The policy that looks one step ahead on values, and what its entropy earns."""
    q = _action_values(mdp, v)
    if hard:
        close = q >= q.max(-1, keepdims=True) - 10 * tolerance * _scale(v)
        return close / close.sum(-1, keepdims=True), jnp.zeros_like(v)
    policy = jax.nn.softmax(q / temperature, -1)
    return policy, temperature * -(policy * jax.nn.log_softmax(q / temperature, -1)).sum(-1)


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


def _scale(v: Array) -> Array:
    return jnp.maximum(jnp.abs(v).max(), 1)


def _rounding(x: Array) -> float:
    """What rounding takes from a sum over a row of the linear system, relative to its largest term."""
    return 16 * float(jnp.finfo(x.dtype).eps)


def _ends(mdp: TabularMDP, policy: Policy) -> Array:
    """1, or NaN where the number of steps has no finite expectation."""
    steps = jax.lax.stop_gradient(expected_steps(mdp, policy))
    return jnp.where(jnp.isnan(steps).any(), jnp.nan, 1).astype(steps.dtype)


def _action_values(mdp: TabularMDP, v: Float[Array, " s"]) -> Float[Array, "s a"]:
    after = jnp.where(mdp.terminal, 0, v)
    return jnp.where(mdp.terminal[:, None], 0, mdp.rewards + mdp.discount * mdp.transitions @ after)


def _kernel(mdp: TabularMDP, policy: Policy) -> Float[Array, "s s"]:
    """P(next | state) before the end."""
    kernel = jnp.einsum("sa,sat->st", policy, mdp.transitions)
    return jnp.where(mdp.terminal[:, None] | mdp.terminal[None], 0, kernel)
