"""Matching the expert's occupancy by the gradient of a divergence through planning: f-IRL, exactly."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxpref.algorithms.base import NONE, Algorithm, Constants, TrainState, num_tokens
from jaxpref.algorithms.demonstrated import demonstrated, first_states
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.optimizers import apply_gradient
from jaxpref.losses.checks import within
from jaxpref.losses.conjugates import reverse_kl_divergence
from jaxpref.metrics import Mean, Metrics
from jaxpref.planning import TabularMDP, horizon_occupancy, occupancy
from jaxpref.policies.base import Policy, without_constants
from jaxpref.policies.planned import paid
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["Matching", "occupancy_matching"]


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
      horizon: number of steps that count, with equal weights; None: all steps, step t with discount^t.
      arrivals: match the states after each action, as f-IRL does with the states of trajectories; False:
        states and actions.
      smoothing: share of a uniform distribution mixed into both sides, in [0, 1): what the demonstrations
        never do has a finite log-ratio.
      start: builds the probabilities of the learner's first state; None: the batch's first states.
    """
    without_constants(policy, "occupancy_matching")
    within("smoothing", smoothing, 0, 1)
    mdp, transform = world(), optimizer()
    _check_world(policy, mdp, horizon)
    first = None if start is None else np.asarray(start(), np.float32)
    states, actions = mdp.rewards.shape
    every = _every_step(states, actions, horizon or 1)
    matching = Matching(policy.token_logps, every, mdp, divergence, horizon, arrivals, smoothing, first)

    def init(params: Params, constants: Constants = NONE, key: PRNGKey | None = None) -> TrainState:
        return TrainState(jnp.int32(0), params, transform.init(params))

    def step(state: TrainState, batch: Segments, key: PRNGKey) -> tuple[TrainState, Metrics]:
        gradient, (metrics, _) = accumulated_gradient(matching.loss, state.params, batch, key)
        params, opt_state, more = apply_gradient(transform, state.params, state.opt_state, gradient)
        return TrainState(state.step + 1, params, opt_state), metrics | more

    def evaluate(state: TrainState, batch: Segments, key: PRNGKey) -> Metrics:
        return matching.loss(state.params, batch)[1][0]

    def rewards(state: TrainState, batch: Segments) -> Float[Array, "b k"]:
        """Log-probs of segments, nats."""
        return policy.token_logps(state.params, batch).sum(-1)

    return Algorithm(init, step, evaluate, lambda batch: 3 * policy.flops(batch) + 4.0 * states**3, rewards)


@dataclasses.dataclass(frozen=True, eq=False)
class Matching:
    """D(expert || learner) as a function of the learner's params and the expert's demonstrations."""

    token_logps: Callable[[Params, Segments], Float[Array, "b k t"]]  # of the learner
    every: Segments  # all actions in all states (and times, with a horizon)
    mdp: TabularMDP
    divergence: Callable[[Array, Array], Array]
    horizon: int | None
    arrivals: bool
    smoothing: float
    first: Float[np.ndarray, " s"] | None  # probabilities of the first state; None: the batch's

    def learner(self, params: Params, batch: Segments) -> Float[Array, "s a"]:
        """The learner's occupancy, of total 1."""
        states, actions = self.mdp.rewards.shape
        table = jnp.exp(self.token_logps(params, self.every))
        begun = first_states(batch, states=states) if self.first is None else self.first
        begun = jnp.asarray(begun, table.dtype)
        placed = paid(self.mdp, jnp.zeros((states, actions), table.dtype))
        if self.horizon is None:
            visits = occupancy(placed, table[..., 0], begun)
        else:
            visits = horizon_occupancy(placed, jnp.moveaxis(table, -1, 0), begun)[1].sum(0)
        return visits / visits.sum()

    def matched(self, shares: Float[Array, "s a"]) -> Float[Array, " n"]:
        """What is compared: states and actions, or the states that they lead to."""
        flat = shares
        if self.arrivals:
            flat = jnp.einsum("sa,sat->t", shares, self.mdp.transitions.astype(shares.dtype))
        flat = flat.reshape(-1)
        return (1 - self.smoothing) * flat + self.smoothing / flat.size

    def loss(
        self, params: Params, batch: Segments, key: PRNGKey | None = None
    ) -> tuple[Mean, tuple[Metrics, None]]:
        states, actions = self.mdp.rewards.shape
        discount = self.mdp.discount if self.horizon is None else 1.0
        expert = demonstrated(batch, states=states, actions=actions, discount=discount)
        theirs, mine = self.matched(expert), self.matched(self.learner(params, batch))
        one = jnp.float32(1)
        mean = Mean(self.divergence(theirs, mine), one)
        logps, steps = self.token_logps(params, batch), batch.mask * batch.weights[:, None, None]
        metrics: dict[str, Any] = {
            "loss": mean,
            "occupancy/distance": Mean(jnp.abs(theirs - mine).sum() / 2, one),
            "nll": Mean(-(logps * steps).sum(), steps.sum().astype(jnp.float32)),
            "num_tokens": num_tokens(batch),
        }
        return mean, (metrics, None)


def _every_step(states: int, actions: int, times: int) -> Segments:
    """All actions in all states at all times, `[s, a, t]`."""
    shape = (states, actions, times)
    grid = np.broadcast_to(np.indices(shape[:2])[..., None], (2, *shape))
    return Segments(jnp.asarray(grid[0]), jnp.asarray(grid[1]), jnp.ones(shape, bool))


def _check_world(policy: Policy, mdp: TabularMDP, horizon: int | None) -> None:
    actions = mdp.rewards.shape[1]
    if policy.vocab_size != actions:
        raise ValueError(
            f"occupancy_matching: the world has {actions} actions, and the policy {policy.vocab_size}"
        )
    if horizon is not None and horizon < 1:
        raise ValueError(f"occupancy_matching.horizon: expected 1 or more, or None, got {horizon}")
