"""Operations of a program as it is written, and what a roofline says of its time."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend import core

from jaxpref.aot.topologies import Topology
from jaxpref.aot.traffic import Collective

__all__ = ["Roofline", "multiplications", "operations", "roofline"]

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr")


def operations(jaxpr: Any) -> float:
    """Floating-point operations of a traced program on all devices together: two for each multiply-add of a
    matrix product, none for the rest.

    Loops count as often as they run (a loop that may end early: as often as it may run at most), a branch as
    its dearest arm, and what a checkpoint computes again counts again. XLA's own count has the body of a loop
    once. A Pallas kernel counts as its `cost_estimate` says, or without one as if it did all of its work in
    each cell of its grid: an upper count, since it may leave out some.
    """
    return sum(times * count for times, count in _products(jaxpr, 1.0))


def multiplications(jaxpr: Any) -> bool:
    """Whether a traced program multiplies matrices."""
    return any(True for _ in _products(jaxpr, 1.0))


def _products(jaxpr: Any, times: float) -> Iterator[tuple[float, float]]:
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            yield times, _dot(eqn)
        elif name == "conv_general_dilated":
            yield times, 2.0 * math.prod(eqn.invars[1].aval.shape) * math.prod(eqn.outvars[0].aval.shape[:-1])
        elif name == "pallas_call":
            cost = params.get("cost_estimate")
            if cost is not None:
                yield times, float(cost.flops)
            else:  # splash attention tells none
                cells = math.prod(int(n) for n in params["grid_mapping"].grid)
                yield from _products(params["jaxpr"], times * cells)
        elif name == "scan":
            yield from _products(params["jaxpr"], times * params["length"])
        elif name == "while":
            yield from _products(params["body_jaxpr"], times * _bound(params["cond_jaxpr"]))
        elif name == "cond":
            arms = [list(_products(arm, times)) for arm in params["branches"]]
            yield from max(arms, key=lambda arm: sum(n * count for n, count in arm))
        elif name == "shard_map":  # written for one device
            shards = math.prod(params["mesh"].shape[axis] for axis in _manual(params))
            yield from _products(params["jaxpr"], times * shards)
        else:
            for key in _CALLS:
                if key in params and hasattr(getattr(params[key], "jaxpr", params[key]), "eqns"):
                    yield from _products(params[key], times)
                    break


def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    inner = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    return 2.0 * inner * math.prod(eqn.outvars[0].aval.shape)


def _bound(condition: Any) -> float:
    """The largest integer that a loop's condition compares something with."""
    jaxpr = getattr(condition, "jaxpr", condition)
    compared = [eqn for eqn in jaxpr.eqns if eqn.primitive.name in ("lt", "le")]
    literals = [var.val for eqn in compared for var in eqn.invars if isinstance(var, core.Literal)]
    numbers = [float(value) for value in literals if getattr(value, "ndim", 0) == 0]
    return max([n for n in numbers if math.isfinite(n)], default=1.0) or 1.0


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that a program needs at least on each part of a device, if that part is always busy."""

    compute: float  # matrix products at the peak rate of bfloat16
    memory: float  # every operand and result once through main memory
    links: float  # collectives as rings over both directions of each dimension that their axes span

    @property
    def seconds(self) -> float:
        """If all three overlap: a floor."""
        return max(self.compute, self.memory, self.links)

    @property
    def serial(self) -> float:
        """If nothing overlaps."""
        return self.compute + self.memory + self.links

    @property
    def bound(self) -> str:
        named = {"compute": self.compute, "main memory": self.memory, "interconnect": self.links}
        return max(named, key=lambda name: named[name])

    def __add__(self, other: "Roofline") -> "Roofline":
        return Roofline(self.compute + other.compute, self.memory + other.memory, self.links + other.links)


def roofline(
    topology: Topology,
    mesh: Any,
    *,
    operations: float,
    memory: float,
    collectives: Sequence[Collective],
) -> Roofline:
    """Time of a program. `operations`: on all devices; `memory` and `collectives`: of one."""
    chip, links = topology.chip, 0.0
    for one in collectives:
        along = tuple(slice(None) if name in one.axes else 0 for name in mesh.axis_names)
        links += one.moved / topology.rate(list(mesh.devices[along].ravel()))
    return Roofline(operations / mesh.size / chip.flops, memory / chip.bandwidth, links)


def _manual(params: Any) -> Sequence[str]:
    """Axes over which the body of a `shard_map` is written for one device."""
    return tuple(params.get("manual_axes", params["mesh"].axis_names))
