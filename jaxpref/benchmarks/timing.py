"""Timing of compiled functions: wall and CPU seconds, memory, compilations."""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["Compiled", "compiled", "peak_growth", "summary", "timed"]

_events: list[float] = []


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _events.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_listen)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled function, the seconds and the number of compilations that it took, and XLA's account of
    its memory in bytes (empty where a backend gives none)."""

    call: Callable[..., Any]
    seconds: float
    compilations: int
    memory: dict[str, int]


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Compiled:
    """`function` compiled for these arguments; `options` of `jax.jit`."""
    before, start = len(_events), time.perf_counter()
    program = jax.jit(function, **options).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return Compiled(program, seconds, len(_events) - before, _memory(program))


def _memory(program: Any) -> dict[str, int]:
    memory = program.memory_analysis()
    names = ("temp", "argument", "output", "alias")
    return {} if memory is None else {n: getattr(memory, f"{n}_size_in_bytes") for n in names}


def timed(call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """`wall` and process-`cpu` seconds of each call, and the compilations they caused (there should be
    none). Results are released before the next call."""
    wall, cpu, before = [], [], len(_events)
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(call())
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        del result
    return {"wall": wall, "cpu": cpu, "recompilations": len(_events) - before}


def summary(wall: list[float], cpu: list[float]) -> dict[str, float]:
    return {
        "wall_seconds_median": statistics.median(wall),
        "wall_seconds_min": min(wall),
        "cpu_seconds_min": min(cpu),
    }


def peak_growth(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """(result of `call`, bytes by which memory in use grew at its peak, results included).

    Memory of the device where it counts that, else resident memory of the process. None where neither is
    known, and where an earlier, higher peak of the device hides this one.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        result = jax.block_until_ready(call())
        after = (device.memory_stats() or {})["peak_bytes_in_use"]
        return result, after - stats["bytes_in_use"] if after > stats["peak_bytes_in_use"] else None
    before = _resident(reset=True)
    result = jax.block_until_ready(call())
    after = _resident(reset=False)
    return result, None if before is None or after is None else after - before


def _resident(*, reset: bool) -> int | None:
    """Largest resident size of this process since the last reset, bytes; Linux only."""
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak.split()[1]) * 1024
