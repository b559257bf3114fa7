"""The command that checks a GPU: its code runs here at tiny sizes; its figures mean something there only."""

import json
import sys

import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxpref.benchmarks import gpu_check, gpu_torch


def test_at_tiny_sizes(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    monkeypatch.setattr(gpu_check, "_torch", lambda run, sizes: gpu_torch.main(8, 4, 16, 1))
    sizes = gpu_check.Sizes(
        rows=8,
        embed=16,
        vocab=300,
        matmul=64,
        copy_bytes=4096,
        blocks=(),
        in_flight=(64,),
        small=((3, 8, 300),),
    )
    names = ("materialized", "pallas_gpu")
    figures = gpu_check.measure(rounds=1, sizes=sizes, names=names, anywhere=True)
    assert figures["failures"] == figures["left_out"] == []
    assert figures["projection"].keys() == set(names if hasattr(plgpu, "InterpretGPUParams") else names[:1])
    assert all(case["both"]["flops"] > 0 for case in figures["projection"].values())
    json.dumps(figures)
    text = gpu_check.table(figures)
    for name in (*figures["projection"], *figures["rows"], "torch is not installed"):
        assert name in text


def test_a_case_that_fails_is_reported_and_the_others_go_on():
    run = gpu_check._Run(rounds=1, seconds=60)
    assert run.attempt("wrong", lambda: 1 / 0) is None
    assert run.attempt("right", lambda: 1.0) == 1
    assert run.failures == ["wrong: ZeroDivisionError: division by zero"]
    run.seconds = -1
    assert run.attempt("late", lambda: 1.0) is None
    assert run.left_out == ["late"]


def test_a_kernel_that_does_not_answer_is_found_out():
    with pytest.raises(RuntimeError, match=r"compute capability 9"):
        gpu_check._answers("pallas_gpu")  # there is no GPU here
    assert gpu_check._answers("vocab_scan")


def test_without_a_gpu(monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"compute capability 9.*'cpu'"):
        gpu_check.measure()
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert gpu_check.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
