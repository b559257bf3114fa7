"""Block sizes on the machine at hand: times and memory of each, and the line for the table of
`jaxpref.kernels.token_logps.block_sizes`.

A larger block should move the accumulator less often and need more memory, so the choice is the smallest
block that is nearly as fast as the fastest.
"""

import math
import os
import sys
import time
from typing import Any

import jax

from jaxpref.benchmarks import machine
from jaxpref.benchmarks.logprobs.case import Case, inputs
from jaxpref.benchmarks.logprobs.variants import linear_loss
from jaxpref.benchmarks.timing import compiled, summary, timed
from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.token_logps.block_sizes import BLOCKS

__all__ = ["best_block", "measure", "table"]

NEARLY = 1.05  # of the fastest time: what noise leaves of a difference
# Rows, width, vocabulary. The first is the case of `bench logprobs`, the others SmolLM2-135M and Llama-3-8B.
SHAPES = {
    "cpu": ("2048x512x32768", "1024x576x49152"),
    "gpu": ("8192x4096x128256",),
    "tpu": ("8192x4096x128256",),
}
VOCAB_BLOCKS = (512, 1024, 2048, 4096, 8192, 16_384)
TOKEN_BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
COLUMN = {"vocab_scan": "vocab", "token_scan": "tokens"}  # the field of `Blocks` that each one reads


def measure(
    *, shapes: tuple[str, ...] = (), dtype: str = "float32", rounds: int = 5, repeats: int = 2
) -> dict[str, Any]:
    """Seconds of value and gradients (`train`) and of the value (`score`) for every block, and their bytes.

    `shapes`: texts ROWSxWIDTHxVOCAB; none takes those of `SHAPES`. The blocks take turns.
    """
    platform = machine.platform_name()
    cases = [_case(text, dtype) for text in shapes or SHAPES[platform]]
    report = {
        "benchmark": "tune",
        **machine.facts(),
        "kind": current_machine().kind,
        "dtype": dtype,
        "rounds": rounds,
        "repeats": repeats,
    }
    report["shapes"] = {
        f"{case.rows}x{case.embed}x{case.vocab}": _swept(case, platform, rounds, repeats) for case in cases
    }
    return report | {"load_average_after": os.getloadavg()[0]}


def _case(text: str, dtype: str) -> Case:
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
        raise ValueError(f"tune: shape {text!r}; expected ROWSxWIDTHxVOCAB, for example 2048x512x32768")
    return Case(*map(int, sizes), dtype=dtype)


def _candidates(case: Case, platform: str) -> list[tuple[str, int]]:
    columns = [block for block in VOCAB_BLOCKS if block < case.vocab]
    rows = [block for block in TOKEN_BLOCKS if block < case.rows]
    candidates = [("vocab_scan", block) for block in columns] + [("token_scan", block) for block in rows]
    if platform == "tpu":
        candidates += [("pallas_tpu", block) for block in columns]
    if platform == "gpu":
        candidates += [("pallas_gpu", block) for block in rows]
    return candidates


def _swept(case: Case, platform: str, rounds: int, repeats: int) -> list[dict[str, Any]]:
    given = [jax.device_put(x) for x in inputs(case)]
    running, results = [], []
    for name, block in _candidates(case, platform):
        loss = linear_loss(name, case, block=block)
        figures: dict[str, Any] = {"implementation": name, "block": block}
        functions: dict[str, Any] = {"score": loss}
        if name in COLUMN:  # a kernel's gradient is that of a scan
            functions["train"] = jax.value_and_grad(loss, (0, 1))
        results.append(figures)
        for kind, function in functions.items():
            try:
                program = compiled(function, *given)
                jax.block_until_ready(program.call(*given))
            except jax.errors.JaxRuntimeError as error:  # a tile that does not fit
                figures[kind] = {"failed": str(error).splitlines()[0][:100]}
                continue
            figures[kind] = {"memory": program.memory, "wall": [], "cpu": []}
            running.append((program, figures[kind]))
    start = time.monotonic()
    for index in range(rounds):
        for program, figures in running:
            more = timed(lambda program=program: program.call(*given), repeats)
            figures["wall"] += more["wall"]
            figures["cpu"] += more["cpu"]
        left = (time.monotonic() - start) / (index + 1) * (rounds - index - 1) / 60
        shape = f"{case.rows}x{case.embed}x{case.vocab}"
        print(f"tune: {shape} round {index + 1}/{rounds}; about {left:.1f} min left", file=sys.stderr)
    for _, figures in running:
        figures |= summary(figures.pop("wall"), figures.pop("cpu"))
        figures["cpu_seconds_min_per_core"] = figures["cpu_seconds_min"] / machine.cores()
    return results


