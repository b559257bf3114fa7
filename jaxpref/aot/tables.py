"""A plan as text."""

from collections.abc import Iterator, Sequence

from jaxpref.aot.plans import Plan, ProgramPlan, StagePlan
from jaxpref.training import sharding

__all__ = ["ASSUMPTIONS", "gib", "plan_text", "rows", "seconds"]

_GIB = 2**30
ASSUMPTIONS = """\
Memory: arrays by their shardings; temporaries are the compiler's peak less its arguments (activations,
gradients, gathered weights, results that replace nothing). Residents of a stage stay between its programs.
Time: matrix products at the chip's peak for bfloat16, each operand and result once through main memory,
collectives as rings over every side of the torus that their axes span, both ways where it closes. "at least":
all three overlap; "without overlap": none does. Both are at peak rates, so a floor and no promise; host,
input and evaluation come on top. GPUs: 92 % of the memory (XLA_PYTHON_CLIENT_MEM_FRACTION=0.92; jax takes
75 % by itself)."""


def gib(size: float) -> str:
    """GiB, to a hundredth or, of less than one, to two digits."""
    return f"{size / _GIB:.2f}" if size >= _GIB or not size else f"{size / _GIB:.2g}"


def plan_text(plan: Plan, *, price: float | None = None) -> str:
    """Tables of memory, buffers, collectives and time. `price`: US dollars of a chip-hour."""
    chip, mesh = plan.topology.chip, sharding.describe_mesh(plan.mesh)
    head = (
        f"{plan.experiment.name} on {plan.topology.name}: {plan.mesh.size} devices ({chip.kind}) of "
        f"{gib(chip.memory)} GiB, mesh {mesh}"
    )
    parts = [head]
    for stage in plan.stages:
        parts += ["", *_stage(stage, plan, price)]
    return "\n".join([*parts, "", ASSUMPTIONS, ""])


def _stage(stage: StagePlan, plan: Plan, price: float | None) -> Iterator[str]:
    yield f"stage {stage.laid.stage.name}: {stage.laid.said}"
    yield from _memory(stage)
    for program in stage.programs:
        name = program.compiled.name
        if program.compiled.error:
            yield f"{name} does not compile: {program.compiled.error}"
            continue
        yield f"{name}: largest buffers it makes"
        yield from rows(
            [
                (f"{gib(b.bytes)} GiB", b.type, b.line or "(the compiler's own)", _ending(b.label))
                for b in program.buffers
            ]
        )
        if program.collectives:
            yield f"{name}: collectives in one call, on one device"
            yield from rows(
                [
                    (
                        c.kind,
                        f"over {' x '.join(c.axes) or 'all'} ({c.devices})",
                        f"{c.count} times",
                        f"{c.bytes / 1e9:.3g} GB of results",
                        f"{c.moved / 1e9:.3g} GB over links",
                    )
                    for c in program.collectives[:6]
                ]
            )
        yield _work(program, stage, plan)
    yield from _cost(stage, plan, price)


def _memory(stage: StagePlan) -> Iterator[str]:
    programs = stage.programs
    kinds = list(dict.fromkeys(kind for program in programs for kind in program.memory.kinds))
    table = [("GiB on a device", *(program.compiled.name for program in programs))]
    for kind in kinds:
        told = [not p.compiled.error or kind != "temporaries" for p in programs]
        sizes = [gib(p.memory.kinds[kind]) if t else "?" for p, t in zip(programs, told, strict=True)]
        table.append((kind, *sizes))
    table.append(("total", *("?" if p.compiled.error else gib(p.memory.total) for p in programs)))
    table.append(("", *(_verdict(program) for program in programs)))
    yield from rows(table)


def _verdict(program: ProgramPlan) -> str:
    if program.compiled.error:
        return "does not fit"
    if program.memory.missing:
        return f"{gib(program.memory.missing)} too much"
    return f"fits, {gib(program.memory.limit - program.memory.total)} free"


def _work(program: ProgramPlan, stage: StagePlan, plan: Plan) -> str:
    time = program.time
    assert time is not None
    line = (
        f"{program.compiled.name}: {_figure(program.compiled.operations / 1e12)} TFLOP on all devices, "
        f"{_figure(program.traffic / 1e9)} GB through main memory on one; at least {seconds(time.seconds)} "
        f"({time.bound}: compute {seconds(time.compute)}, main memory {seconds(time.memory)}, interconnect "
        f"{seconds(time.links)}), {seconds(time.serial)} without overlap"
    )
    if program.compiled.name == "step" and stage.laid.flops:
        peak = plan.mesh.size * plan.topology.chip.flops
        low, high = (stage.laid.flops / peak / max(t, 1e-12) for t in (time.serial, time.seconds))
        line += f"; MFU {low:.0%} to {high:.0%}, operations {_ratio(program, stage):.2f} times the model's"
    return line


def _ratio(program: ProgramPlan, stage: StagePlan) -> float:
    return program.compiled.operations / stage.laid.flops


def _cost(stage: StagePlan, plan: Plan, price: float | None) -> Iterator[str]:
    time = stage.step_time
    if time is None:
        return
    said = f"a training step: at least {seconds(time.seconds)}, {seconds(time.serial)} without overlap"
    if price is not None:
        chips = plan.mesh.size / (2 if "half" in plan.topology.chip.kind else 1)
        low, high = (1000 * t / 3600 * chips * price for t in (time.seconds, time.serial))
        said += f"; 1,000 steps: at least {low:,.2f}, {high:,.2f} dollars without overlap, at {price:g} a "
        said += "chip-hour"
    yield said


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.2g} us"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ending(label: str) -> str:
    """The last words of an operation's name."""
    return "/".join(label.split("/")[-2:])


def rows(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of words, the first left, as wide as they must be."""
    width = max((len(row) for row in table), default=0)
    sizes = [max(len(row[i]) for row in table if i < len(row)) for i in range(width)]
    for row in table:
        yield "  " + "  ".join(word.ljust(size) for word, size in zip(row, sizes, strict=False)).rstrip()
