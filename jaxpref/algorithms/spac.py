"""Self-play with an adversarial critic at two time-scales: two players, two sets of params, one loop.

SPAC (Ji et al. 2024, arXiv:2406.04274, by secondary accounts; the defaults are ours). A step draws samples of
the policy, updates the critic f in [0, bound] by `losses.spac_critic` (which fits the pairs and lowers f of
the samples), and then the policy by REINFORCE on E f - KL(pi || previous) / eta, whose optimum is previous *
exp(eta f). In the theory the critic is optimal in every round and the result is the mixture of all policies;
here the critic takes a few updates in each step, and the result is the last policy."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxpref import losses
from jaxpref.algorithms.base import NONE, Algorithm, Constants, TrainState
from jaxpref.algorithms.collected import enumerator, sampler
from jaxpref.algorithms.collector import Collector
from jaxpref.algorithms.copies import copied
from jaxpref.algorithms.inputs import call_loss, inputs_of, row_weights
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.offline import offline
from jaxpref.algorithms.optimizers import apply_gradient, each_step
from jaxpref.losses.checks import positive
from jaxpref.losses.spac import policy_step
from jaxpref.metrics import Mean, Metrics, weighted_mean
from jaxpref.policies.base import Policy, without_constants
from jaxpref.policies.tabular import enumerated
from jaxpref.selection.gather import take_responses
from jaxpref.types import Completions, Params, PRNGKey, Prompts

__all__ = ["Critic", "SpacState", "climbed", "spac"]


@dataclasses.dataclass(frozen=True, eq=False)
class Critic:
    """A critic f in [0, bound] of responses: `bound` times the sigmoid of a policy's one head output."""

    policy: Policy
    loss: Callable[..., Any]  # of chosen, rejected and sampled rewards, before the sigmoid
    bound: float

    def rewards(self, params: Params, batch: Completions) -> Float[Array, "b k"]:
        """Head outputs: f before its sigmoid."""
        assert self.policy.quantities is not None
        return self.policy.quantities(params, batch, ("embeddings",), None, None)["embeddings"][..., 0]

    def value(self, params: Params, batch: Completions) -> Float[Array, "b k"]:
        """f of each response."""
        return self.bound * jax.nn.sigmoid(self.rewards(params, batch))

    def __call__(
        self, params: Params, batch: Completions, key: PRNGKey | None = None
    ) -> tuple[Mean, tuple[Metrics, None]]:
        """The critic's loss on recorded pairs (responses 0 and 1) and samples (the others), with metrics."""
        rewards = self.rewards(params, batch)
        rows = row_weights(inputs_of(self.loss), batch)
        mean = weighted_mean(call_loss(self.loss, {"rewards": rewards}, {}), rows)
        f = self.bound * jax.nn.sigmoid(jax.lax.stop_gradient(rewards))
        parts = {"chosen": f[:, 0], "rejected": f[:, 1], "sampled": f[:, 2:].mean(1)}
        metrics = {f"critic/{name}": weighted_mean(part, rows) for name, part in parts.items()}
        return mean, ({"critic/loss": mean} | metrics, None)

    def judged(self, params: Params, batch: Completions) -> Completions:
        """The samples alone, with f as their column `scores`."""
        rows, k = batch.response_tokens.shape[:2]
        drawn = take_responses(batch, jnp.broadcast_to(jnp.arange(2, k), (rows, k - 2)))
        scores = jax.lax.stop_gradient(self.value(params, drawn))
        return dataclasses.replace(drawn, columns=drawn.columns | {"scores": scores})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpacState:
    """The leader is the policy, the follower the critic."""

    step: Int[Array, ""]  # steps of the policy
    params: Params
    opt_state: optax.OptState
    policies: dict[str, Params]  # "previous": the policy that the present round starts from
    critic: Params
    critic_opt_state: optax.OptState

    @property
    def leader(self) -> TrainState:
        """The policy alone."""
        return TrainState(self.step, self.params, self.opt_state, self.policies)

    @property
    def everyone(self) -> dict[str, Params]:
        """The params of every policy by name."""
        return self.leader.everyone


