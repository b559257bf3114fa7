"""The programs of a stage, traced from shapes and compiled for a machine that is not here."""

import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import shapes
from jaxpref.algorithms import Algorithm
from jaxpref.aot.batches import NOTHING, Lengths, Shaped, shaped_batch
from jaxpref.aot.costs import operations
from jaxpref.aot.dispatched import Dispatch, dispatched
from jaxpref.aot.sizes import bytes_on_device
from jaxpref.experiment import Experiment, Stage
from jaxpref.policies.base import Policy
from jaxpref.training import sharding
from jaxpref.training.collect import evaluation_program
from jaxpref.training.loop import compiled_step
from jaxpref.training.state import abstract_state, with_constants

__all__ = [
    "Compiled",
    "Laid",
    "Program",
    "collected",
    "compiled",
    "laid_out",
    "programs_of",
    "step_program",
]


@dataclasses.dataclass(frozen=True)
class Laid:
    """A stage on a mesh, as shapes: all that stays on the devices while it runs, and a batch."""

    experiment: Experiment
    stage: Stage
    algorithm: Algorithm
    mesh: Mesh
    state: Any  # what training changes, of jax.ShapeDtypeStruct with shardings
    shardings: Any
    constants: dict[str, Any]
    batch: Any
    said: str  # of the batch
    flops: float  # model FLOPs of a step: forward and backward passes, nothing computed twice


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced program that can be compiled."""

    name: str
    traced: Any  # jax.stages.Traced
    operations: float  # on all devices, see `costs.operations`
    given: int  # bytes of its arguments on one device, without what fills up tiles
    exact: bool = True  # rounds where the function says so, as the loop's own programs do


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program compiled for the mesh's devices, or the reason why not."""

    name: str
    operations: float
    seconds: float  # to compile
    text: str = ""  # of the compiled module
    given: int = 0  # bytes of its arguments on one device, without what fills up tiles
    arguments: int = 0  # with it
    peak: int = 0  # bytes on one device: arguments and what else is there at the worst moment
    error: str = ""

    @property
    def temporaries(self) -> int:
        """Bytes beside its arguments at the worst moment, outputs among them."""
        return max(self.peak - self.arguments, 0)


def laid_out(
    experiment: Experiment, stage: Stage, policy: Policy, mesh: Mesh, lengths: Lengths = NOTHING
) -> Laid:
    """Shapes and shardings of a stage. No weight is read or drawn.

    Raises:
      ValueError: the batch does not divide over the mesh, or its shape is not known.
    """
    with shapes.only():
        algorithm = stage.build(policy)
        sharding.check_batch_size(stage.batch_size, mesh, parts=algorithm.parts, where=stage.name)
        models = {} if policy.constants is None else {"policy": policy.constants()}
        models |= {} if algorithm.constants is None else algorithm.constants()
    constants = {
        name: _placed(model.params, sharding.param_shardings(model.params, model.axes, mesh))
        for name, model in models.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(policy.init, key)
    abstract, shardings = abstract_state(algorithm, params, constants, policy.axes(), mesh)
    state = sharding.with_shardings(abstract, shardings)
    whole = with_constants(state, constants)

    def traces(batch: Any) -> Any:
        with jax.set_mesh(mesh), shapes.only():
            record = batch
            if algorithm.collect is not None:
                record = jax.eval_shape(algorithm.collect, whole, batch, key)[0]
            return jax.eval_shape(algorithm.step, whole, record, key)

    shaped: Shaped = shaped_batch(stage, algorithm, traces, lengths)
    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH))
    batch = _placed(shaped.batch, jax.tree.map(lambda _: rows, shaped.batch))
    flops = float(algorithm.flops(shaped.batch))
    return Laid(experiment, stage, algorithm, mesh, state, shardings, constants, batch, shaped.said, flops)


def programs_of(
    laid: Laid, only: tuple[str, ...] = (), *, quick: bool = False
) -> Iterator[Program | Compiled]:
    """The programs of a step and of the held-out pass, traced when they are asked for.

    What an online method dispatches before its step comes first, compiled already, since each of its programs
    needs the layouts that the one before it gives. `only`: of "collect", "step" and "evaluation".
    """
    wanted = only or ("collect", "step", "evaluation")
    record = laid.batch
    if laid.algorithm.collect is not None:
        dispatch = _collecting(laid)
        for name, traced, count, given in dispatch:
            made = compiled(Program(name, traced, count, bytes_on_device(given), exact=False), quick=quick)
            dispatch.told(made.executable)
            if "collect" in wanted or made.compiled.error:
                yield made.compiled
            if made.compiled.error:
                return
        record = dispatch.result[0]
    if "step" in wanted:
        yield step_program(laid, record)
    if "evaluation" in wanted and laid.stage.evaluation is not None:
        yield _evaluation(laid, record)


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _everywhere(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))


