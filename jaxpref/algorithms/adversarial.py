"""Adversarial imitation in a finite world, exactly: a discriminator against a policy, nothing sampled.

GAIL (Ho & Ermon 2016, arXiv:1606.03476) and AIRL (Fu, Luo & Levine 2018, arXiv:1710.11248) on tables. A step
moves the discriminator by the gradient of the mean of a loss over the expert's and the learner's occupancies
(both of total 1), and then the policy by soft policy improvement, pi exp(step_size Q), where Q are the
learner's exact action values under the discriminator's rewards: the natural gradient of a softmax table. At
equilibrium AIRL's rewards are the expert's log-probs, that is its advantages, wherever the expert goes.
Demonstrations start at time 0, and step t has weight discount^t; what would have followed their end is
missing.

*Differs from* released codes: no samples of the learner, no trust region, no value network. Occupancies of
total 1 hide how long trajectories are, so in a world that ends, rewards of one sign (GAIL's) favour staying
alive."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from jaxpref import losses
from jaxpref.algorithms.base import NONE, Algorithm, Constants, num_tokens
from jaxpref.algorithms.demonstrated import demonstrated, first_states
from jaxpref.algorithms.inputs import bind
from jaxpref.algorithms.optimizers import apply_gradient, each_step
from jaxpref.losses.checks import not_negative, positive
from jaxpref.losses.imitation import gail_rewards
from jaxpref.metrics import Mean, Metrics
from jaxpref.planning import TabularMDP, occupancy, policy_values
from jaxpref.policies.base import Policy, without_constants
from jaxpref.policies.planned import paid
from jaxpref.policies.reward_functions import RewardFunction
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["AdversarialState", "Imitation", "adversarial"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdversarialState:
    """The policy, and the discriminator that it plays against."""

    step: Int[Array, ""]
    params: Params  # {"logits": [s, a]}
    discriminator: Params  # of the reward function
    opt_state: optax.OptState  # of the discriminator

    @property
    def everyone(self) -> dict[str, Params]:
        """What evaluators may ask for by name."""
        return {"policy": self.params, "discriminator": self.discriminator}


@dataclasses.dataclass(frozen=True, eq=False)
class Imitation:
    """The game of a discriminator against a policy in a finite world, exactly."""

    world: TabularMDP
    reward: RewardFunction  # the discriminator
    loss: Callable[..., Array]
    earns: Callable[..., Array]
    start: Float[np.ndarray, " s"] | None  # None: the batch's first states

    @property
    def shape(self) -> tuple[int, int]:
        """States and actions."""
        states, actions = self.world.rewards.shape
        return states, actions

    def rewards(self, discriminator: Params) -> Float[Array, "s a"]:
        """The discriminator as a table: its logit for GAIL, r for AIRL."""
        return jnp.broadcast_to(self.reward.rewards(discriminator), self.shape)

    def demonstrated(self, batch: Segments) -> Float[Array, "s a"]:
        """The expert's occupancy, of total 1."""
        states, actions = self.shape
        return demonstrated(batch, states=states, actions=actions, discount=self.world.discount)

    def learner(self, params: Params, batch: Segments) -> tuple[Float[Array, "s a"], Float[Array, "s a"]]:
        """The learner's occupancy, of total 1, and its log-probs."""
        logps = jax.nn.log_softmax(params["logits"], -1)
        begun = first_states(batch, states=self.shape[0]) if self.start is None else self.start
        world = paid(self.world, jnp.zeros_like(logps))
        visits = occupancy(world, jnp.exp(logps), jnp.asarray(begun, logps.dtype))
        return visits / visits.sum(), logps

    def discriminator_loss(
        self,
        discriminator: Params,
        expert: Float[Array, "s a"],
        learner: Float[Array, "s a"],
        logps: Float[Array, "s a"],
    ) -> Float[Array, ""]:
        """The mean of `loss` over all pairs of an expert's and a learner's state and action."""
        x, n = self.rewards(discriminator).reshape(-1), expert.size
        sides = {"expert": lambda y: jnp.repeat(y, n), "learner": lambda y: jnp.tile(y, n)}
        offered = {f"{side}_rewards": spread(x) for side, spread in sides.items()}
        offered |= {f"{side}_generator_logps": spread(logps.reshape(-1)) for side, spread in sides.items()}
        weights = jnp.repeat(expert.reshape(-1), n) * jnp.tile(learner.reshape(-1), n)
        return (weights * bind(self.loss, offered)).sum()

    def improved(
        self, logps: Float[Array, "s a"], discriminator: Params, *, step_size: float, temperature: float
    ) -> Float[Array, "s a"]:
        """Soft policy improvement, pi exp(step_size Q), Q exact."""
        rewards = self.rewards(discriminator)
        earned = bind(self.earns, {"rewards": rewards, "logps": logps}) - temperature * logps
        terminal = self.world.terminal
        v = jnp.where(terminal, 0, policy_values(paid(self.world, earned), jnp.exp(logps)))
        q = earned + self.world.discount * paid(self.world, earned).transitions @ v
        logits = jax.nn.log_softmax(logps + step_size * q, -1)
        return jnp.where(terminal[:, None], logps, logits)

    def measured(
        self, params: Params, discriminator: Params, batch: Segments
    ) -> tuple[Metrics, tuple[Array, Array, Array]]:
        """Metrics, and the discriminator's inputs: both occupancies and the policy's log-probs."""
        expert, (mine, logps) = self.demonstrated(batch), self.learner(params, batch)
        values = {
            "loss": self.discriminator_loss(discriminator, expert, mine, logps),
            "occupancy/distance": jnp.abs(expert - mine).sum() / 2,
            "nll": -(expert * logps).sum(),
            "entropy": -(mine * logps).sum(),
        }
        metrics: Metrics = {name: Mean(value, jnp.float32(1)) for name, value in values.items()}
        return metrics | {"num_tokens": num_tokens(batch)}, (expert, mine, logps)


