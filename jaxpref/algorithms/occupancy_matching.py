"""Matching the expert's occupancy by the gradient of a divergence through planning: f-IRL, exactly."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxpref.algorithms.base import Algorithm, TrainState, num_tokens
from jaxpref.algorithms.demonstrated import demonstrated, first_states
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.optimizers import apply_gradient
from jaxpref.losses.checks import within
from jaxpref.losses.conjugates import reverse_kl_divergence
from jaxpref.metrics import Mean, Metrics
from jaxpref.planning import TabularMDP, horizon_occupancy, occupancy
from jaxpref.policies.base import Policy
from jaxpref.policies.planned import paid
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["occupancy_matching"]


def occupancy_matching(
    policy: Policy,
    *,
    world: Callable[[], TabularMDP],
    optimizer: Callable[[], optax.GradientTransformation],
    divergence: Callable[[Array, Array], Array] = reverse_kl_divergence,
    horizon: int | None = None,
    arrivals: bool = False,
    smoothing: float = 1e-4,
    start: Callable[[], ArrayLike] | None = None,
) -> Algorithm:
    """Minimises D(expert || learner) between occupancies of total 1: f-IRL where the policy is a planned one.

    Ni et al. 2020, arXiv:2011.04709, whose theorem gives the gradient as a covariance over trajectories
    (`losses.f_irl`); here it is autodiff's, through planning and the exact occupancy. In worlds of certain
    outcomes, with a horizon and no discount, the two are equal. A `state_table` matches without a reward.

    Metrics: `loss` (nats), `occupancy/distance` (total variation of what is matched) and `nll` (of the
    demonstrations' steps, nats).

    Args:
      policy: of numbered states and actions, such as `policies.planned` (with the same horizon).
      world: its transitions, terminal states and discount.
      divergence: `(expert, learner) -> number` of `losses.conjugates`.
      horizon: steps that count, all alike; None: all steps, step t with discount^t.
      arrivals: match the states after each action, as f-IRL does with the states of trajectories; False:
        states and actions.
      smoothing: share of a uniform distribution mixed into both sides, in [0, 1): what the demonstrations
        never do has a finite log-ratio.
      start: builds the probabilities of the learner's first state; None: the batch's first states.
    """
    within("smoothing", smoothing, 0, 1)
    mdp, transform = world(), optimizer()
    states, actions = mdp.rewards.shape
    if policy.vocab_size != actions:
        raise ValueError(
            f"occupancy_matching: the world has {actions} actions, and the policy {policy.vocab_size}"
        )
    if horizon is not None and horizon < 1:
        raise ValueError(f"occupancy_matching.horizon: expected 1 or more, or None, got {horizon}")
    first = None if start is None else np.asarray(start(), np.float32)
    grid = np.broadcast_to(np.indices((states, actions))[..., None], (2, states, actions, horizon or 1))
    every = Segments(jnp.asarray(grid[0]), jnp.asarray(grid[1]), jnp.ones(grid[0].shape, bool))

    def learner(params: Params, batch: Segments) -> Float[Array, "s a"]:
        table = jnp.exp(policy.token_logps(params, every))
        begun = jnp.asarray(first_states(batch, states=states) if first is None else first, table.dtype)
        placed = paid(mdp, jnp.zeros((states, actions), table.dtype))
        if horizon is None:
            found = occupancy(placed, table[..., 0], begun)
        else:
            found = horizon_occupancy(placed, jnp.moveaxis(table, -1, 0), begun)[1].sum(0)
        return found / found.sum()

    def matched(shares: Float[Array, "s a"]) -> Float[Array, " n"]:
        flat = jnp.einsum("sa,sat->t", shares, mdp.transitions.astype(shares.dtype)) if arrivals else shares
        flat = flat.reshape(-1)
        return (1 - smoothing) * flat + smoothing / flat.size

    def loss(params: Params, batch: Segments) -> tuple[Mean, tuple[Metrics, None]]:
        discount = mdp.discount if horizon is None else 1.0
        expert = demonstrated(batch, states=states, actions=actions, discount=discount)
        theirs, mine = matched(expert), matched(learner(params, batch))
        one = jnp.float32(1)
        mean = Mean(divergence(theirs, mine), one)
        logps, steps = policy.token_logps(params, batch), batch.mask * batch.weights[:, None, None]
        metrics: dict[str, Any] = {
            "loss": mean,
            "occupancy/distance": Mean(jnp.abs(theirs - mine).sum() / 2, one),
            "nll": Mean(-(logps * steps).sum(), steps.sum().astype(jnp.float32)),
            "num_tokens": num_tokens(batch),
        }
        return mean, (metrics, None)

    def init(params: Params, constants: Any = None, key: PRNGKey | None = None) -> TrainState:
        return TrainState(jnp.int32(0), params, transform.init(params))

    def step(state: TrainState, batch: Segments, key: PRNGKey) -> tuple[TrainState, Metrics]:
        gradient, (metrics, _) = accumulated_gradient(loss, state.params, batch, 1)
        params, opt_state, more = apply_gradient(transform, state.params, state.opt_state, gradient)
        return TrainState(state.step + 1, params, opt_state), metrics | more

    def evaluate(state: TrainState, batch: Segments, key: PRNGKey) -> Metrics:
        return loss(state.params, batch)[1][0]

    def rewards(state: TrainState, batch: Segments) -> Float[Array, "b k"]:
        """Log-probs of segments, nats."""
        return policy.token_logps(state.params, batch).sum(-1)

    return Algorithm(init, step, evaluate, lambda batch: 3 * policy.flops(batch) + 4.0 * states**3, rewards)
