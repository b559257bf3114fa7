"""Adversarial imitation in a finite world, exactly: a discriminator against a policy, nothing sampled."""

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
from jaxpref.algorithms.base import Algorithm, num_tokens
from jaxpref.algorithms.demonstrated import demonstrated, first_states
from jaxpref.algorithms.inputs import bind
from jaxpref.algorithms.update import apply_gradient
from jaxpref.losses.checks import not_negative, positive
from jaxpref.losses.imitation import gail_rewards
from jaxpref.metrics import Mean, Metrics
from jaxpref.planning import TabularMDP, occupancy, policy_values
from jaxpref.policies.base import Policy
from jaxpref.policies.planned import paid
from jaxpref.policies.reward_functions import RewardFunction
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["AdversarialState", "adversarial"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdversarialState:
    """The policy, and the discriminator that it plays against."""

    step: Int[Array, ""]
    params: Params  # {"logits": [s, a]}
    discriminator: Params  # of the reward function
    opt_state: optax.OptState  # of the discriminator

    @property
    def bank(self) -> dict[str, Params]:
        """What evaluators may ask for by name."""
        return {"discriminator": self.discriminator}


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
    """GAIL (Ho & Ermon 2016, arXiv:1606.03476) and AIRL (Fu, Luo & Levine 2018, arXiv:1710.11248) on tables.

    A step moves the discriminator by the gradient of the mean of `loss` over the expert's and the learner's
    occupancies (both of total 1), and then the policy by soft policy improvement, pi exp(step_size Q), Q
    the learner's exact action values of what it earns: the natural gradient of a softmax table. GAIL:
    `loss=losses.gail, earns=gail_rewards`. AIRL: `loss=losses.airl, earns=airl_rewards`. With both balanced,
    AIRL's rewards are the log-probs of the expert, its advantages, wherever the expert goes.

    Demonstrations start at time 0, and their steps weigh discount^t; what they would have done after their
    end is missing. Metrics: `loss` (2 log 2 where nothing tells the two apart), `occupancy/distance` (total
    variation, in [0, 1]), `nll` (of the demonstrations' steps, nats) and `entropy` of the policy, nats.

    *Differs from* released codes: no samples of the learner, no trust region, no value network. Totals of 1
    hide how long trajectories are, so in a world that ends, rewards of one sign (GAIL's) reward living on.

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
    positive(step_size=step_size)
    not_negative(temperature=temperature)
    mdp, reward, transform = world(), rewards(), optimizer()
    states, actions = mdp.rewards.shape
    given = jax.eval_shape(policy.init, jax.random.key(0))
    if jax.tree.map(lambda x: x.shape, given) != {"logits": (states, actions)}:
        raise ValueError(
            f"adversarial: expected a policy with params {{'logits': [{states}, {actions}]}}, got "
            f"{jax.tree.map(lambda x: list(x.shape), given)}; use policies.states.state_table"
        )
    if discriminator_steps < 1:
        raise ValueError(f"adversarial.discriminator_steps: expected 1 or more, got {discriminator_steps}")
    first = None if start is None else np.asarray(start(), np.float32)

    def table(found: Params) -> Float[Array, "s a"]:
        return jnp.broadcast_to(reward.rewards(found), (states, actions))

    def learner(params: Params, batch: Segments) -> tuple[Float[Array, "s a"], Float[Array, "s a"]]:
        """Occupancy of total 1, and log-probs."""
        logps = jax.nn.log_softmax(params["logits"], -1)
        begun = first_states(batch, states=states) if first is None else first
        found = occupancy(paid(mdp, jnp.zeros_like(logps)), jnp.exp(logps), jnp.asarray(begun, logps.dtype))
        return found / found.sum(), logps

    def criticised(found: Params, expert: Array, mine: Array, logps: Array) -> Array:
        x, n = table(found).reshape(-1), states * actions
        sides = {"expert": lambda y: jnp.repeat(y, n), "learner": lambda y: jnp.tile(y, n)}
        offered = {f"{side}_rewards": spread(x) for side, spread in sides.items()}
        offered |= {f"{side}_generator_logps": spread(logps.reshape(-1)) for side, spread in sides.items()}
        weights = jnp.repeat(expert.reshape(-1), n) * jnp.tile(mine.reshape(-1), n)
        return (weights * bind(loss, offered)).sum()

    def measured(state: AdversarialState, batch: Segments) -> tuple[Metrics, tuple[Array, Array, Array]]:
        expert = demonstrated(batch, states=states, actions=actions, discount=mdp.discount)
        mine, logps = learner(state.params, batch)
        values = {
            "loss": criticised(state.discriminator, expert, mine, logps),
            "occupancy/distance": jnp.abs(expert - mine).sum() / 2,
            "nll": -(expert * logps).sum(),
            "entropy": -(mine * logps).sum(),
        }
        one = jnp.float32(1)
        metrics: Metrics = {name: Mean(value, one) for name, value in values.items()}
        return metrics | {"num_tokens": num_tokens(batch)}, (expert, mine, logps)

    def init(params: Params) -> AdversarialState:
        found = reward.init(jax.random.key(0))
        return AdversarialState(jnp.int32(0), params, found, transform.init(found))

    def step(state: AdversarialState, batch: Segments, key: PRNGKey) -> tuple[AdversarialState, Metrics]:
        metrics, seen = measured(state, batch)

        def sharpen(carry: tuple[Params, Any], _: None):
            slope = jax.grad(criticised)(carry[0], *seen)
            found, opt_state, more = apply_gradient(transform, carry[0], carry[1], slope)
            return (found, opt_state), more

        (found, opt_state), more = jax.lax.scan(
            sharpen, (state.discriminator, state.opt_state), None, length=discriminator_steps
        )
        logps = seen[2]
        earned = bind(earns, {"rewards": table(found), "logps": logps}) - temperature * logps
        world_now = paid(mdp, earned)
        v = jnp.where(mdp.terminal, 0, policy_values(world_now, jnp.exp(logps)))
        q = earned + mdp.discount * world_now.transitions @ v
        logits = jax.nn.log_softmax(logps + step_size * q, -1)
        logits = jnp.where(mdp.terminal[:, None], logps, logits)
        new = AdversarialState(state.step + 1, {"logits": logits}, found, opt_state)
        return new, metrics | jax.tree.map(lambda x: x[-1], more)

    def evaluate(state: AdversarialState, batch: Segments, key: PRNGKey) -> Metrics:
        return measured(state, batch)[0]

    def rewarded(state: AdversarialState, batch: Segments) -> Float[Array, "b k"]:
        """What the discriminator's rewards say of each segment, undiscounted."""
        return jnp.where(batch.mask, table(state.discriminator)[batch.observations, batch.actions], 0).sum(-1)

    flops = 4.0 * states**3 + 2.0 * discriminator_steps * (states * actions) ** 2
    return Algorithm(init, step, evaluate, lambda batch: flops, rewarded)
