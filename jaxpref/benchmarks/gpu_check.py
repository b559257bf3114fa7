"""What only a GPU can tell about log-probs, in one command of less than ten minutes:

    python -m jaxpref.benchmarks.gpu_check --out FILE      (or: jaxpref bench gpu-check --out FILE)

Values and gradients of every implementation against float64; then, beside the matmul rate and the copy
bandwidth measured in the same run, times and memory of the projection and of rows of logits, and PyTorch's
where it is installed. Needs jax, numpy and jaxtyping; downloads nothing.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxpref.benchmarks.gpu_battery import linear_error, rows_error
from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.token_logps import linear_token_logps, token_logps
from jaxpref.kernels.token_logps.dispatch import IMPLEMENTATIONS
from jaxpref.kernels.token_logps.pallas_gpu import interpreted, row_fold

__all__ = ["FULL", "Sizes", "measure", "table"]

GOALS = (
    "goals (H200): forward >= 600 TFLOP/s at 2NDV; both passes >= 560 TFLOP/s at 8NDV and <= 1.35 x "
    "materialized; pallas_gpu rows >= 85 % of the copy bandwidth"
)
BLOCKED = ("vocab_scan", "token_scan", "pallas_gpu")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of projection, square matmul and copy; `small`: (rows, embed, vocab) of the battery."""

    rows: int = 8192
    embed: int = 4096
    vocab: int = 128_256
    matmul: int = 8192
    copy_bytes: int = 4 * 2**30
    blocks: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    in_flight: tuple[int, ...] = (32, 64, 128)  # bytes that one thread of the row kernel loads at a time
    small: tuple[tuple[int, int, int], ...] = ((37, 64, 5000), (150, 128, 50_257))
    seconds: float = 480  # after which no new case is begun; the battery has the first 40 % of them


FULL = Sizes()


class _Run:
    """Runs cases one by one. One that fails is recorded, and the others go on."""

    def __init__(self, rounds: int, seconds: float) -> None:
        self.rounds, self.seconds, self.begin = max(rounds, 1), seconds, time.perf_counter()
        self.failures: list[str] = []
        self.left_out: list[str] = []

    def attempt(self, name: str, case: Callable[[], Any]) -> Any:
        elapsed = time.perf_counter() - self.begin
        if elapsed > self.seconds:
            self.left_out.append(name)
            return None
        try:
            result = case()
        except Exception as error:  # a list of all that breaks is worth more than the first
            reason = (str(error).splitlines() or [""])[0][:300]
            self.failures.append(f"{name}: {type(error).__name__}: {reason}")
            result = None
        seconds = result.get("seconds") if isinstance(result, dict) else None
        text = "FAILED" if result is None else f"{result:.1e}" if isinstance(result, float) else "ok"
        text = text if seconds is None else f"{seconds * 1e3:.3f} ms"
        print(f"[{elapsed:4.0f} s] {name}: {text}", flush=True)
        return result

    def timed(
        self, function: Callable, *args: Any, check: Callable[[Any], None] | None = None
    ) -> dict[str, Any]:
        """Median seconds of a call over the rounds, and bytes of temporaries and of results; `check` sees the
        results before the first call is timed."""
        compiled = jax.jit(function).lower(*args).compile()
        results = jax.block_until_ready(compiled(*args))
        if check is not None:
            check(results)
        start = time.perf_counter()
        results = jax.block_until_ready(compiled(*args))
        calls = max(
            1, min(20, round(0.02 / (time.perf_counter() - start)))
        )  # short ones overlap their launches
        seconds = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            for _ in range(calls):
                results = compiled(*args)
            jax.block_until_ready(results)
            seconds.append((time.perf_counter() - start) / calls)
        memory = compiled.memory_analysis()
        return {
            "seconds": statistics.median(seconds),
            "temporary_bytes": memory.temp_size_in_bytes if memory else None,
            "output_bytes": memory.output_size_in_bytes if memory else None,
        }


