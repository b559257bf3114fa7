"""Costs of a road graph's arcs as functions of params: what inverse route planning learns.

Costs are positive, and an arc's is (features @ softplus(weights) + softplus(MLP(features) - 5)) * exp(table).
The MLP and the table are optional: without them costs are linear in the features, which are 0 or more.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.planning import roads
from jaxpref.policies.perceptron import perceptron, perceptron_init
from jaxpref.types import Params, PRNGKey

__all__ = ["ArcCosts", "arc_costs", "known_arcs"]


def arc_costs(params: Params, features: Float[Array, "e f"]) -> Float[Array, "*x e"]:
    """Costs of arcs: (features @ softplus(weights) + softplus(MLP(features) - 5)) * exp(table).

    `[e]`, or `[x, e]` where params hold the weights of `x` regions.

    *Differs from* the sum with a cost for each arc of arXiv:2305.11290: a factor keeps costs positive and is
    neutral at 0.
    """
    costs = jax.nn.softplus(params["weights"]) @ features.T
    if "hidden" in params:
        # At the start softplus(-5), next to nothing.
        more = jax.nn.softplus(perceptron(params["hidden"], features) - 5)[:, 0]
        costs += jnp.broadcast_to(more, costs.shape)
    return costs * jnp.exp(params["arcs"]) if "arcs" in params else costs


@dataclasses.dataclass(frozen=True, eq=False)
class ArcCosts:
    """`arc_costs` of known features, and the params they start from.

    Params: "weights" `[f]`, and where asked for "arcs" `[e]` and "hidden"; with `x` regions "weights"
    `[x, f]` and "arcs" `[x, e]`, whose first axis has the logical name "regions". All share "hidden".
    """

    features: Float[np.ndarray, "e f"]  # 0 or more
    initial: Float[np.ndarray, " f"]  # softplus(weights) at the start, above 0
    arcs_table: bool = False
    hidden: tuple[int, ...] = ()  # widths of the MLP's hidden layers
    regions: tuple[()] | tuple[int] = ()  # how many; (): one for all
    param_dtype: str = "float32"

    def init(self, key: PRNGKey) -> Params:
        # softplus(x) = w
        raw = self.initial + np.log(-np.expm1(-self.initial))
        raw = np.broadcast_to(raw, (*self.regions, len(self.initial)))
        params: dict[str, Any] = {"weights": jnp.asarray(raw, self.param_dtype)}
        if self.arcs_table:
            params["arcs"] = jnp.zeros((*self.regions, len(self.features)), self.param_dtype)
        if self.hidden:
            widths = (self.features.shape[1], *self.hidden, 1)
            params["hidden"] = perceptron_init(key, widths, last_scale=0.0, dtype=self.param_dtype)
        return params

    def costs(self, params: Params) -> Float[Array, "*x e"]:
        return arc_costs(params, jnp.asarray(self.features, params["weights"].dtype))

    def axes(self) -> Any:
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        names = jax.tree.map(lambda x: (None,) * x.ndim, shapes)
        apart = [name for name in ("weights", "arcs") if self.regions and name in names]
        return names | {name: ("regions", None) for name in apart}


def known_arcs(
    graph: roads.RoadGraph, features: Callable[[], Any], initial: Any
) -> tuple[Float[np.ndarray, "e f"], Float[np.ndarray, " f"]]:
    """Features of the graph's arcs and initial weights, float64, as `ArcCosts` takes them.

    Raises:
      ValueError: features that are not finite, below 0 or not `[e, f]`, or weights not above 0.
    """
    given = np.asarray(features(), np.float64)
    if given.ndim != 2 or len(given) != graph.num_arcs or not np.isfinite(given).all() or (given < 0).any():
        raise ValueError(
            f"route_planner.features: expected finite numbers of 0 or more [{graph.num_arcs}, f], got shape "
            f"{given.shape} and a smallest of {given.min(initial=0)}"
        )
    first = np.broadcast_to(np.asarray(initial, np.float64), given.shape[1:])
    if not (first > 0).all():
        raise ValueError(f"route_planner.initial: expected weights above 0, got {first.min()}")
    return given, first