def _place(laid: Laid) -> dict[str, Any]:
    return {"seed": laid.experiment.seed, "stage": laid.stage.name}


def collected(laid: Laid) -> Any:
    """What a step learns from, as shapes: the batch, or what is collected for it, laid out by rows."""
    if laid.algorithm.collect is None:
        return laid.batch
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(laid.mesh), shapes.only():
        state = with_constants(laid.state, laid.constants)
        record = jax.eval_shape(laid.algorithm.collect, state, laid.batch, key)[0]
    rows = NamedSharding(laid.mesh, PartitionSpec(sharding.BATCH))
    return _placed(record, jax.tree.map(lambda _: rows, record))


def step_program(laid: Laid, record: Any) -> Program:
    """The training step on such a record, traced."""
    skip = laid.experiment.non_finite == "skip"
    step = compiled_step(laid.algorithm, laid.shardings, laid.mesh, **_place(laid), skip_non_finite=skip)
    alive, index = _everywhere(laid.mesh, (), jnp.bool_), _everywhere(laid.mesh, (), jnp.int32)
    given = (laid.state, alive, laid.constants, record, index)
    traced = step.trace(*given)
    return Program("step", traced, operations(traced.jaxpr), bytes_on_device(given))


def _evaluation(laid: Laid, record: Any) -> Program:
    evaluate = evaluation_program(laid.algorithm, laid.mesh, **_place(laid))
    index = _everywhere(laid.mesh, (), jnp.int32)
    given = (with_constants(laid.state, laid.constants), record, index, index)
    traced = evaluate.trace(*given)
    return Program("evaluation", traced, operations(traced.jaxpr), bytes_on_device(given))


def _collecting(laid: Laid) -> Dispatch:
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = _everywhere(laid.mesh, key.shape, key.dtype)
    state, collect = with_constants(laid.state, laid.constants), laid.algorithm.collect
    assert collect is not None
    return dispatched(collect, laid.mesh, state, laid.batch, key)


@dataclasses.dataclass(frozen=True)
class _Made:
    compiled: Compiled
    executable: Any


def compiled(program: Program, *, quick: bool = False) -> _Made:
    """Compiles a program. What does not fit the device's memory is a result, with the compiler's words.

    `quick`: the compiler spends less on making it fast (of a DPO step of twelve layers 29 s of CPU in place
    of 145, and the peak came out 6 % higher), for a first look and for comparisons.
    """
    begin = time.perf_counter()
    options: dict[str, Any] = {"xla_allow_excess_precision": False} if program.exact else {}
    if quick:
        options["exec_time_optimization_effort"] = -1.0
    try:
        executable = program.traced.lower().compile(options)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        seconds = time.perf_counter() - begin
        words = _compact(str(error))
        return _Made(Compiled(program.name, program.operations, seconds, error=words), None)
    memory = executable.memory_analysis()
    host = getattr(memory, "host_argument_size_in_bytes", 0) + getattr(memory, "host_temp_size_in_bytes", 0)
    arguments = memory.argument_size_in_bytes
    peak = getattr(memory, "peak_memory_in_bytes", 0)
    # The peak counts arrays of the host, which need not all be there at the device's worst moment.
    peak = max(peak - host, arguments + memory.temp_size_in_bytes) if host else peak
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # A backend that tells no peak: everything at once, an upper bound.
    peak = peak if peak > arguments else arguments + memory.temp_size_in_bytes + outputs
    seconds = time.perf_counter() - begin
    return _Made(
        Compiled(
            program.name,
            program.operations,
            seconds,
            text=executable.as_text(),
            arguments=arguments,
            given=program.given,
            peak=peak,
        ),
        executable,
    )


def _compact(words: str) -> str:
    """What the compiler says of memory: how much is used and missing, and the largest allocations."""
    used = re.search(
        r"Used [\d.]+[KMGT]? of [\d.]+[KMGT]? \w+\. Exceeded \w+ capacity by [\d.]+[KMGT]?", words
    )
    largest = re.findall(
        r"Size: ([\d.]+[KMGT]).*?Shape: (\S+?)[{\n].*?(?:op_name=\"([^\"]*)\")?", words, re.S
    )
    shown = [f"{size} {shape}" for size, shape, _ in largest[:5]]
    first = used[0] if used else words.strip().splitlines()[0][:300]
    return f"{first}; largest: {', '.join(shown)}" if shown else first
