"""The other way round: a reward from preferences, then offline policy improvement on it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxpref.algorithms.base import Algorithm, num_tokens
from jaxpref.algorithms.reported import reward_metrics
from jaxpref.algorithms.update import apply_gradient
from jaxpref.losses.checks import positive, within
from jaxpref.losses.links import logistic
from jaxpref.metrics import Mean, Metrics, masked_mean
from jaxpref.policies.base import Policy
from jaxpref.policies.perceptron import checked_sizes, perceptron, perceptron_init
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["PreferenceIQLState", "preference_iql"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PreferenceIQLState:
    """An actor and what it is improved by."""

    step: Int[Array, ""]
    params: Params  # the actor
    opt_state: optax.OptState
    reward: Params
    reward_opt_state: optax.OptState
    critics: dict[str, Params]  # "q_0", "q_1": values of actions; "v": of observations
    critics_opt_state: optax.OptState
    targets: dict[str, Params]  # slow copies of the two q


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
    """Preference-based implicit Q-learning on pairs of segments: what CPL does without.

    For `reward_steps` steps a network r(s, a) explains the preferences by the difference of its sums over the
    two segments (Christiano et al. 2017, arXiv:1706.03741). Then it is held, and implicit Q-learning
    (Kostrikov et al. 2021, arXiv:2110.06169) improves the actor on the same segments: v is an expectile of
    the smaller target q, q regresses on r + discount * v of the next observation, and the actor imitates with
    the weight min(exp((q - v) / temperature), largest_weight). The last step of a segment has no next
    observation and teaches q nothing; nothing is terminal.

    Defaults are those of the baseline "P-IQL" of arXiv:2310.13639's released code, as transcribed, but for
    `target_rate` and `largest_weight`, which are customary.

    Args:
      optimizer: builds the transformation; the actor, the reward and the critics have one each.
      reward_steps: steps for the reward alone; the actor stays as it is meanwhile.
      expectile: in [0.5, 1). temperature: above 0.
    """
    positive(
        temperature=temperature, target_rate=target_rate, largest_weight=largest_weight, discount=discount
    )
    within("expectile", expectile, 0.5, 1)
    if reward_steps < 1:
        raise ValueError(f"reward_steps: expected 1 or more, got {reward_steps}")
    pair_sizes = checked_sizes((observation_size + action_size, *hidden, 1))
    state_sizes = checked_sizes((observation_size, *hidden, 1))
    transform = optimizer()

    def joined(batch: Segments) -> Float[Array, "b k t i"]:
        return jnp.concatenate([batch.observations, batch.actions], -1)

    def rewards_of(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        return jnp.where(batch.mask, perceptron(params, joined(batch))[..., 0], 0)

    def explained(params: Params, batch: Segments) -> tuple[Array, Metrics]:
        if batch.preferences is None or batch.mask.shape[1] != 2:
            raise ValueError("preference_iql: expected pairs of segments with preferences")
        sums = rewards_of(params, batch).sum(-1)
        p, margin = batch.preferences[:, 0, 1], sums[:, 0] - sums[:, 1]
        mean = masked_mean(p * logistic(margin) + (1 - p) * logistic(-margin), batch.weights)
        return mean.value, {"reward/loss": mean} | reward_metrics(sums, None, batch, labelled=False)

    def advantages(critics: Params, targets: Params, batch: Segments) -> tuple[Array, Array]:
        """The smaller target q minus v, and v."""
        q = [perceptron(targets[name], joined(batch))[..., 0] for name in ("q_0", "q_1")]
        v = perceptron(critics["v"], batch.observations)[..., 0]
        return jax.lax.stop_gradient(jnp.minimum(*q)) - v, v

    def evaluated(
        critics: Params, targets: Params, reward: Params, batch: Segments
    ) -> tuple[Array, tuple[Metrics, Array]]:
        advantage, v = advantages(critics, targets, batch)
        asymmetric = jnp.where(advantage > 0, expectile, 1 - expectile) * advantage**2
        goal = rewards_of(reward, batch)[..., :-1] + discount * v[..., 1:]
        followed = batch.mask[..., 1:]  # steps whose next observation is in the segment
        errors = [
            perceptron(critics[name], joined(batch))[..., :-1, 0] - jax.lax.stop_gradient(goal)
            for name in ("q_0", "q_1")
        ]
        v_mean = masked_mean(asymmetric, batch.mask)
        q_mean = masked_mean(errors[0] ** 2 + errors[1] ** 2, followed)
        metrics = {"critic/v_loss": v_mean, "critic/q_loss": q_mean}
        return v_mean.value + q_mean.value, (metrics, jax.lax.stop_gradient(advantage))

    def imitated(params: Params, batch: Segments, advantage: Array) -> tuple[Array, Metrics]:
        weights = jnp.minimum(jnp.exp(advantage / temperature), largest_weight)
        mean = masked_mean(-weights * policy.token_logps(params, batch), batch.mask)
        return mean.value, {"loss": mean, "actor/weight": masked_mean(weights, batch.mask)}

    def init(params: Params) -> PreferenceIQLState:
        keys = jax.random.split(jax.random.key(0), 4)
        reward = perceptron_init(keys[0], pair_sizes)
        critics = {f"q_{i}": perceptron_init(keys[1 + i], pair_sizes) for i in range(2)}
        critics["v"] = perceptron_init(keys[3], state_sizes)
        targets = {name: jax.tree.map(jnp.copy, critics[name]) for name in ("q_0", "q_1")}
        started = (transform.init(params), reward, transform.init(reward), critics, transform.init(critics))
        return PreferenceIQLState(jnp.int32(0), params, *started, targets)

    def learn(
        loss: Callable[..., Any], params: Params, opt_state: Any, *more: Any
    ) -> tuple[Params, Any, Any, Array]:
        gradient, aux = jax.grad(loss, has_aux=True)(params, *more)
        params, opt_state, found = apply_gradient(transform, params, opt_state, gradient)
        return params, opt_state, aux, found["grad_norm"].value

    def step(state: PreferenceIQLState, batch: Segments, key: PRNGKey) -> tuple[PreferenceIQLState, Metrics]:
        del key
        first = state.step < reward_steps
        *reward, of_reward, norm_r = learn(explained, state.reward, state.reward_opt_state, batch)
        *critics, (of_critics, advantage), norm_c = learn(
            evaluated, state.critics, state.critics_opt_state, state.targets, state.reward, batch
        )
        *actor, of_actor, norm_a = learn(imitated, state.params, state.opt_state, batch, advantage)
        moved = {
            name: jax.tree.map(lambda new, old: old + target_rate * (new - old), critics[0][name], old)
            for name, old in state.targets.items()
        }
        before = ((state.reward, state.reward_opt_state), (state.critics, state.critics_opt_state))
        reward = _either(first, tuple(reward), before[0])
        critics = _either(first, before[1], tuple(critics))
        actor = _either(first, (state.params, state.opt_state), tuple(actor))
        targets = _either(first, state.targets, moved)
        new = PreferenceIQLState(
            state.step + 1, actor[0], actor[1], reward[0], reward[1], critics[0], critics[1], targets
        )
        # Of all three, whichever moves: the loop stops where one is not finite.
        norm = jnp.linalg.norm(jnp.stack([norm_r, norm_c, norm_a]))
        more = {"grad_norm": Mean(norm, jnp.float32(1)), "num_tokens": num_tokens(batch)}
        return new, of_reward | of_critics | of_actor | more

    def evaluate(state: PreferenceIQLState, batch: Segments, key: PRNGKey) -> Metrics:
        del key
        _, of_reward = explained(state.reward, batch)
        _, (of_critics, advantage) = evaluated(state.critics, state.targets, state.reward, batch)
        _, of_actor = imitated(state.params, batch, advantage)
        return of_reward | of_critics | of_actor | {"num_tokens": num_tokens(batch)}

    def rewards(state: PreferenceIQLState, batch: Segments) -> Float[Array, "b k"]:
        return rewards_of(state.reward, batch).sum(-1)

    return Algorithm(init, step, evaluate, lambda batch: 3 * policy.flops(batch), rewards)


def _either(first: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), yes, no)
