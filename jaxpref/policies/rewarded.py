"""A reward for each step of behaviour in a finite world, and the scores of segments that follow from it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxtyping import Array

from jaxpref.planning import World, random_successors, score_by_return, score_by_successors
from jaxpref.policies.base import Policy, answers_no_prompts
from jaxpref.policies.reward_functions import linear_reward
from jaxpref.types import Params, Segments

__all__ = ["linear_scores", "successor_scores"]


def linear_scores(
    *, world: Callable[[], World], score: Callable[..., Any] = score_by_return, initial: Any = None
) -> Policy:
    """`linear_reward` of a world's own features; the one output for a segment is its score under them.

    For the losses of reward models (`losses.bradley_terry_soft` with
    `reference=None`), on `Segments` of numbered states and actions. It is no distribution and draws nothing:
    plan with its rewards (`evals.planned_return`).

    Args:
      world: where it acts; its true weights are not looked at. With `planning.state_action_features` the
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

    def quantities(
        params: Params, batch: Segments, names: tuple[str, ...], reference_params: Params | None = None
    ) -> dict[str, Array]:
        del reference_params
        if set(names) != {"embeddings"}:
            raise ValueError(f"linear_scores: has scores of segments, and no {', '.join(names)}")
        found = score(known, params["weights"], batch.observations, batch.actions, batch.step_mask)
        return {"embeddings": found[..., None]}

    def none(*args: Any, **settings: Any) -> Any:
        raise ValueError("linear_scores: it is no distribution; use policies.states for a policy")

    return Policy(
        init=reward.init,
        token_logps=none,
        sample=answers_no_prompts,
        axes=reward.axes,
        flops=lambda batch: 2.0 * states * actions * size,
        vocab_size=actions,
        quantities=quantities,
        outputs=1,
    )


def successor_scores(
    *,
    world: Callable[[], World],
    num_policies: int,
    typical: Sequence[float] | None = None,
    seed: int = 0,
    temperature: float = 0.01,
    initial: Any = None,
) -> Policy:
    """`linear_scores` scored by regret whose values come out of a fixed set of policies.

    As the released code of arXiv:2310.02456 learns: the policies are optimal for random weights, their
    successor features are found once, and no planning happens while learning (`planning.gpi_values`). As good
    as the policies are: where none is near the optimal one of the true weights, values are too low.

    Args:
      typical: sign and size of the random weights (`planning.random_successors`).
      temperature: of the softmax over policies (released: 0.001, for float64).
    """
    known = world()
    successors = random_successors(known, num_policies=num_policies, typical=typical, seed=seed)
    score = partial(score_by_successors, successors=successors, temperature=temperature)
    return linear_scores(world=lambda: known, score=score, initial=initial)
