"""A planner as a policy: params are rewards, actions are the planner's. Inverse RL by likelihood.

The log-probs are those of maximum causal entropy control (Ziebart et al. 2008, 2010), so maximum likelihood
is MaxEnt IRL, and with `mlp_reward` deep MaxEnt IRL (Wulfmeier et al. 2015, arXiv:1507.04888). The gradient
is autodiff's. In a deterministic world without discount, the gradient of a demonstration is its feature
counts less the expected ones; in a stochastic one, that holds for the mean over demonstrations drawn from it.

With a softmax of the hard optimal values, Q* / temperature, it is Bayesian IRL's likelihood (Ramachandran &
Amir 2007); a prior in the optimizer (`optimizers.with_prior`) gives the MAP estimate.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.planning import TabularMDP, check_finite, horizon_values, values
from jaxpref.policies.base import Policy, answers_no_prompts, categorical
from jaxpref.policies.reward_functions import RewardFunction, check_fit
from jaxpref.policies.states import check_states
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["PlannedPolicy", "log_policy", "paid", "planned"]


def planned(
    *,
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    temperature: float = 1.0,
    horizon: int | None = None,
    optimal: bool = False,
    tolerance: float = 1e-6,
) -> Policy:
    """The soft-optimal policy of learnt rewards: `algorithms.sft` of it is MaxEnt IRL (Ziebart et al. 2008).

    Segments hold numbers of states and actions, and no step from a terminal state. With a `horizon` they
    start at time 0, and the records are padded to the horizon at most (`response_buckets=(horizon,)`).

    Args:
      world: builds the transitions, terminal states and discount; its rewards are never read.
      rewards: builds the reward function, such as `partial(linear_reward, features=...)`.
      temperature: of the policy, above 0: the unit of the rewards, which it scales with.
      horizon: steps to plan for, with a policy for each time step; None: no end but terminal states. At a
        discount of 1 the rewards that it starts from must give finite values then: soft ones need rewards
        well below 0 wherever one may loop. Where learning leaves them, the loss is not finite.
      optimal: Boltzmann in the hard optimal values: Bayesian IRL (Ramachandran & Amir 2007).
      tolerance: of the values' sweeps, where there is no horizon.

    Raises:
      ValueError: temperature or horizon out of range, or rewards that do not fit the world.
      DivergentValues (a ValueError): at discount 1 and without a horizon, values of the first rewards are not
        finite.
    """
    if not temperature > 0 or (horizon is not None and horizon < 1):
        raise ValueError(
            f"planned: expected a temperature above 0 and a horizon of 1 or more (or None), got "
            f"{temperature} and {horizon}"
        )
    mdp, reward = world(), rewards()
    check_fit("planned", reward, mdp)
    if horizon is None and mdp.discount == 1:
        check_finite(paid(mdp, reward.rewards(reward.init(jax.random.key(0)))), 0 if optimal else temperature)
    states, actions = mdp.rewards.shape
    plan = PlannedPolicy(mdp, reward.rewards, temperature, horizon, optimal, tolerance)
    return Policy(
        init=reward.init,
        token_logps=plan.token_logps,
        sample=answers_no_prompts,
        axes=reward.axes,
        flops=lambda batch: 2.0 * states * states * actions * (horizon or 1),  # a sweep costs this
        vocab_size=actions,
        act=plan.act if horizon is None else None,
        check=partial(check_states, states=states, terminal=mdp.terminal),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedPolicy:
    """`log_policy` of a world whose rewards are a function of params."""

    mdp: TabularMDP
    rewards: Callable[[Params], Float[Array, "s #a"]]
    temperature: float
    horizon: int | None
    optimal: bool
    tolerance: float

    def logs(self, params: Params) -> Float[Array, "*h s a"]:
        return log_policy(
            paid(self.mdp, self.rewards(params)),
            self.temperature,
            horizon=self.horizon,
            optimal=self.optimal,
            tolerance=self.tolerance,
        )

    def token_logps(self, params: Params, batch: Segments) -> Float[Array, "b k t"]:
        log_table, steps = self.logs(params), batch.actions.shape[-1]
        if self.horizon is None:
            taken = log_table[batch.observations, batch.actions]
        elif steps > self.horizon:
            raise ValueError(
                f"planned: segments of {steps} steps and a horizon of {self.horizon}; set the stage's "
                f"response_buckets=({self.horizon},), and cut demonstrations that are longer"
            )
        else:
            taken = log_table[jnp.arange(steps), batch.observations, batch.actions]
        return jnp.where(batch.mask, taken, 0)

    def act(
        self, params: Params, observations: Int[Array, "*rows"], key: PRNGKey | None
    ) -> Int[Array, "*rows"]:
        """The next action of each state, without a horizon."""
        logits = self.logs(params)[observations]
        return logits.argmax(-1) if key is None else categorical(key, logits)


def paid(mdp: TabularMDP, rewards: Float[Array, "s #a"]) -> TabularMDP:
    """The world with other rewards, in their precision."""
    wide = jnp.broadcast_to(rewards, mdp.rewards.shape)
    return mdp._replace(transitions=mdp.transitions.astype(wide.dtype), rewards=wide)


def log_policy(
    mdp: TabularMDP,
    temperature: float,
    *,
    horizon: int | None = None,
    optimal: bool = False,
    tolerance: float = 1e-6,
) -> Float[Array, "*h s a"]:
    """Log-probs `[s, a]` (with a horizon `[h, s, a]`) of the soft-optimal policy, nats.

    `optimal`: of the softmax of the hard optimal values / temperature instead.
    """
    softness = 0.0 if optimal else temperature
    if horizon is None:
        q = values(mdp, softness, tolerance=tolerance)[1]
    else:
        q = horizon_values(mdp, horizon, softness)[1]
    return jax.nn.log_softmax(q / temperature, -1)
