"""What a function that is not compiled as a whole dispatches: its parts, with their layouts.

A collector runs its programs one after the other from Python (`algorithms.collector`). Traced, each of them
is one equation; what lies between (a slice, a sum) goes into the program behind it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import shapes
from jaxpref.aot.costs import multiplications, operations

__all__ = ["Dispatch", "dispatched"]


class Dispatch:
    """Iterates over (name, traced, operations, arguments) of the programs. The executable of each must be
    given to `told` before the next one is asked for."""

    def __init__(self, closed: Any, structure: Any, mesh: Mesh, arguments: list[Any]) -> None:
        self._closed, self._structure, self._mesh = closed, structure, mesh
        everywhere = NamedSharding(mesh, PartitionSpec())
        consts = [jax.ShapeDtypeStruct(c.shape, c.dtype, sharding=everywhere) for c in closed.consts]
        jaxpr = closed.jaxpr
        self._known: dict[Any, Any] = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True)
        )
        self._waiting: list[Any] | None = None

    def __iter__(self) -> Iterator[tuple[str, Any, float, list[Any]]]:
        eqns = self._closed.jaxpr.eqns
        part: list[Any] = []
        for index, eqn in enumerate(eqns):
            part.append(eqn)
            last = index == len(eqns) - 1
            if not last and not _is_program(eqn):
                continue
            yield (
                _name(eqn) if _is_program(eqn) else "collect: rest",
                *self._traced(part, eqns[index + 1 :]),
            )
            part = []

    def told(self, executable: Any) -> None:
        """The layouts of what the last program gives."""
        outputs, self._waiting = self._waiting or [], None
        layouts = jax.tree.leaves(executable.output_shardings) if executable is not None else []
        for var, layout in zip(outputs, layouts, strict=False):
            self._known[var] = _shape(var, layout)

    @property
    def result(self) -> Any:
        """What the function gives, as shapes with layouts."""
        everywhere = NamedSharding(self._mesh, PartitionSpec())

        def found(var: Any) -> Any:
            if isinstance(var, core.Literal):
                return _shape(var, everywhere)
            return self._known[var]

        return jax.tree.unflatten(self._structure, [found(v) for v in self._closed.jaxpr.outvars])

    def _traced(self, eqns: list[Any], later: list[Any]) -> tuple[Any, float, list[Any]]:
        made = [v for eqn in eqns for v in eqn.outvars]
        own = set(made)
        used = dict.fromkeys(
            v for eqn in eqns for v in eqn.invars if not isinstance(v, core.Literal) and v not in own
        )
        wanted = {v for eqn in later for v in eqn.invars if not isinstance(v, core.Literal)}
        wanted |= {v for v in self._closed.jaxpr.outvars if not isinstance(v, core.Literal)}
        given = [v for v in made if v in wanted]
        self._waiting = given
        arguments = [self._known[v] for v in used]
        effects = frozenset().union(*(eqn.effects for eqn in eqns))
        jaxpr = self._closed.jaxpr
        part = jaxpr.replace(
            constvars=[],
            invars=list(used),
            outvars=given,
            eqns=eqns,
            effects=effects,
            debug_info=jaxpr.debug_info.with_unknown_names(),
        )
        with jax.set_mesh(self._mesh):
            traced = jax.jit(core.jaxpr_as_fun(core.ClosedJaxpr(part, []))).trace(*arguments)
        return traced, operations(traced.jaxpr), arguments


def dispatched(function: Callable[..., Any], mesh: Mesh, *arguments: Any) -> Dispatch:
    """The programs of `function(*arguments)`; arguments are trees of shapes with shardings.

    Raises:
      ValueError: the function reads values on the host, as a judge of texts does.
    """
    try:
        with jax.set_mesh(mesh), shapes.only():
            closed, out = jax.make_jaxpr(function, return_shape=True)(*arguments)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "what is drawn is judged on the host, by values: its programs cannot be told without a run"
        ) from error
    return Dispatch(closed, jax.tree.structure(out), mesh, jax.tree.leaves(arguments))


def _shape(var: Any, layout: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype, sharding=layout)


def _is_program(eqn: Any) -> bool:
    return any(
        multiplications(value)
        for value in eqn.params.values()
        if hasattr(getattr(value, "jaxpr", value), "eqns")
    )


def _name(eqn: Any) -> str:
    name = str(eqn.params.get("name", eqn.primitive.name))
    return f"collect: {name}"
