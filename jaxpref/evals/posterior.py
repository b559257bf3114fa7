"""Returns of policies under a posterior of rewards: bounds of high confidence, and the true returns."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.evals.intervals import exact
from jaxpref.planning import TabularMDP, occupancy, policy_values, values
from jaxpref.policies.planned import paid
from jaxpref.policies.reward_functions import RewardFunction
from jaxpref.types import Params

__all__ = ["posterior_returns"]


def posterior_returns(
    context: Context,
    *,
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    start: Callable[[], ArrayLike],
    policies: Mapping[str, Callable[[], ArrayLike]],
    unit: float = 1.0,
    confidence: float = 0.95,
    num_prompts: int | None = None,
    name: str = "posterior",
) -> Evaluation:
    """Returns of policies under the draws of `algorithms.bayesian_rex`, and under the hidden rewards.

    The policies are the optimal ones of the posterior mean ("mean") and of the likeliest draw ("MAP"), and
    those given. The return is exact for each draw; "at least" is what it exceeds in a share `confidence` of
    the draws (B-REX's high-confidence bound, Brown et al. 2020, arXiv:2002.09089: its released script reports
    the 5 % quantile), its mean over draws has that share's central interval, and "truly" is the return in
    hidden rewards, which no learner sees.

    Differs from that script in interpolating between the two draws nearest to the quantile.

    Args:
      world: the true one, its rewards included.
      start: builds the probabilities of the first state.
      policies: tables `[s, a]` of others, by name, such as the demonstrator's.
      unit: what hidden rewards are divided by: the length of the hidden weights, in the norm in which draws
        have length 1.
      confidence: in (0, 1).
      num_prompts: has no effect: there is nothing to draw.
    """
    del num_prompts
    if not 0 < confidence < 1 or not unit > 0:
        raise ValueError(
            f"posterior_returns: expected a confidence in (0, 1) and a unit above 0, got {confidence}, {unit}"
        )
    measure = _returns(world, rewards, start, tuple(policies.items()), unit, confidence)
    results = context.fetch(
        context.compiled(measure)(context.params, context.member("map"), context.member("draws"))
    )
    metrics = {}
    for who, of in results.items():
        (low, left, right), truly = (float(x) for x in of["tail"]), float(of["truly"])
        count = len(context.member("draws")["weights"])
        metrics[f"{who}: return"] = Estimate(float(of["mean"]), left, right, count, "higher")
        metrics[f"{who}: at least"] = Estimate(low, math.nan, math.nan, count)
        metrics[f"{who}: truly"] = exact(truly)
    return Evaluation(name, metrics)


@functools.lru_cache(maxsize=8)  # one function for all evaluations of a run, so that it is compiled once
def _returns(
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    start: Callable[[], ArrayLike],
    policies: tuple[tuple[str, Callable[[], ArrayLike]], ...],
    unit: float,
    confidence: float,
) -> Callable[[Params, Params, Params], dict[str, dict[str, Array]]]:
    mdp, reward = world(), rewards()
    first = jnp.asarray(start(), jnp.float32)
    given = {who: jnp.asarray(policy(), jnp.float32) for who, policy in policies}

    def measure(mean: Params, likeliest: Params, draws: Params) -> dict[str, dict[str, Array]]:
        def best(params: Params) -> Float[Array, "s a"]:
            return values(paid(mdp, reward.rewards(params)))[2]

        paid_for = jax.vmap(lambda params: paid(mdp, reward.rewards(params)).rewards)(draws)
        true = paid(mdp, jnp.asarray(mdp.rewards, paid_for.dtype) / unit)
        results = {}
        for who, policy in {"mean": best(mean), "MAP": best(likeliest), **given}.items():
            returns = jnp.tensordot(paid_for, occupancy(true, policy, first), 2)
            tail = jnp.quantile(
                returns, jnp.array([1 - confidence, (1 - confidence) / 2, (1 + confidence) / 2])
            )
            truly = first @ policy_values(true, policy)
            results[who] = {"mean": returns.mean(), "tail": tail, "truly": truly}
        return results

    return measure
