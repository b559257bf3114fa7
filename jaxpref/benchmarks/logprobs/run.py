"""Rounds over all variants, each in a process of its own, checked against float64 before it is timed."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any, Literal

import jaxpref
from jaxpref.benchmarks.logprobs import variants
from jaxpref.benchmarks.logprobs.case import Case
from jaxpref.benchmarks.machine import HUGE_PAGES
from jaxpref.benchmarks.timing import summary

__all__ = ["measure"]

Allocator = Literal["default", "huge-pages", "both"]
KINDS = ("train", "score")
WORKER = "jaxpref.benchmarks.logprobs.worker"


def measure(
    *,
    rows: int = 2048,
    embed: int = 512,
    vocab: int = 32_768,
    dtype: str = "float32",
    rounds: int = 5,
    repeats: int = 3,
    allocator: Allocator = "both",
    only: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Value and gradients (`train`) and value alone (`score`) of a DPO-like loss, by every variant that runs
    here, or by those of `only`.

    `allocator` is glibc's, and the same for every process of a round: "default", "huge-pages" or "both".
    It matters on CPU, where large results are fresh memory; elsewhere it is what this process has. Each
    round starts a process for each variant, which makes `repeats` timed calls of each kind.

    Raises:
      ValueError: no such variant; or an implementation of this library gives a wrong result.
    """
    case = Case(rows, embed, vocab, dtype)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        request = {"case": vars(case), "folder": folder, "repeats": repeats}
        _say(f"logprobs: preparing {case}")
        # This process starts no backend: an accelerator may serve one process at a time.
        facts = _started({**request, "task": "prepare"}, None)
        allocators = _allocators(allocator, facts["platform"])
        names = _chosen(only, facts.pop("variants"))
        rates, results = _rounds(request, names, allocators, rounds)
    return {
        "benchmark": "logprobs",
        **facts,
        "case": vars(case),
        "rounds": rounds,
        "repeats": repeats,
        "load_average": load_before,
        "load_average_after": os.getloadavg()[0],
        **rates,
        "allocators": allocators,
        "variants": {name: _variant(results[name], facts["cores"], case, rates) for name in names},
    }


def _allocators(asked: str, backend: str) -> list[str]:
    glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if backend != "cpu" or not glibc:
        return ["inherited"]
    return ["huge-pages", "default"] if asked == "both" else [asked]


def _chosen(only: tuple[str, ...], known: list[str]) -> list[str]:
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"logprobs: no variant {', '.join(unknown)} here; there are {', '.join(known)}")
    return [name for name in known if not only or name in only]


def _rounds(
    request: dict[str, Any], names: list[str], allocators: list[str], rounds: int
) -> tuple[dict[str, Any], dict[str, dict[str, list[dict]]]]:
    results: dict[str, dict[str, list[dict]]] = {name: {a: [] for a in allocators} for name in names}
    rates: list[dict[str, Any]] = []
    total, done, start = rounds * len(allocators) * len(names), 0, time.monotonic()
    for index in range(rounds):
        rates.append(_started({**request, "task": "rates"}, allocators[0]))
        for name in names:
            for allocator in allocators:
                answer = _started({**request, "task": "variant", "variant": name}, allocator)
                _must_be_right(name, answer)
                results[name][allocator].append(answer)
                done += 1
                left = (time.monotonic() - start) / done * (total - done) / 60
                _say(
                    f"logprobs: {done}/{total} round {index + 1} {name} ({allocator}): {_brief(answer)}; "
                    f"about {left:.1f} min left"
                )
    return {
        "flops_per_second": max(r["flops"] for r in rates),
        "flops_source": rates[0]["source"],
        "bytes_per_second": max(r["bandwidth"] for r in rates),
    }, results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _brief(answer: dict[str, Any]) -> str:
    if "failed" in answer:
        return answer["failed"]
    if "wall" not in answer["train"]:
        return f"wrong by {answer['train']['max_error']:.1e}"
    return f"{min(answer['train']['wall']) * 1e3:,.1f} ms, score {min(answer['score']['wall']) * 1e3:,.1f} ms"


def _must_be_right(name: str, answer: dict[str, Any]) -> None:
    for kind in KINDS:
        figures = answer.get(kind)
        if name in variants.OWN and figures and not figures["right"]:
            raise ValueError(
                f"logprobs: {name} ({kind}) is off by {figures['max_error']:.1e}, relative to float64"
            )


def _started(request: dict[str, Any], allocator: str | None) -> dict[str, Any]:
    """The answer of a process that was given `request`. A variant that fails answers `{"failed": why}`."""
    command = [sys.executable, "-m", WORKER, json.dumps(request)]
    try:
        done = subprocess.run(
            command, env=_environment(allocator), capture_output=True, text=True, timeout=1800
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = "took half an hour" if done is None else _last_line(done.stderr) or f"exit {done.returncode}"
    if request["task"] == "variant":
        return {"failed": last}
    raise ValueError(f"logprobs: {request['task']} failed: {last}")


def _last_line(text: str) -> str:
    """The error of a traceback: the last line that begins one, not what JAX appends below it."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(" ") and "Error" in line.partition(":")[0]]
    return (errors or lines or [""])[-1][:200]


def _environment(allocator: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    if allocator in ("default", "huge-pages"):
        environment.pop("GLIBC_TUNABLES", None)
    if allocator == "huge-pages":
        environment["GLIBC_TUNABLES"] = HUGE_PAGES
    root = str(pathlib.Path(jaxpref.__file__).resolve().parents[1])  # the code that is running, not another
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return environment


def _variant(results: dict[str, list[dict]], cores: int, case: Case, rates: dict[str, Any]) -> dict[str, Any]:
    failed = [answer["failed"] for answers in results.values() for answer in answers if "failed" in answer]
    if failed:
        return {"failed": failed[0]}
    return {kind: _kind(kind, results, cores, case, rates) for kind in KINDS}


def _kind(
    kind: str, results: dict[str, list[dict]], cores: int, case: Case, rates: dict[str, Any]
) -> dict[str, Any]:
    first, *others = results
    answers = [answer[kind] for answer in results[first]]
    figures = {name: answers[0][name] for name in ("memory", "max_error", "right")}
    figures["resident_bytes"] = answers[0]["resident_bytes"]
    figures["compile_seconds"] = min(answer["compile_seconds"] for answer in answers)
    if not figures["right"] or "wall" not in answers[0]:
        return figures
    figures["compilations"] = max(a["compilations"] + a["recompilations"] for a in answers)
    for allocator in (first, *others):
        given = [answer[kind] for answer in results[allocator]]
        wall, cpu = ([second for a in given for second in a[name]] for name in ("wall", "cpu"))
        figures[allocator] = {**summary(wall, cpu), "cpu_seconds_min_per_core": min(cpu) / cores}
    best = figures[first]["wall_seconds_min"]
    figures["share_of_flops"] = (
        case.product_flops * (3 if kind == "train" else 1) / best / rates["flops_per_second"]
    )
    # Read once; for the gradient read again and written.
    figures["share_of_bandwidth"] = (
        case.logits_bytes * (3 if kind == "train" else 1) / best / rates["bytes_per_second"]
    )
    return figures