def spac(
    policy: Policy,
    *,
    optimizer: Callable[[], optax.GradientTransformation],
    critic: Callable[[], Policy],
    critic_optimizer: Callable[[], optax.GradientTransformation],
    max_tokens: int,
    weight: float = 10.0,
    eta: float = 1.0,
    bound: float = 1.0,
    scale: float = 1.0,
    critic_steps: int = 1,
    round_steps: int = 1,
    num_samples: int = 1,
    exact: bool = False,
    mirror: bool = False,
    microbatches: int = 1,
) -> Algorithm:
    """Two-timescale SPAC on recorded pairs: a pessimistic critic, and a policy that climbs it.

    Args:
      critic: builds a policy with one head output, such as `transformer(outputs=1)` or `reward_table`. It
        starts from the params of the policy where theirs have the same names and shapes (a body), and
        from its own `init` elsewhere (a head).
      weight, bound, scale: as in `losses.spac_critic`. eta: step of a round, above 0.
      critic_steps: updates of the critic in a step, on the same batch: the faster time-scale.
      round_steps: steps of the policy before `previous` is renewed.
      exact: expectations over all responses in place of samples, for tables.
      mirror: take previous * exp(eta f) itself, for tables with `length=1`; a step is then a round, and
        `optimizer` and `round_steps` have no effect.
    """
    without_constants(policy, "spac")
    _check(policy, critic_steps, round_steps, num_samples, mirror)
    positive(weight=weight, eta=eta, bound=bound, scale=scale)
    objective = partial(losses.spac_critic, weight=weight, bound=bound, scale=scale)
    leader = offline(
        policy,
        loss=partial(losses.reinforce, beta=1 / eta, baseline=bound / 2),
        optimizer=optimizer,
        reference="previous",
        policies={"previous": partial(copied, every=1 if mirror else round_steps)},
        microbatches=microbatches,
    )
    follower = Critic(_critic(critic), objective, bound)
    mixtures = ({"policy": 1.0},) * num_samples
    draw = enumerator(policy, mixtures) if exact else sampler(policy, mixtures, max_tokens=max_tokens)
    climb = partial(climbed, policy, follower, eta=eta) if mirror else None
    with each_step(critic_steps):
        transform = critic_optimizer()
    game = _Spac(policy, leader, follower, transform, critic_steps, microbatches, climb)
    collect, parts = Collector(draw, hybrid=True), 1 if exact else microbatches
    return Algorithm(game.init, game.step, game.evaluate, game.flops, game.rewards, collect, parts=parts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Spac:
    policy: Policy
    leader: Algorithm  # how the policy learns from samples with scores
    follower: Critic
    transform: optax.GradientTransformation  # of the critic
    critic_steps: int
    microbatches: int
    climb: Callable[[Params, Params], Params] | None  # solves a round, in place of the leader's step

    def init(self, params: Params, constants: Constants = NONE, key: PRNGKey | None = None) -> SpacState:
        start = self.leader.init(params, constants, key)
        fresh = self.follower.policy.init(jax.random.key(0) if key is None else key)
        critic = _from(fresh, params)
        opt_state = self.transform.init(critic)
        return SpacState(start.step, start.params, start.opt_state, start.policies, critic, opt_state)

    def step(self, state: SpacState, batch: Completions, key: PRNGKey) -> tuple[SpacState, Metrics]:
        def improve(carry, _):
            gradient, (metrics, _) = accumulated_gradient(
                self.follower, carry[0], batch, key, microbatches=self.microbatches
            )
            params, opt_state, _ = apply_gradient(self.transform, carry[0], carry[1], gradient)
            return (params, opt_state), metrics

        critic, seen = jax.lax.scan(
            improve, (state.critic, state.critic_opt_state), None, length=self.critic_steps
        )
        samples = self.follower.judged(critic[0], batch)
        if self.climb is not None:
            metrics = self.leader.evaluate(state.leader, samples, key)
            params = self.climb(state.params, critic[0])
            new = TrainState(state.step + 1, params, state.opt_state, {"previous": params})
        else:
            new, metrics = self.leader.step(state.leader, samples, key)
        last = jax.tree.map(lambda x: x[-1], seen)
        return SpacState(new.step, new.params, new.opt_state, new.policies, *critic), metrics | last

    def evaluate(self, state: SpacState, batch: Completions, key: PRNGKey) -> Metrics:
        samples = self.follower.judged(state.critic, batch)
        metrics = self.leader.evaluate(state.leader, samples, key)
        return metrics | self.follower(state.critic, batch)[1][0]

    def flops(self, batch: Completions) -> float:
        of_critic = self.follower.policy.flops(batch)
        return 5 * self.policy.flops(batch) + (3 * self.critic_steps + 1) * of_critic

    def rewards(self, state: SpacState, batch: Completions) -> Float[Array, "b k"]:
        return self.follower.value(state.critic, batch)


def climbed(policy: Policy, critic: Critic, params: Params, follower: Params, *, eta: float) -> Params:
    """The table proportional to pi exp(eta f): the exact solution of a round of the policy."""
    logits = params["logits"]
    if logits.ndim != 2:
        raise ValueError(f"spac: mirror=True needs a table with length=1, got logits {logits.shape}")
    numbers = jnp.arange(len(logits), dtype=jnp.int32)[:, None]
    every = enumerated(policy, Prompts(numbers, jnp.ones(numbers.shape, bool)))
    return {"logits": policy_step(jax.nn.log_softmax(logits, -1), critic.value(follower, every), eta)}


def _check(policy: Policy, critic_steps: int, round_steps: int, num_samples: int, mirror: bool) -> None:
    if min(critic_steps, round_steps, num_samples) < 1:
        raise ValueError(
            "spac: critic_steps, round_steps and num_samples count from 1, got "
            f"{critic_steps}, {round_steps} and {num_samples}"
        )
    if mirror and policy.enumerate is None:
        raise ValueError("spac: mirror=True needs all responses; use a tabular policy")


def _critic(build: Callable[[], Policy]) -> Policy:
    policy = build()
    if policy.quantities is None or policy.outputs != 1:
        raise ValueError("spac: the critic needs one head output; build it with outputs=1")
    return policy


def _from(fresh: Params, params: Params) -> Params:
    """`fresh`, with the leaves of `params` where both have one of the same name and shape."""
    leaves = dict(jax.tree.leaves_with_path(params))

    def one(path, leaf: Array) -> Array:
        given = leaves.get(path)
        return jnp.copy(given) if given is not None and given.shape == leaf.shape else leaf

    return jax.tree.map_with_path(one, fresh)