def _normal(seed: int, shape: tuple[int, ...], dtype: Any = jnp.bfloat16, scale: float = 1.0) -> jax.Array:
    draw = jax.jit(lambda key: (scale * jax.random.normal(key, shape, jnp.float32)).astype(dtype))
    return draw(jax.random.key(seed))


def _ceilings(run: _Run, sizes: Sizes) -> dict[str, float]:
    """FLOP/s of a square bfloat16 matmul, and bytes/s of a copy (those read and those written)."""
    a, b = (_normal(seed, (sizes.matmul, sizes.matmul)) for seed in (1, 2))
    matmul = run.attempt("matmul", lambda: run.timed(lambda a, b: a @ b, a, b))
    x = _normal(3, (sizes.copy_bytes // 4,), jnp.float32)
    copies = [
        run.attempt(name, lambda f=f: run.timed(f, x))
        for name, f in (("copy", jnp.copy), ("copy adding 1", lambda x: x + 1))
    ]
    bandwidths = [2 * x.nbytes / c["seconds"] for c in copies if c]
    flops = 2 * sizes.matmul**3 / matmul["seconds"] if matmul else float("nan")
    return {"flops": flops, "bandwidth": max(bandwidths, default=float("nan"))}


def _battery(
    run: _Run, sizes: Sizes, linear: tuple[str, ...], rows: tuple[str, ...]
) -> dict[str, float | None]:
    errors: dict[str, float | None] = {}
    run.seconds = 0.4 * sizes.seconds
    for n, d, v in sizes.small:
        for name in linear:
            for dtype in ("float32", "bfloat16"):
                if name == "pallas_gpu_fused" and (v < 256 or v % 8 or dtype == "float32"):
                    continue  # it refuses them
                case = f"{name} {n} x {d} x {v} {dtype}"
                errors[case] = run.attempt(case, partial(linear_error, name, n, d, v, dtype))
        for name in rows:
            for dtype in ("float32", "bfloat16", "float16"):
                case = f"rows {name} {n} x {v} {dtype}"
                errors[case] = run.attempt(case, partial(rows_error, name, n, v, dtype))
    run.seconds = sizes.seconds
    return errors


def _rows(run: _Run, sizes: Sizes, kernel: bool) -> dict[str, Any]:
    """Times of one pass over given logits, and the share of the copy bandwidth that reading them once is."""
    times: dict[str, Any] = {}
    targets = jax.random.randint(jax.random.key(6), (sizes.rows,), 0, sizes.vocab)
    for dtype in ("bfloat16", "float32"):
        logits = _normal(5, (sizes.rows, sizes.vocab), dtype, 2.0)
        exact = jax.jit(partial(token_logps, implementation="xla"))(logits, targets)

        def equal(given: Any, exact: jax.Array = exact) -> None:
            assert float(jnp.abs(given - exact).max()) < 1e-4, "differs from XLA's"

        def folded(logits: jax.Array, targets: jax.Array, in_flight: int) -> jax.Array:
            carry = row_fold((), logits, targets, in_flight=in_flight)
            return (carry["target"] - carry["top"] - jnp.log(carry["total"]))[:, 0]

        forms: dict[str, Callable] = {"xla": partial(token_logps, implementation="xla")}
        if kernel:
            forms |= {f"pallas_gpu, {n} bytes": partial(folded, in_flight=n) for n in sizes.in_flight}
        for name, form in forms.items():
            case = f"rows of {dtype}: {name}"
            times[case] = run.attempt(case, partial(run.timed, form, logits, targets, check=equal))
            if times[case]:
                times[case]["bytes_per_second"] = logits.nbytes / times[case]["seconds"]
    return times


def _projection(run: _Run, sizes: Sizes, names: tuple[str, ...]) -> dict[str, Any]:
    """Times of the head of a language model, bfloat16: the chosen block sizes first, then the others."""
    n, d, v = sizes.rows, sizes.embed, sizes.vocab
    hidden, weight = _normal(7, (n, d)), _normal(8, (v, d), scale=2 / d**0.5)
    targets = jax.random.randint(jax.random.key(9), (n,), 0, v)
    upstream = _normal(10, (n,), jnp.float32)
    some = slice(
        0, min(n, 64)
    )  # float32 inputs at the highest precision: too slow, and too large, for all rows
    exact = jax.jit(partial(linear_token_logps, implementation="reference"))(
        hidden[some].astype(jnp.float32), weight.astype(jnp.float32), targets[some]
    )

    def total(hidden: jax.Array, weight: jax.Array, **options: Any) -> jax.Array:
        return (linear_token_logps(hidden, weight, targets, **options) * upstream).sum()

    slopes: list[Any] = []

    def equal_logps(logps: jax.Array) -> None:
        error = float(jnp.abs(logps[some] - exact).max())
        assert error < 1e-3, f"{error:.1e} nats from float32"

    def equal_gradients(results: Any) -> None:
        gradients = results[1]
        if not slopes:
            slopes.append(gradients)
        for ours, first in zip(gradients, slopes[0], strict=True):
            error = float(_relative(ours, first))
            assert error < 1e-2, f"gradient {error:.1e} from the first implementation's"

    cases = [(name, None) for name in names]
    cases += [(name, block) for block in sizes.blocks for name in names if name in BLOCKED]
    report: dict[str, Any] = {}
    for name, block in cases:
        options = {"implementation": name, "block": block}
        case = name if block is None else f"{name}, blocks of {block}"
        forward = partial(linear_token_logps, **options)
        both = jax.value_and_grad(partial(total, **options), (0, 1))
        times = {
            "forward": run.attempt(
                f"{case}: forward", partial(run.timed, forward, hidden, weight, targets, check=equal_logps)
            )
        }
        if not (name == "pallas_gpu" and block):  # its gradient is vocab_scan's
            times["both"] = run.attempt(
                f"{case}: both", partial(run.timed, both, hidden, weight, check=equal_gradients)
            )
        for key, flops in (("forward", 2 * n * d * v), ("both", 8 * n * d * v)):
            if times.get(key):
                times[key]["flops"] = flops / times[key]["seconds"]
        report[case] = times
    return report


@jax.jit
def _relative(ours: jax.Array, exact: jax.Array) -> jax.Array:
    ours, exact = ours.astype(jnp.float32), exact.astype(jnp.float32)
    return jnp.sqrt(jnp.square(ours - exact).sum() / jnp.square(exact).sum())


def _alone(module: str, *arguments: Any, seconds: float) -> str:
    """Last line that a module prints in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "Error" in line]
        raise RuntimeError(errors[-1] if errors else f"{module} ended with {done.returncode}")
    return done.stdout.splitlines()[-1]


def _answers(name: str) -> bool:
    """Runs a kernel once, apart: one that never ends must not take everything along."""
    return bool(_alone("jaxpref.benchmarks.gpu_battery", name, seconds=90))


def _torch(run: _Run, sizes: Sizes) -> dict[str, Any]:
    """PyTorch's figures; apart, so that neither framework holds the other's memory."""
    arguments = sizes.rows, sizes.embed, sizes.vocab, run.rounds
    return json.loads(_alone("jaxpref.benchmarks.gpu_torch", *arguments, seconds=180))


def measure(
    *, rounds: int = 5, sizes: Sizes = FULL, names: tuple[str, ...] | None = None, anywhere: bool = False
) -> dict[str, Any]:
    """All figures, of the implementations `names` (None: all that run on a GPU). `anywhere`: also where there
    is no GPU, in Pallas' interpreter if this jax has one; then only that it runs means anything.

    Raises:
      ValueError: no GPU of compute capability 9.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too
    machine = current_machine()
    able = machine.platform == "gpu" and machine.capability >= 9
    if not able and not anywhere:
        raise ValueError(
            f"gpu-check needs an NVIDIA GPU of compute capability 9 (H100, H200) and jax[cuda13]; "
            f"jax {jax.__version__} finds {machine.kind!r}"
        )
    run = _Run(rounds, sizes.seconds)
    names = names or tuple(name for name in IMPLEMENTATIONS if name not in ("reference", "pallas_tpu"))
    with contextlib.ExitStack() as stack:
        if not able:
            try:
                stack.enter_context(interpreted())
            except AttributeError:
                names = tuple(name for name in names if not name.startswith("pallas"))
        else:
            names = tuple(
                name
                for name in names
                if not name.startswith("pallas") or run.attempt(f"{name} answers", partial(_answers, name))
            )
        kernel = "pallas_gpu" in names
        return {
            "benchmark": "gpu-check",
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "sizes": dataclasses.asdict(sizes),
            "ceilings": _ceilings(run, sizes),
            "battery": _battery(
                run, sizes, (*names, "reference"), ("xla", "pallas_gpu") if kernel else ("xla",)
            ),
            "rows": _rows(run, sizes, kernel),
            "torch": run.attempt("torch", partial(_torch, run, sizes)),
            "projection": _projection(run, sizes, names),
            "failures": run.failures,
            "left_out": run.left_out,
        }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    sizes, ceilings = figures["sizes"], figures["ceilings"]
    rows = f"rows of logits, {sizes['rows']} x {sizes['vocab']}"
    errors = [error for error in figures["battery"].values() if error is not None]
    lines = [
        f"{figures['device']}, jax {figures['jax']}: matmul {ceilings['flops'] / 1e12:.1f} TFLOP/s, copy "
        f"{ceilings['bandwidth'] / 1e12:.3f} TB/s",
        f"battery: {len(errors)} of {len(figures['battery'])} cases right, largest error "
        f"{max(errors, default=float('nan')):.1e} nats",
        GOALS,
        "",
        f"{rows:44s} {'ms':>9s} {'TB/s':>6s} of copy",
    ]
    for name, case in figures["rows"].items():
        if case:
            rate = case["bytes_per_second"]
            share = rate / ceilings["bandwidth"]
            lines.append(f"{name:44s} {case['seconds'] * 1e3:9.3f} {rate / 1e12:6.3f} {share:7.0%}")
    shape = f"N {sizes['rows']}, D {sizes['embed']}, V {sizes['vocab']}, bfloat16"
    lines += [
        "",
        f"{shape:44s} {'forward ms':>10s} {'TFLOP/s':>8s} {'MiB':>7s} "
        f"{'both ms':>9s} {'TFLOP/s':>8s} {'MiB':>7s}  ratio",
    ]
    base = (figures["projection"].get("materialized") or {}).get("both")
    for name, case in figures["projection"].items():
        line = f"{name:44s}"
        for key, width in (("forward", 10), ("both", 9)):
            one = case.get(key)
            if one:
                mib = (one["temporary_bytes"] or 0) / 2**20
                line += f" {one['seconds'] * 1e3:{width}.2f} {one['flops'] / 1e12:8.1f} {mib:7.0f}"
            else:
                line += f" {'-':>{width}s} {'-':>8s} {'-':>7s}"
        if base and case.get("both"):
            line += f" {case['both']['seconds'] / base['seconds']:6.2f}"
        lines.append(line)
    n, d, v = sizes["rows"], sizes["embed"], sizes["vocab"]
    for name, case in (figures["torch"] or {}).items():
        if isinstance(case, dict) and "both" in case:
            line = f"{name + ' ' + figures['torch']['version']:44s}"
            for key, width, flops in (("forward", 10, 2 * n * d * v), ("both", 9, 8 * n * d * v)):
                seconds, mib = case[key]["seconds"], case[key]["peak_bytes"] / 2**20
                line += f" {seconds * 1e3:{width}.2f} {flops / seconds / 1e12:8.1f} {mib:7.0f}"
            lines.append(line)
        elif isinstance(case, dict) or name == "error":
            lines.append(f"{name}: {case}")
    lines += [f"FAILED {failure}" for failure in figures["failures"]]
    if figures["left_out"]:
        lines.append(f"left out for want of time: {'; '.join(figures['left_out'])}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxpref.benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", help="JSON file to write the figures to")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each case")
    options = parser.parse_args()
    try:
        figures = measure(rounds=options.rounds)
    except ValueError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(table(figures))
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
