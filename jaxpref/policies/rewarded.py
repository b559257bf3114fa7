"""A reward for each step of behaviour in a finite world, and the scores of segments that follow from it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.planning import (
    TabularMDP,
    World,
    partial_return,
    random_successors,
    score_by_return,
    score_by_successors,
)
from jaxpref.policies.base import Policy, answers_no_prompts, no_log_probs
from jaxpref.policies.reward_functions import RewardFunction, check_fit, linear_reward
from jaxpref.policies.states import check_states
from jaxpref.types import Params, Segments

__all__ = ["linear_scores", "return_scores", "successor_scores"]


def linear_scores(
    *, world: Callable[[], World], score: Callable[..., Any] = score_by_return, initial: Any = None
) -> Policy:
    """`linear_reward` of a world's own features; the one output for a segment is its score under them.

    For the losses of reward models (`losses.bradley_terry_soft` with `reference=None`), on `Segments` of
    numbered states and actions. It is no distribution and has no samples: to act, plan with its rewards
    (`evals.planned_return`).

    Args:
      world: where it acts; its true weights are not used. With `planning.state_action_features` the
        weights are a table with an entry for each action of each state.
      score: `(world, weights, states, actions, mask) -> [b, k]`, such as `planning.score_by_return` (partial
        return) or `planning.score_by_regret` (through the optimal values of the rewards).
      initial: weights that `init` returns; None: zeros.
    """
    known = world()
    states, actions, size = known.features.shape
    reward = linear_reward(
        features=lambda: known.features, initial=initial, param_dtype=known.features.dtype.name
    )

    def scored(params: Params, batch: Segments) -> Float[Array, "b k"]:
        return score(known, params["weights"], batch.observations, batch.actions, batch.step_mask)

    return _scores("linear_scores", reward, scored, states, actions, 2.0 * states * actions * size)


def return_scores(
    *, world: Callable[[], TabularMDP], rewards: Callable[[], RewardFunction], discount: float = 1.0
) -> Policy:
    """The partial return of a segment under any reward function: a table, a line or a network.

    With `losses.trajectory_bradley_terry` on ranked segments this is T-REX (Brown et al. 2019,
    arXiv:1904.06387). `evals.reward_recovery` plans with the learnt rewards. Steps from terminal states earn
    nothing.

    Args:
      world: where it acts; its rewards are not used.
      discount: step t has weight discount^t; 1: all steps have equal weight.

    Raises:
      ValueError: rewards that do not fit the world.
    """
    mdp, reward = world(), rewards()
    check_fit("return_scores", reward, mdp)
    states, actions = mdp.rewards.shape

    def scored(params: Params, batch: Segments) -> Float[Array, "b k"]:
        table = jnp.broadcast_to(reward.rewards(params), (states, actions))
        earned = jnp.where(mdp.terminal[:, None], 0, table)[batch.observations, batch.actions]
        return partial_return(earned, batch.step_mask, discount=discount)

    return _scores("return_scores", reward, scored, states, actions, 2.0 * states * actions)


def successor_scores(
    *,
    world: Callable[[], World],
    num_policies: int,
    typical: Sequence[float] | None = None,
    seed: int = 0,
    temperature: float = 0.01,
    initial: Any = None,
) -> Policy:
    """`linear_scores` by regret, with values from a fixed set of policies.

    This is how the released code of arXiv:2310.02456 learns: the policies are optimal for random weights,
    their successor features are computed once, and nothing is planned while learning (`planning.gpi_values`).
    Where no policy of the set is near the optimal one of the true weights, values are too low.

    Args:
      typical: sign and size of the random weights (`planning.random_successors`).
      temperature: of the softmax over policies (released: 0.001, for float64).
    """
    known = world()
    successors = random_successors(known, num_policies=num_policies, typical=typical, seed=seed)
    score = partial(score_by_successors, successors=successors, temperature=temperature)
    return linear_scores(world=lambda: known, score=score, initial=initial)


def _scores(
    name: str,
    reward: RewardFunction,
    scored: Callable[[Params, Segments], Float[Array, "b k"]],
    states: int,
    actions: int,
    flops: float,
) -> Policy:
    """A policy with one head output for each segment, and no log-probs."""

    def quantities(params: Params, batch: Segments, names: tuple[str, ...], *_: Any) -> dict[str, Array]:
        if set(names) != {"embeddings"}:
            raise ValueError(f"{name}: has scores of segments, and no {', '.join(names)}")
        return {"embeddings": scored(params, batch)[..., None]}

    return Policy(
        init=reward.init,
        token_logps=no_log_probs,
        sample=answers_no_prompts,
        axes=reward.axes,
        flops=lambda batch: flops,
        vocab_size=actions,
        quantities=quantities,
        offers=("embeddings",),
        outputs=1,
        check=partial(check_states, states=states),
    )