def _seconds(figures: dict[str, Any], platform: str) -> float:
    """CPU seconds where other processes share the cores, which do not change them; else wall seconds."""
    return figures["cpu_seconds_min_per_core" if platform == "cpu" else "wall_seconds_min"]


def best_block(figures: dict[str, Any], name: str) -> int | None:
    """The smallest block whose value and gradients (of a kernel: value) take, by the geometric mean over
    shapes, at most `NEARLY` times what the fastest takes. None where no block ran for every shape."""
    kind = "train" if name in COLUMN else "score"
    ratios: dict[int, list[float]] = {}
    for swept in figures["shapes"].values():
        times = {
            f["block"]: _seconds(f[kind], figures["platform"])
            for f in swept
            if f["implementation"] == name and "failed" not in f[kind]
        }
        for block, seconds in times.items():
            ratios.setdefault(block, []).append(seconds / min(times.values()))
    means = {b: math.prod(r) ** (1 / len(r)) for b, r in ratios.items() if len(r) == len(figures["shapes"])}
    if not means:
        return None
    return min(block for block, mean in means.items() if mean <= NEARLY * min(means.values()))


def table(figures: dict[str, Any]) -> str:
    """Each block's times and memory, the best ones, and the line for `BLOCKS`."""
    on_cpu = figures["platform"] == "cpu"
    lines = [
        f"Block sizes on {figures['device']} ({figures['kind']}), {figures['dtype']}, jax {figures['jax']}, "
        f"load {figures['load_average']:.1f} to {figures['load_average_after']:.1f}, huge pages "
        f"{'on' if figures['huge_pages'] else 'off'}; best of {figures['rounds']} rounds of "
        f"{figures['repeats']} calls, ms" + (" of wall and of CPU per core" if on_cpu else "")
    ]
    for shape, swept in figures["shapes"].items():
        lines += [
            "",
            f"{shape + ' implementation':34s}{'block':>7s}{'value+grad':>11s}{'CPU':>8s}{'temp MiB':>9s}"
            f"{'value':>9s}{'CPU':>8s}{'temp MiB':>9s}",
        ]
        for f in swept:
            columns = "".join(_cells(f.get(kind), width) for kind, width in (("train", 11), ("score", 9)))
            lines.append(f"{f['implementation']:34s}{f['block']:7d}{columns}")
    swept_names = dict.fromkeys(f["implementation"] for s in figures["shapes"].values() for f in s)
    best = {name: best_block(figures, name) for name in (*COLUMN, *swept_names)}
    lines += [
        "",
        f"best: {', '.join(f'{n} {b}' for n, b in best.items() if b)}; for BLOCKS:",
        _entry(figures, best),
    ]
    return "\n".join(lines)


def _cells(figures: dict[str, Any] | None, width: int) -> str:
    if figures is None:
        return f"{'-':>{width}s}{'-':>8s}{'-':>9s}"
    if "failed" in figures:
        return f"  failed: {figures['failed']}"
    temp = figures["memory"].get("temp")
    memory = "-" if temp is None else f"{temp / 2**20:.0f}"
    wall, cpu = figures["wall_seconds_min"] * 1e3, figures["cpu_seconds_min_per_core"] * 1e3
    return f"{wall:{width}.1f}{cpu:8.1f}{memory:>9s}"


def _entry(figures: dict[str, Any], best: dict[str, int | None]) -> str:
    """The line for the table, with its reason and measurement; what was not measured stays as it is."""
    kind, platform = figures["kind"], figures["platform"]
    before = BLOCKS.get(kind) or BLOCKS.get(platform) or BLOCKS["other"]
    vocab, tokens = best["vocab_scan"] or before.vocab, best["token_scan"] or before.tokens
    said = []
    for shape, swept in figures["shapes"].items():
        times = {
            f["block"]: _seconds(f["train"], platform) * 1e3
            for f in swept
            if f["implementation"] == "vocab_scan" and "failed" not in f["train"]
        }
        if times:
            fastest = min(times, key=lambda block: times[block])
            chosen = f"{shape} {times[vocab]:.1f} ms" if vocab in times else shape
            said.append(f"{chosen}, fastest {times[fastest]:.1f} at {fastest:,}")
    return f'    "{kind}": Blocks({vocab}, {tokens}, "measured, {figures["dtype"]}: {"; ".join(said)}"),'
