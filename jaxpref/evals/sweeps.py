"""How value iteration converges: with true rewards, and with what was learned."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxpref.evals.base import Context, Evaluation, Picture
from jaxpref.evals.intervals import exact
from jaxpref.evals.planned import step_scores
from jaxpref.planning import TabularMDP, World, sweep_residuals

__all__ = ["pictured_sweeps", "value_sweeps"]


def value_sweeps(
    context: Context,
    *,
    world: Callable[[], World],
    table: Callable[[Context, World], NDArray[np.float64]] = step_scores,
    sweeps: int = 300,
    num_prompts: int | None = None,
    name: str = "sweeps",
) -> Evaluation:
    """Largest change of a value in each sweep, with the true rewards and with the learned `table`, drawn.

    Where only a discount near 1 makes it fall, some loop has a return above 0, and the policy planned with
    that table walks it for ever. "residual" is the learned table's in the last sweep.

    Args:
      table: as in `planned_return`.
      sweeps: 1 or more.
      num_prompts: has no effect: there is nothing to draw.
    """
    del num_prompts
    known = world()
    entries = jnp.asarray(table(context, known), known.mdp.rewards.dtype)
    learned = known.mdp._replace(rewards=entries)
    worlds = {"true rewards": (known.mdp, 0.0), "learned": (learned, 0.0)}
    picture = pictured_sweeps(name, worlds, sweeps=sweeps)
    last = picture.data["lines"]["learned"]["y"][-1]
    return Evaluation(name, {"residual": exact(last, better="")}, pictures=(picture,))


def pictured_sweeps(title: str, worlds: Mapping[str, tuple[TabularMDP, float]], *, sweeps: int) -> Picture:
    """`planning.sweep_residuals` of worlds and temperatures by name, beside the bound of the discount."""
    places = list(range(1, sweeps + 1))
    lines = {}
    for who, (mdp, temperature) in worlds.items():
        residuals = np.asarray(sweep_residuals(mdp, temperature, sweeps=sweeps), np.float64)
        lines[who] = {"x": places, "y": residuals.tolist()}
    (mdp, _), first = next(iter(worlds.values())), next(iter(lines.values()))["y"][0]
    if mdp.discount < 1:
        bound = first * mdp.discount ** np.arange(sweeps)
        lines["bound: discount^sweep"] = {"x": places, "y": bound.tolist()}
    return Picture(title, "curves", {"lines": lines, "x": "sweep", "y": "largest change of a value"})
