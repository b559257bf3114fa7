"""What a controller earns: returns of whole episodes, in a world on the host or in a compiled one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxpref import keys
from jaxpref.environments.gymnasium import World
from jaxpref.environments.rollouts import JaxWorld, expert_return
from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.evals.intervals import clustered, proportion

__all__ = ["Episodes", "compiled_returns", "control_returns", "play"]


def control_returns(
    context: Context,
    *,
    world: Callable[[], World],
    episodes: int = 10,
    max_steps: int = 1000,
    reference_returns: tuple[float, float] | None = None,
    stochastic: bool = False,
    num_prompts: int | None = None,
    name: str = "episodes",
) -> Evaluation:
    """Undiscounted return, length and, where the world says so, success of whole episodes.

    Episodes run side by side, so that one call of the policy serves all. Each starts from a seed of its own,
    the same at every evaluation. Intervals are over these episodes alone and do not include the spread
    between training seeds.

    Args:
      world: builds one world with the interface of gymnasium; called once for each episode.
      max_steps: ends an episode that the world does not end.
      reference_returns: (low, high) adds "normalised return", 100 (return - low) / (high - low).
      stochastic: draw actions rather than take the likeliest.
      num_prompts: at most this many episodes.
    """
    if context.policy.act is None:
        raise ValueError(f"{name}: this policy has no `act`; control_returns is for controllers")
    if episodes < 1 or max_steps < 1:
        raise ValueError(f"{name}: expected episodes and steps, got {episodes} and {max_steps}")
    count = episodes if num_prompts is None else min(episodes, num_prompts)
    act = context.compiled(_act(context, name, stochastic))
    worlds = [world() for _ in range(count)]
    try:
        played = play(
            worlds,
            lambda seen, step: np.asarray(context.fetch(act(context.params, seen, np.int32(step)))),
            seeds=[_start(context, name, i) for i in range(count)],
            max_steps=max_steps,
        )
    finally:
        for w in worlds:
            w.close()
    mean = partial(clustered, groups=np.arange(count))
    metrics: dict[str, Estimate] = {"return": mean(played.returns)}
    if reference_returns is not None:
        low, high = reference_returns
        metrics["normalised return"] = mean(100 * (played.returns - low) / (high - low))
    metrics["episode length"] = mean(played.lengths.astype(np.float64), better="")
    if played.succeeded is not None:
        metrics["success"] = proportion(int(played.succeeded.sum()), count)
    return Evaluation(name, metrics)


class Episodes(NamedTuple):
    """One of each world."""

    returns: Float[np.ndarray, " n"]  # float64, undiscounted
    lengths: Int[np.ndarray, " n"]  # steps
    succeeded: Bool[np.ndarray, " n"] | None  # at any step; None: the worlds do not say


def play(
    worlds: list[World],
    act: Callable[[np.ndarray, int], np.ndarray],
    *,
    seeds: Sequence[int],
    max_steps: int,
) -> Episodes:
    """Plays an episode of each world, side by side.

    Args:
      act: `(observations [n, ...] float32, step) -> actions [n, ...]`. Observations of a world whose episode
        has ended are its last ones.
      seeds: of each world's start.
      max_steps: ends an episode that the world does not end.
    """
    starts = [w.reset(seed=seed)[0] for w, seed in zip(worlds, seeds, strict=True)]
    observations, count = np.stack(starts).astype(np.float32), len(worlds)
    returns, lengths = np.zeros(count), np.zeros(count, np.int64)
    succeeded, told = np.zeros(count, bool), False
    going = np.ones(count, bool)
    for step in range(max_steps):
        actions = act(observations, step)
        for i in np.flatnonzero(going):
            seen, reward, terminated, truncated, info = worlds[i].step(actions[i])
            observations[i] = seen
            returns[i] += float(reward)
            lengths[i] += 1
            told |= "success" in info
            succeeded[i] |= bool(info.get("success", False))
            going[i] = not (terminated or truncated)
        if not going.any():
            break
    return Episodes(returns, lengths, succeeded if told else None)


def compiled_returns(
    context: Context,
    *,
    world: Callable[[], JaxWorld],
    episodes: int = 256,
    steps: int = 200,
    num_prompts: int | None = None,
    name: str = "episodes",
) -> Evaluation:
    """Returns of episodes in one compiled program, and what the expert earns from the same starts.

    Undiscounted; actions are the likeliest. Starts are the same at every evaluation, and intervals are over
    them alone.

    Args:
      num_prompts: at most this many episodes.
    """
    built, act = world(), context.policy.act
    if act is None:
        raise ValueError(f"{name}: this policy has no `act`; compiled_returns is for controllers")
    count = episodes if num_prompts is None else min(episodes, num_prompts)
    if count < 1 or steps < 1:
        raise ValueError(f"{name}: expected episodes and steps, got {count} and {steps}")

    def run(params, starts):
        def one(key):
            def go(state, _):
                return built.step(state, act(params, built.observe(state), None))

            start = built.reset(key)
            earned = jax.lax.scan(go, start, None, length=steps)[1].sum()
            return earned, expert_return(built, start, steps)

        return jax.vmap(one)(starts)

    starts = jax.random.split(keys.key(context.seed, None, "evaluator", name, "starts"), count)
    mine, best = (
        np.asarray(x, np.float64) for x in context.fetch(context.compiled(run)(context.params, starts))
    )
    mean = partial(clustered, groups=np.arange(count))
    return Evaluation(
        name,
        {
            "return": mean(mine),
            "expert return": mean(best, better=""),
            "lost to expert": mean(best - mine, better="lower"),
        },
    )


def _start(context: Context, name: str, episode: int) -> int:
    """A seed for a world: the same at every evaluation of a run."""
    return keys.number(context.seed, None, "evaluator", name, "starts", episode) % 2**31


def _act(context: Context, name: str, stochastic: bool) -> Callable:
    def act(params, observations, step):
        key = keys.fold(context.key(name), step) if stochastic else None
        assert context.policy.act is not None
        return context.policy.act(params, observations, key)

    return act