def adversarial(
    policy: Policy,
    *,
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    optimizer: Callable[[], optax.GradientTransformation],
    start: Callable[[], ArrayLike] | None = None,
    loss: Callable[..., Array] = losses.gail,
    earns: Callable[..., Array] = gail_rewards,
    temperature: float = 0.0,
    step_size: float = 0.5,
    discriminator_steps: int = 1,
) -> Algorithm:
    """GAIL: `loss=losses.gail, earns=gail_rewards`. AIRL: `loss=losses.airl, earns=airl_rewards`.

    Metrics: `loss` (2 log 2 where the two cannot be told apart), `occupancy/distance` (total variation, in
    [0, 1]), `nll` (of the demonstrations' steps, nats) and `entropy` of the policy, nats.

    Args:
      policy: `policies.states.state_table` of the world.
      rewards: builds the discriminator: its logit for GAIL, r for AIRL, of states and actions.
      optimizer: of the discriminator.
      start: builds the probabilities of the learner's first state; None: the batch's first states.
      loss: names some of {expert, learner}_rewards and {expert, learner}_generator_logps. The mean is over
        all pairs of an expert's and a learner's state and action: (s a)^2 numbers.
      earns: names `rewards` or also `logps`.
      temperature: price of the learner's negative entropy, 0 or more, on top of what is in `earns`.
      step_size: of the policy, above 0. 1 / temperature is soft policy iteration.
      discriminator_steps: before each step of the policy, 1 or more.

    Raises:
      ValueError: the policy is not a table of this world, or a number is out of range.
    """
    without_constants(policy, "adversarial")
    positive(step_size=step_size)
    not_negative(temperature=temperature)
    if discriminator_steps < 1:
        raise ValueError(f"adversarial.discriminator_steps: expected 1 or more, got {discriminator_steps}")
    first = None if start is None else np.asarray(start(), np.float32)
    game = Imitation(world(), rewards(), loss, earns, first)
    states, actions = game.shape
    _check_table(policy, states, actions)
    with each_step(discriminator_steps):
        transform = optimizer()
    players = _Adversaries(game, transform, temperature, step_size, discriminator_steps)
    flops = 4.0 * states**3 + 2.0 * discriminator_steps * (states * actions) ** 2
    return Algorithm(players.init, players.step, players.evaluate, lambda batch: flops, players.rewards)


@dataclasses.dataclass(frozen=True, eq=False)
class _Adversaries:
    game: Imitation
    transform: optax.GradientTransformation  # of the discriminator
    temperature: float
    step_size: float
    discriminator_steps: int

    def init(
        self, params: Params, constants: Constants = NONE, key: PRNGKey | None = None
    ) -> AdversarialState:
        discriminator = self.game.reward.init(jax.random.key(0) if key is None else key)
        return AdversarialState(jnp.int32(0), params, discriminator, self.transform.init(discriminator))

    def step(
        self, state: AdversarialState, batch: Segments, key: PRNGKey
    ) -> tuple[AdversarialState, Metrics]:
        metrics, seen = self.game.measured(state.params, state.discriminator, batch)

        def sharpen(carry: tuple[Params, Any], _: None):
            slope = jax.grad(self.game.discriminator_loss)(carry[0], *seen)
            discriminator, opt_state, more = apply_gradient(self.transform, carry[0], carry[1], slope)
            return (discriminator, opt_state), more

        (discriminator, opt_state), more = jax.lax.scan(
            sharpen, (state.discriminator, state.opt_state), None, length=self.discriminator_steps
        )
        logits = self.game.improved(
            seen[2], discriminator, step_size=self.step_size, temperature=self.temperature
        )
        new = AdversarialState(state.step + 1, {"logits": logits}, discriminator, opt_state)
        return new, metrics | jax.tree.map(lambda x: x[-1], more)

    def evaluate(self, state: AdversarialState, batch: Segments, key: PRNGKey) -> Metrics:
        return self.game.measured(state.params, state.discriminator, batch)[0]

    def rewards(self, state: AdversarialState, batch: Segments) -> Float[Array, "b k"]:
        """The undiscounted return of each segment under the discriminator's rewards."""
        table = self.game.rewards(state.discriminator)
        return jnp.where(batch.mask, table[batch.observations, batch.actions], 0).sum(-1)


def _check_table(policy: Policy, states: int, actions: int) -> None:
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(policy.init, jax.random.key(0)))
    if shapes != {"logits": (states, actions)}:
        raise ValueError(
            f"adversarial: expected a policy with params {{'logits': [{states}, {actions}]}}, got "
            f"{jax.tree.map(list, shapes, is_leaf=lambda x: isinstance(x, tuple))}; use "
            "policies.states.state_table"
        )
