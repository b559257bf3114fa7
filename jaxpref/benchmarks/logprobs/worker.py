"""One process, one variant: `python -m jaxpref.benchmarks.logprobs.worker REQUEST`, JSON in, JSON out.

A process of its own gives each variant a fresh allocator, its own peak of memory and its own compilations,
and a failure does not stop the others.
"""

import importlib.util
import json
import pathlib
import sys
from typing import Any

import jax

from jaxpref.benchmarks import machine
from jaxpref.benchmarks.logprobs import oracle, variants
from jaxpref.benchmarks.logprobs.case import Case
from jaxpref.benchmarks.timing import Compiled, compiled, peak_growth, timed
from jaxpref.kernels.token_logps.dispatch import Shape, plan_for
from jaxpref.training.peak import matmul_peak

__all__ = ["respond"]


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """`task` is "prepare" (inputs and answer into `folder`), "rates" of the machine, or "variant"."""
    case = Case(**request["case"])
    if request["task"] == "rates":
        return _rates(case)
    folder = pathlib.Path(request["folder"])
    if request["task"] == "prepare":
        return _prepare(case, folder)
    return _variant(request["variant"], case, folder, request["repeats"])


def _prepare(case: Case, folder: pathlib.Path) -> dict[str, Any]:
    plan = plan_for(Shape(case.rows, case.vocab, case.embed))
    tokamax = importlib.util.find_spec("tokamax") is not None
    report = {
        **machine.facts(),
        **machine.versions("tokamax"),
        "chosen": {"train": plan.training.name, "score": plan.scoring.name},
        "variants": variants.names(machine.platform_name(), tokamax=tokamax),
    }
    jax.config.update("jax_enable_x64", True)
    oracle.write(case, folder)
    return report


def _rates(case: Case) -> dict[str, Any]:
    flops, source = matmul_peak(dtype=case.dtype)
    if machine.platform_name() != "cpu":  # one device is measured
        flops /= jax.device_count()
    return {"flops": flops, "source": source, "bandwidth": machine.measured_bandwidth()}


def _variant(name: str, case: Case, folder: pathlib.Path, repeats: int) -> dict[str, Any]:
    given, answer = oracle.load(case, folder)
    if variants.is_row_pass(name):
        return _row_pass(name, case, given, answer, repeats)
    loss = variants.linear_loss(name, case)
    score = compiled(loss, *given)
    value, resident = peak_growth(lambda: score.call(*given))
    passes = {"score": _figures(score, resident, oracle.error(case, answer, {"loss": value}))}
    train = compiled(jax.value_and_grad(loss, (0, 1)), *given)
    (value, (hidden, weight)), resident = peak_growth(lambda: train.call(*given))
    error = oracle.error(case, answer, {"loss": value, "hidden": hidden, "weight": weight})
    passes["train"] = _figures(train, resident, error)
    del value, hidden, weight
    if all(figures["right"] for figures in passes.values()):
        passes["score"] |= timed(lambda: score.call(*given), repeats)
        passes["train"] |= timed(lambda: train.call(*given), repeats)
    return passes


def _row_pass(
    name: str, case: Case, given: list[jax.Array], answer: oracle.Arrays, repeats: int
) -> dict[str, Any]:
    hidden, weight, targets = given
    loss = variants.row_loss(name, case)
    logits = jax.jit(lambda h, w: variants.float32_logits(h, w).astype(case.dtype))(hidden, weight)
    score = compiled(loss, logits, targets)
    value, resident = peak_growth(lambda: score.call(logits, targets))
    passes = {"score": _figures(score, resident, oracle.error(case, answer, {"rows_loss": value}))}
    # As in a step: the logits are not needed any more, and their gradient may take their place.
    train = compiled(jax.value_and_grad(loss), logits, targets, donate_argnums=0)
    if passes["score"]["right"]:
        passes["score"] |= timed(lambda: score.call(logits, targets), repeats)
    (value, logits), resident = peak_growth(lambda: train.call(logits, targets))
    error = oracle.error(case, answer, {"rows_loss": value, "logits": logits})
    passes["train"] = _figures(train, resident, error)

    def step() -> jax.Array:
        nonlocal logits
        _, logits = train.call(logits, targets)
        return logits

    if passes["train"]["right"]:
        passes["train"] |= timed(step, repeats)
    return passes


def _figures(program: Compiled, resident: int | None, error: tuple[float, bool]) -> dict[str, Any]:
    return {
        "compile_seconds": program.seconds,
        "compilations": program.compilations,
        "memory": program.memory,
        "resident_bytes": resident,
        "max_error": error[0],
        "right": error[1],
    }


if __name__ == "__main__":
    print(json.dumps(respond(json.loads(sys.argv[1]))))
