"""The figures of `measure` as text."""

from typing import Any

from jaxpref.benchmarks.logprobs.case import Case
from jaxpref.benchmarks.logprobs.variants import ROW_PASS, is_row_pass

__all__ = ["table"]

TITLES = {
    "train": "value and gradients (share of matmul rate: three products)",
    "score": "value alone (one product)",
}
ROW_TITLES = {
    "train": "row pass, value and gradient (logits read twice, written once)",
    "score": "row pass, value (logits read once)",
}


def table(figures: dict[str, Any]) -> str:
    """Four parts: values and gradients, values; each from hidden states, and of logits that exist."""
    case = Case(**figures["case"])
    lines = [
        f"Log-probs of {case.pairs} pairs x 2 x {case.tokens} tokens, width {case.embed:,}, vocabulary "
        f"{case.vocab:,}, {case.dtype}",
        f"{figures['device']} ({figures['cores']} cores), jax {figures['jax']}, "
        f"load {figures['load_average']:.1f} to {figures['load_average_after']:.1f}",
        f"matmul {figures['flops_per_second'] / 1e9:,.0f} GFLOP/s ({figures['flops_source']}), scaling in "
        f"place {figures['bytes_per_second'] / 1e9:,.0f} GB/s; best of {figures['rounds']} rounds of "
        f"{figures['repeats']} calls, each variant in its own process; chosen here: "
        f"{figures['chosen']['train']} for gradients, {figures['chosen']['score']} for values",
    ]
    if figures["xla_flags"]:
        lines.append(f"XLA_FLAGS={figures['xla_flags']}")
    for row_pass, titles in ((False, TITLES), (True, ROW_TITLES)):
        names = [name for name in figures["variants"] if is_row_pass(name) == row_pass]
        for kind, title in titles.items():
            if names:
                lines += ["", *_part(title, kind, names, figures, row_pass)]
    return "\n".join(lines)


def _part(title: str, kind: str, names: list[str], figures: dict[str, Any], row_pass: bool) -> list[str]:
    allocators, on_cpu = figures["allocators"], figures["platform"] == "cpu"
    share = "share_of_bandwidth" if row_pass else "share_of_flops"
    over, under = " " * 20, f"{'':20s}"
    for allocator in allocators:
        label = "" if allocator == "inherited" else allocator
        over += f"{label:>{27 if on_cpu else 18}s}"
        under += f"{'median':>9s}{'best':>9s}" + (f"{'CPU/core':>9s}" if on_cpu else "")
    under += f"{'temp MiB':>10s}{'grown MiB':>10s}{'share':>7s}{'compile s':>10s}{'compiles':>9s}"
    lines = [title + ", ms", *([over] if over.strip() else []), under]
    for name in names:
        variant = figures["variants"][name]
        label = f"{name.removeprefix(ROW_PASS):20s}"
        if "failed" in variant:
            lines.append(f"{label} failed: {variant['failed']}")
            continue
        one_pass = variant[kind]
        if allocators[0] not in one_pass:
            lines.append(f"{label} wrong: max error {one_pass['max_error']:.1e}")
            continue
        for allocator in allocators:
            given = one_pass[allocator]
            columns = ["wall_seconds_median", "wall_seconds_min"]
            columns += ["cpu_seconds_min_per_core"] if on_cpu else []
            label += "".join(f"{_ms(given[column]):>9s}" for column in columns)
        lines.append(
            f"{label}{_mib(one_pass['memory'].get('temp')):>10s}{_mib(one_pass['resident_bytes']):>10s}"
            f"{one_pass[share]:7.0%}{one_pass['compile_seconds']:10.1f}{one_pass['compilations']:9d}"
        )
    return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.2f}"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f}"
