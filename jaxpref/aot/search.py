"""The cheapest way to run an experiment on a machine, among mesh shapes, remat policies and microbatches.

Compiling is what takes time, so most candidates are never compiled: those whose residents alone do not fit
are dropped by their shardings, the rest are ranked by an estimate, and the best are compiled with less
optimisation (`programs.compiled`). The one that is named is compiled again, in full, by whoever asked.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxpref.aot.memory import resident
from jaxpref.aot.plans import Asked, StagePlan, stage_planned
from jaxpref.aot.programs import Laid, collected, laid_out, step_program
from jaxpref.aot.tables import gib, rows, seconds
from jaxpref.aot.topologies import Topology
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.training import sharding

__all__ = ["Candidate", "Found", "candidates", "searched"]

_TENSOR = (1, 2, 4, 8)
_MICROBATCHES = (1, 2, 4, 8)
_REMATS = ("none", "dots", "mlp", "attention", "block")  # attention+mlp and host are rarely the best


class Candidate(NamedTuple):
    """One way to run it, as overrides."""

    mesh: MeshShape
    remat: str | None  # None: the policy has no such choice
    microbatches: int | None

    def __str__(self) -> str:
        said = f"--mesh fsdp={self.mesh.fsdp},tensor={self.mesh.tensor},data={self.mesh.data}"
        said += f" remat={self.remat}" if self.remat else ""
        return said + (f" microbatches={self.microbatches}" if self.microbatches else "")


class Found(NamedTuple):
    text: str  # what was tried, and what came out
    best: Experiment | None


@dataclasses.dataclass(frozen=True)
class _Tried:
    candidate: Candidate
    experiment: Experiment
    estimate: float  # seconds a step, before anything is compiled
    plan: StagePlan | None = None

    @property
    def seconds(self) -> float:
        assert self.plan is not None
        return math.inf if self.plan.step_time is None else self.plan.step_time.serial


def searched(
    experiment: Experiment,
    topology: Topology,
    asked: Asked,
    *,
    most: int = 6,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """Compiles the step of `most` candidates (the last stage's, or the named one's) and names the cheapest
    that fits, by the time of a step if nothing overlaps.

    Raises:
      ValueError: no candidate fits the batch and the machine's shape.
    """
    name = asked.stages[-1] if asked.stages else experiment.stages[-1].name
    ranked, dropped = _ranked(experiment, topology, asked, name)
    if not ranked and not dropped:
        raise ValueError("--search: no mesh of this machine divides the batch; change batch_size")
    say(f"{len(ranked)} candidates whose state fits, {dropped} whose state alone does not")
    quick = dataclasses.replace(asked, programs=("collect", "step"), quick=True)
    done = []
    for one in ranked[:most]:
        say(str(one.candidate))
        laid = _laid(one.experiment, topology, name, asked)
        done.append(dataclasses.replace(one, plan=stage_planned(laid, topology, quick, say)))
    fitting = sorted((x for x in done if x.plan is not None and x.plan.fits), key=lambda x: x.seconds)
    best = fitting[0] if fitting else None
    return Found(_text(done, best, len(ranked) - len(done), dropped), best and best.experiment)


def _laid(experiment: Experiment, topology: Topology, name: str, asked: Asked) -> Laid:
    stage = next(s for s in experiment.stages if s.name == name)
    mesh = sharding.make_mesh(experiment.mesh, topology.devices)
    return laid_out(experiment, stage, experiment.policy(), mesh, asked.lengths)


def _ranked(experiment: Experiment, topology: Topology, asked: Asked, name: str) -> tuple[list[_Tried], int]:
    """Candidates whose residents fit, by their estimates, and how many others there are.

    The state is laid out once for each mesh, and a step traced once for each remat policy and number of
    microbatches: neither depends on the other.
    """
    placed: dict[MeshShape, Laid | None] = {}
    traced: dict[tuple[str | None, int | None], float] = {}
    ranked, dropped = [], 0
    for candidate in candidates(experiment, topology, name):
        changed = _changed(experiment, candidate, name)
        if candidate.mesh not in placed:
            try:
                whole = candidate if candidate.microbatches is None else candidate._replace(microbatches=1)
                one = _changed(experiment, whole, name)
                placed[candidate.mesh] = _laid(one, topology, name, asked)
            except ValueError:  # the batch does not divide, or the torus has no such shape
                placed[candidate.mesh] = None
        laid = placed[candidate.mesh]
        if laid is None:
            continue
        parts = laid.algorithm.parts * (candidate.microbatches or 1)
        if laid.stage.batch_size % (sharding.batch_shards(laid.mesh) * parts):
            continue
        if sum(resident(laid).values()) > topology.chip.memory:
            dropped += 1
            continue
        kind = (candidate.remat, candidate.microbatches)
        if kind not in traced:
            traced[kind] = _operations(_laid(changed, topology, name, asked))
        estimate = _estimate(laid, topology, traced[kind], candidate.microbatches or 1)
        ranked.append(_Tried(candidate, changed, estimate))
    return sorted(ranked, key=lambda one: one.estimate), dropped


def candidates(experiment: Experiment, topology: Topology, stage: str) -> Iterator[Candidate]:
    """Every mesh of the machine with up to 8 devices along `tensor`, with each remat policy and up to 8
    microbatches, where the experiment has such choices. `data`: 1, or what 16 devices along `fsdp` leave."""
    count = len(topology.devices)
    remats = _REMATS if _takes_remat(experiment.policy) else (None,)
    algorithm = next(s for s in experiment.stages if s.name == stage).algorithm
    divides = "microbatches" in inspect.signature(algorithm).parameters
    for tensor in (t for t in _TENSOR if count % t == 0):
        rest = count // tensor
        for fsdp in sorted({rest, min(rest, 16)}, reverse=True):
            mesh = MeshShape(data=rest // fsdp, fsdp=fsdp, tensor=tensor)
            for remat in remats:
                for parts in _MICROBATCHES if divides else (None,):
                    yield Candidate(mesh, remat, parts)


def _takes_remat(policy: Any) -> bool:
    """Whether the policy, or the one that it is built of, has a choice of what is computed again."""
    while isinstance(policy, partial):
        if "remat" in inspect.signature(policy.func).parameters:
            return True
        policy = policy.keywords.get("policy")
    return False


def _changed(experiment: Experiment, candidate: Candidate, name: str) -> Experiment:
    def stage(one: Stage) -> Stage:
        if candidate.microbatches is None or one.name != name:
            return one
        algorithm: Any = one.algorithm
        return dataclasses.replace(one, algorithm=partial(algorithm, microbatches=candidate.microbatches))

    policy = experiment.policy if candidate.remat is None else _with(experiment.policy, candidate.remat)
    return dataclasses.replace(
        experiment, mesh=candidate.mesh, policy=policy, stages=tuple(map(stage, experiment.stages))
    )


def _with(policy: Any, remat: str) -> Any:
    """The policy with another remat, at the innermost function that takes it."""
    if "remat" in inspect.signature(policy.func).parameters:
        return partial(policy, remat=remat)
    return partial(policy, policy=_with(policy.keywords["policy"], remat))


def _operations(laid: Laid) -> float:
    """Of a step, without what is collected for it."""
    return step_program(laid, collected(laid)).operations


def _estimate(laid: Laid, topology: Topology, operations: float, microbatches: int) -> float:
    """Seconds of a step, for an order: products as traced, weights gathered in 2 bytes for each of four
    passes of each microbatch and their gradients summed once in 4, and two sums of the residual stream in
    each layer and pass where `tensor` splits them."""
    chip, shape = topology.chip, dict(laid.mesh.shape)
    compute = operations / laid.mesh.size / chip.flops
    weights = sum(math.prod(x.shape) for x in jax.tree.leaves(laid.state.params)) / shape["tensor"]
    gathered = weights * (2 * 4 * microbatches + 4) * (1 - 1 / shape["fsdp"])
    tokens = sum(math.prod(x.shape) for x in jax.tree.leaves(laid.batch) if x.dtype == "int32")
    stream = 4 * 2 * 2 * _layers_by_width(laid) * tokens / (shape["data"] * shape["fsdp"])
    summed = 2 * 2 * stream * (1 - 1 / shape["tensor"])
    return compute + (gathered + summed) / (2 * chip.link)


def _layers_by_width(laid: Laid) -> int:
    """Layers times the width of the residual stream: the size of the norms' scales."""
    named = jax.tree.leaves_with_path(laid.state.params)
    return max(
        [x.size for path, x in named if "norm" in jax.tree_util.keystr(path) and x.ndim == 2], default=0
    )


def _text(done: list[_Tried], best: _Tried | None, left: int, dropped: int) -> str:
    table = [("candidate", "step, nothing overlaps", "GiB on a device", "")]
    for one in sorted(done, key=lambda x: x.seconds):
        assert one.plan is not None
        worst = max((p.memory.total for p in one.plan.programs if not p.compiled.error), default=None)
        error = next((p.compiled.error for p in one.plan.programs if p.compiled.error), "")
        verdict = (
            "the cheapest that fits" if one is best else "fits" if one.plan.fits else error or "too much"
        )
        took = "?" if one.seconds == math.inf else seconds(one.seconds)
        table.append((str(one.candidate), took, "?" if worst is None else gib(worst), verdict))
    tail = (
        f"not compiled: {left} that an estimate ranks behind these, {dropped} whose state alone does not fit"
    )
    none = "" if best else "\nnone of these fits: more devices, a smaller batch or shorter rows"
    return "\n".join([*rows(table), tail]) + none
