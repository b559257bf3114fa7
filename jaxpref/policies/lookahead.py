"""How far a traveller looks ahead: values of nodes towards destinations, by the horizon.

- 1, 2, ... steps: v' is h - 1 soft sweeps of the values of the cheapest paths, v one more: receding-horizon
  inverse planning (RHIP, arXiv:2305.11290). With 1, the choice is a softmax of r + v_cheapest: Bayesian IRL's
  likelihood at its mode.
- `MAX_ENT`, an infinite one: both are converged soft values: MaxEnt IRL, recursive logit. Too few sweeps, or
  costs so small that there is no finite sum, give NaN.
- 0: v' and v of the cheapest paths.

Values of a finite horizon and their gradient are `planning.roads.horizon_values` by rollout, in O(sqrt(H) n
d) memory; `horizon_values_autodiff`, the same numbers in O(H n d); or `stationary_horizon_values`, the
simpler reading of the paper's algorithm (UNVERIFIED), which is not the likelihood's gradient.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.planning import roads

__all__ = ["MAX_ENT", "Lookahead"]

MAX_ENT = math.inf  # the horizon of converged soft values
_FLOW_TOLERANCE = 1e-6  # of `planning.roads.soft_values`


@dataclasses.dataclass(frozen=True, eq=False)
class Lookahead:
    """Values under any rewards of arcs, at one horizon.

    Raises:
      ValueError: an unknown horizon, or no planner with a finite one.
    """

    graph: roads.RoadGraph
    horizon: float
    planner: roads.Planner | None = roads.sweeps  # cheapest paths; None: `MAX_ENT` from the destination
    horizon_values: Callable[..., Any] = roads.horizon_values  # of a finite horizon, with its gradient
    tolerance: float = 1e-4  # this and the next of `MAX_ENT`, see `planning.roads.soft_values`
    max_sweeps: int = 10_000

    def __post_init__(self) -> None:
        if self.horizon == MAX_ENT:
            return
        if self.horizon < 0 or self.horizon != int(self.horizon):
            raise ValueError(
                f"route_planner.horizon: expected 0, 1, 2, ... or inf (MaxEnt), got {self.horizon}"
            )
        if self.planner is None:
            raise ValueError("route_planner.planner: None is for MaxEnt alone; use planning.roads.sweeps")

    def values(
        self, rewards: Float[Array, "e *d"], ends: Int[Array, " d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """v' after the next arc, and v before it, towards each destination."""
        planner = roads.sweeps if self.planner is None else self.planner
        v: Any
        if self.horizon == MAX_ENT:
            v = roads.soft_values(self.graph, rewards, ends, self.planner, self.tolerance, self.max_sweeps)
            return v, v
        if self.horizon == 0:
            v = roads.hard_values(self.graph, rewards, ends, planner)
            return v, v
        return self.horizon_values(self.graph, rewards, ends, int(self.horizon), planner)

    def explain(self, costs: Float[np.ndarray, "*x e"]) -> str | None:
        """Why values under these costs (float64, of each region) are not finite, and what to do."""
        if self.horizon != MAX_ENT:
            return None
        for region, of_one in enumerate(costs.reshape(-1, self.graph.num_arcs)):
            where = f"MaxEnt, region {region}" if costs.ndim == 2 else "MaxEnt"
            if not np.isfinite(of_one).all():
                return f"{where}: costs are not finite; lower the learning rate"
            try:
                radius = roads.check_partition(self.graph, of_one)
            except roads.DivergentPartition as error:
                return (
                    f"{where}: {error}. In training: start from larger costs (`initial`), or take smaller "
                    "steps (a lower learning rate)"
                )
            if radius == 0:
                continue
            needed = math.log(min(self.tolerance * (1 - radius), _FLOW_TOLERANCE)) / math.log(radius)
            if needed > self.max_sweeps:
                return (
                    f"{where}: the spectral radius of exp(-cost) is {radius:.6g}, near 1, and max_sweeps="
                    f"{self.max_sweeps} is not enough for it (about {needed:.2g} are); raise that, or start "
                    "from larger costs (`initial`)"
                )
        return None
