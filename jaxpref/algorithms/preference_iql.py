"""Preference-based implicit Q-learning: a reward from preferences, then offline policy improvement on it.

First a network r(s, a) explains the preferences by the difference of its sums over the two segments
(Christiano et al. 2017, arXiv:1706.03741). Then it is frozen, and implicit Q-learning (Kostrikov et al. 2021,
arXiv:2110.06169) improves the actor on the same segments: v is an expectile of the smaller target q, q
regresses on r + discount * v of the next observation, and the actor imitates with the weight min(exp((q - v)
/ temperature), largest_weight). The last step of a segment has no next observation and no part in the loss
of q; no state is terminal."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxpref.algorithms.base import NONE, Algorithm, Constants, num_tokens
from jaxpref.algorithms.optimizers import after, apply_gradient, during
from jaxpref.algorithms.reported import reward_metrics
from jaxpref.losses.checks import positive, within
from jaxpref.losses.links import logistic
from jaxpref.metrics import Mean, Metrics, weighted_mean
from jaxpref.policies.base import Policy, without_constants
from jaxpref.policies.perceptron import checked_sizes, perceptron, perceptron_init
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["ImplicitQ", "PreferenceIQLState", "preference_iql"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PreferenceIQLState:
    """An actor, and the reward and critics that improve it."""

    step: Int[Array, ""]
    params: Params  # the actor
    opt_state: optax.OptState
    reward: Params
    reward_opt_state: optax.OptState
    critics: dict[str, Params]  # "q_0", "q_1": values of actions; "v": of observations
    critics_opt_state: optax.OptState
    targets: dict[str, Params]  # slow copies of the two q


@dataclasses.dataclass(frozen=True, eq=False)
class ImplicitQ:
    """The three objectives of preference-based implicit Q-learning, each a pure function of its params.

    A step of a segment has the weight of its row (`Segments.response_weights`).
    """

    policy: Policy
    discount: float
    expectile: float
    temperature: float
    largest_weight: float

    def rewards(self, reward: Params, batch: Segments) -> Float[Array, "b k t"]:
        """r(s, a) of each step, 0 where there is none."""
        return jnp.where(batch.mask, perceptron(reward, _pairs(batch))[..., 0], 0)

    def reward_loss(self, reward: Params, batch: Segments) -> tuple[Array, Metrics]:
        """Cross entropy of the preferences and the difference of summed rewards, nats."""
        if batch.preferences is None or batch.mask.shape[1] != 2:
            raise ValueError("preference_iql: expected pairs of segments with preferences")
        sums = self.rewards(reward, batch).sum(-1)
        p, margin = batch.preferences[:, 0, 1], sums[:, 0] - sums[:, 1]
        mean = weighted_mean(p * logistic(margin) + (1 - p) * logistic(-margin), batch.weights)
        return mean.value, {"reward/loss": mean} | reward_metrics(sums, None, batch)

    def critic_loss(
        self, critics: Params, targets: Params, reward: Params, batch: Segments
    ) -> tuple[Array, tuple[Metrics, Array]]:
        """Expectile regression of v on the smaller target q, and regression of both q on r + discount * v of
        the next observation; with it the advantages, the smaller target q minus v."""
        q = [perceptron(targets[name], _pairs(batch))[..., 0] for name in ("q_0", "q_1")]
        v = perceptron(critics["v"], batch.observations)[..., 0]
        advantage = jax.lax.stop_gradient(jnp.minimum(*q)) - v
        asymmetric = jnp.where(advantage > 0, self.expectile, 1 - self.expectile) * advantage**2
        goal = self.rewards(reward, batch)[..., :-1] + self.discount * v[..., 1:]
        errors = [
            perceptron(critics[name], _pairs(batch))[..., :-1, 0] - jax.lax.stop_gradient(goal)
            for name in ("q_0", "q_1")
        ]
        steps = _step_weights(batch)
        v_mean = weighted_mean(asymmetric, steps)
        # Steps whose next observation is in the segment.
        q_mean = weighted_mean(errors[0] ** 2 + errors[1] ** 2, steps[..., 1:])
        metrics = {"critic/v_loss": v_mean, "critic/q_loss": q_mean}
        return v_mean.value + q_mean.value, (metrics, jax.lax.stop_gradient(advantage))

    def actor_loss(
        self, params: Params, batch: Segments, advantage: Float[Array, "b k t"]
    ) -> tuple[Array, Metrics]:
        """Imitation with the weight min(exp(advantage / temperature), largest_weight), nats a step."""
        often = jnp.minimum(jnp.exp(advantage / self.temperature), self.largest_weight)
        steps = _step_weights(batch)
        mean = weighted_mean(-often * self.policy.token_logps(params, batch), steps)
        return mean.value, {"loss": mean, "actor/weight": weighted_mean(often, steps)}


def _pairs(batch: Segments) -> Float[Array, "b k t i"]:
    return jnp.concatenate([batch.observations, batch.actions], -1)


def _step_weights(batch: Segments) -> Float[Array, "b k t"]:
    return batch.mask * batch.response_weights[..., None]


def preference_iql(
    policy: Policy,
    *,
    optimizer: Callable[[], optax.GradientTransformation],
    observation_size: int,
    action_size: int,
    reward_steps: int,
    hidden: Sequence[int] = (256, 256),
    discount: float = 0.99,
    expectile: float = 0.7,
    temperature: float = 1 / 3,
    target_rate: float = 0.005,
    largest_weight: float = 100.0,
) -> Algorithm:
    """Preference-based implicit Q-learning on pairs of segments: a baseline for CPL, which needs no critic.

    Defaults are those of the baseline "P-IQL" in the released code of arXiv:2310.13639, but for `hidden`,
    which is (512, 512) there.

    Differs from it in that the actor and the critics wait until the reward is learnt; there they are trained
    from the first step on.

    Args:
      optimizer: builds the transformation; the actor, the reward and the critics have one each. A schedule
        without `num_steps` lasts `reward_steps` for the reward, and the rest of the stage for the others.
      reward_steps: steps for the reward alone; the actor stays as it is meanwhile.
      expectile: in [0.5, 1). temperature: above 0.
    """
    without_constants(policy, "preference_iql")
    positive(temperature=temperature, target_rate=target_rate)
    positive(largest_weight=largest_weight, discount=discount)
    within("expectile", expectile, 0.5, 1)
    if reward_steps < 1:
        raise ValueError(f"reward_steps: expected 1 or more, got {reward_steps}")
    pairs = checked_sizes((observation_size + action_size, *hidden, 1))
    states = checked_sizes((observation_size, *hidden, 1))
    objectives = ImplicitQ(policy, discount, expectile, temperature, largest_weight)
    with during(reward_steps):
        of_reward = optimizer()
    with after(reward_steps):
        of_rest = optimizer()
    learner = _PreferenceIQL(objectives, of_reward, of_rest, pairs, states, reward_steps, target_rate)
    return Algorithm(
        learner.init,
        learner.step,
        learner.evaluate,
        lambda batch: 3 * policy.flops(batch),
        lambda state, batch: objectives.rewards(state.reward, batch).sum(-1),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _PreferenceIQL:
    objectives: ImplicitQ
    reward_transform: optax.GradientTransformation
    transform: optax.GradientTransformation  # of actor and critics
    pair_sizes: tuple[int, ...]  # of networks of observation and action
    state_sizes: tuple[int, ...]  # of networks of the observation
    reward_steps: int
    target_rate: float

    def init(
        self, params: Params, constants: Constants = NONE, key: PRNGKey | None = None
    ) -> PreferenceIQLState:
        keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
        reward = perceptron_init(keys[0], self.pair_sizes)
        critics = {f"q_{i}": perceptron_init(keys[1 + i], self.pair_sizes) for i in range(2)}
        critics["v"] = perceptron_init(keys[3], self.state_sizes)
        targets = {name: jax.tree.map(jnp.copy, critics[name]) for name in ("q_0", "q_1")}
        start = self.transform.init
        started = (start(params), reward, self.reward_transform.init(reward), critics, start(critics))
        return PreferenceIQLState(jnp.int32(0), params, *started, targets)

    def step(
        self, state: PreferenceIQLState, batch: Segments, key: PRNGKey
    ) -> tuple[PreferenceIQLState, Metrics]:
        del key
        moved, metrics = _learned(self.objectives, self.reward_transform, self.transform, state, batch)
        targets = {
            name: jax.tree.map(
                lambda new, old: old + self.target_rate * (new - old), moved.critics[name], old
            )
            for name, old in state.targets.items()
        }
        # First the reward alone, then all the others.
        first = state.step < self.reward_steps
        rest = dataclasses.replace(
            moved, reward=state.reward, reward_opt_state=state.reward_opt_state, targets=targets
        )
        alone = dataclasses.replace(state, reward=moved.reward, reward_opt_state=moved.reward_opt_state)
        new = jax.tree.map(lambda a, b: jnp.where(first, a, b), alone, rest)
        return dataclasses.replace(new, step=state.step + 1), metrics

    def evaluate(self, state: PreferenceIQLState, batch: Segments, key: PRNGKey) -> Metrics:
        del key
        objectives, critics = self.objectives, (state.critics, state.targets, state.reward)
        _, of_reward = objectives.reward_loss(state.reward, batch)
        _, (of_critics, advantage) = objectives.critic_loss(*critics, batch)
        _, of_actor = objectives.actor_loss(state.params, batch, advantage)
        return of_reward | of_critics | of_actor | {"num_tokens": num_tokens(batch)}


def _learned(
    objectives: ImplicitQ,
    reward_transform: optax.GradientTransformation,
    transform: optax.GradientTransformation,
    state: PreferenceIQLState,
    batch: Segments,
) -> tuple[PreferenceIQLState, Metrics]:
    """One update of reward, critics and actor; targets and step stay as they are."""

    def learn(
        transform: optax.GradientTransformation,
        loss: Callable[..., Any],
        params: Params,
        opt_state: Any,
        *more: Any,
    ):
        gradient, aux = jax.grad(loss, has_aux=True)(params, *more)
        params, opt_state, metrics = apply_gradient(transform, params, opt_state, gradient)
        return params, opt_state, aux, metrics["grad_norm"].value

    reward, reward_opt_state, of_reward, norm_r = learn(
        reward_transform, objectives.reward_loss, state.reward, state.reward_opt_state, batch
    )
    critics, critics_opt_state, (of_critics, advantage), norm_c = learn(
        transform,
        objectives.critic_loss,
        state.critics,
        state.critics_opt_state,
        state.targets,
        state.reward,
        batch,
    )
    params, opt_state, of_actor, norm_a = learn(
        transform, objectives.actor_loss, state.params, state.opt_state, batch, advantage
    )
    # Of all three, whichever moves: the loop stops where one is not finite.
    norm = jnp.linalg.norm(jnp.stack([norm_r, norm_c, norm_a]))
    more = {"grad_norm": Mean(norm, jnp.float32(1)), "num_tokens": num_tokens(batch)}
    new = PreferenceIQLState(
        state.step, params, opt_state, reward, reward_opt_state, critics, critics_opt_state, state.targets
    )
    return new, of_reward | of_critics | of_actor | more
