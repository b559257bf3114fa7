"""A plan: what the programs of an experiment need on a machine, and what they would cost there."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jaxpref.aot.batches import NOTHING, Lengths
from jaxpref.aot.costs import Roofline, roofline
from jaxpref.aot.hlo import Module
from jaxpref.aot.memory import Memory, memory_of
from jaxpref.aot.programs import Compiled, Laid, compiled, laid_out, programs_of
from jaxpref.aot.topologies import Topology
from jaxpref.aot.traffic import Buffer, Collective, collectives, largest_buffers, memory_bytes
from jaxpref.experiment import Experiment
from jaxpref.training import sharding

__all__ = ["Asked", "Plan", "ProgramPlan", "StagePlan", "planned", "stage_planned"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What to plan of an experiment."""

    stages: tuple[str, ...] = ()  # by name; none: all
    programs: tuple[str, ...] = ()  # of "collect", "step" and "evaluation"; none: all
    lengths: Lengths = NOTHING
    quick: bool = False  # compile with less optimisation: a fifth of the time, a few per cent more memory


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One program on one device of the mesh."""

    compiled: Compiled
    memory: Memory
    buffers: list[Buffer]
    collectives: list[Collective]
    traffic: float  # bytes through main memory in one call
    time: Roofline | None  # None where it does not compile

    @property
    def fits(self) -> bool:
        return not self.compiled.error and not self.memory.missing


@dataclasses.dataclass(frozen=True)
class StagePlan:
    laid: Laid
    programs: list[ProgramPlan]

    @property
    def fits(self) -> bool:
        return all(program.fits for program in self.programs)

    @functools.cached_property
    def step_time(self) -> Roofline | None:
        """Of a training step: what is collected for it, and the step itself."""
        parts = [p.time for p in self.programs if p.compiled.name != "evaluation"]
        if not parts or any(part is None for part in parts):
            return None
        return functools.reduce(lambda a, b: a + b, [part for part in parts if part is not None])


@dataclasses.dataclass(frozen=True)
class Plan:
    experiment: Experiment
    topology: Topology
    mesh: Any
    stages: list[StagePlan]

    @property
    def fits(self) -> bool:
        return all(stage.fits for stage in self.stages)


def planned(
    experiment: Experiment,
    topology: Topology,
    asked: Asked,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles the programs of an experiment for a machine.

    Raises:
      ValueError: there is no such stage, or mesh, batch and model do not fit one another.
    """
    names = [stage.name for stage in experiment.stages]
    unknown = [name for name in asked.stages if name not in names]
    if unknown:
        raise ValueError(f"--stage {unknown[0]}: this experiment has {', '.join(names)}")
    mesh, policy = sharding.make_mesh(experiment.mesh, topology.devices), experiment.policy()
    stages = []
    for stage in experiment.stages:
        if not asked.stages or stage.name in asked.stages:
            laid = laid_out(experiment, stage, policy, mesh, asked.lengths)
            stages.append(stage_planned(laid, topology, asked, say))
    return Plan(experiment, topology, mesh, stages)


def stage_planned(laid: Laid, topology: Topology, asked: Asked, say: Callable[[str], None]) -> StagePlan:
    """Compiles the programs of one stage."""
    done: list[ProgramPlan] = []
    for program in programs_of(laid, asked.programs, quick=asked.quick):
        made = program if isinstance(program, Compiled) else compiled(program, quick=asked.quick).compiled
        say(f"{laid.stage.name}: {made.name} compiled in {made.seconds:.0f} s")
        done.append(_program(made, laid, topology))
    return StagePlan(laid, done)


def _program(made: Compiled, laid: Laid, topology: Topology) -> ProgramPlan:
    memory = memory_of(laid, made, topology.chip.memory)
    if made.error:
        return ProgramPlan(made, memory, [], [], 0.0, None)
    module, shape = Module(made.text), dict(laid.mesh.shape)
    moved, traffic = collectives(module, shape), memory_bytes(module)
    time = roofline(topology, laid.mesh, operations=made.operations, memory=traffic, collectives=moved)
    # The text of a large program is megabytes, and nobody reads it twice.
    return ProgramPlan(
        dataclasses.replace(made, text=""), memory, largest_buffers(module), moved, traffic, time
    )
