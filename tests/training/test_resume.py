"""A run that is killed and started again ends bit for bit where an undisturbed one ends."""

import json
import pathlib
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from launch import TINY, here, rows, start


def _state(workdir: pathlib.Path, stage: str, step: int):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir.absolute() / "checkpoints" / stage / str(step) / "state")


def _assert_same(first: pathlib.Path, second: pathlib.Path, steps: int) -> None:
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert rows(first, name) == rows(second, name), name
    for stage in ("sft", "dpo"):
        a, b = _state(first, stage, steps), _state(second, stage, steps)
        assert jax.tree.structure(a) == jax.tree.structure(b)
        jax.tree.map(np.testing.assert_array_equal, a, b)


def _wait_for(workdir: pathlib.Path, process, stage: str, step: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ended too early:\n{process.stdout.read()}")
        path = workdir / "metrics.jsonl"
        if path.exists() and any(
            row["stage"] == stage and row["step"] >= step
            for row in map(json.loads, path.read_text().splitlines()[:-1])
        ):
            return
        time.sleep(0.02)
    pytest.fail(f"{stage} step {step} never came")


STEPS = 150
RARELY = [
    f"stages.{stage}.{what}_every=10" for stage in ("sft", "dpo") for what in ("evaluate", "evaluators")
]
COMMON = ["train", TINY, f"steps={STEPS}", *RARELY, "--no-report"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """How often it saves changes nothing in what it files, nor in its last state; nor does the process."""
    workdir = tmp_path_factory.mktemp("whole")
    here(*COMMON, "checkpoint_every=1000", f"workdir={workdir}")
    return workdir


@pytest.mark.slow
def test_sigkill_and_resume_is_bit_equal(undisturbed, tmp_path):
    common = [*COMMON, "checkpoint_every=15"]
    for stage in ("sft", "dpo"):
        process = start(*common, f"workdir={tmp_path / 'killed'}")
        _wait_for(tmp_path / "killed", process, stage, 50)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    output = here(*common, f"workdir={tmp_path / 'killed'}")
    assert "dpo: resumed at step" in output
    _assert_same(undisturbed, tmp_path / "killed", STEPS)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_sigterm_saves_and_resume_is_bit_equal(undisturbed, tmp_path):
    common = [*COMMON, "checkpoint_every=1000"]
    process = start(*common, f"workdir={tmp_path / 'stopped'}")
    _wait_for(tmp_path / "stopped", process, "dpo", 40)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "interrupted and saved at step" in output
    output = here(*common, f"workdir={tmp_path / 'stopped'}")
    assert "dpo: resumed at step" in output
    _assert_same(undisturbed, tmp_path / "stopped", STEPS)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_ctrl_c_saves_as_sigterm_does(undisturbed, tmp_path):
    common = [*COMMON, "checkpoint_every=1000"]
    process = start(*common, f"workdir={tmp_path / 'stopped'}")
    _wait_for(tmp_path / "stopped", process, "dpo", 40)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "saving after this step; Ctrl-C again stops at once" in output
    assert "interrupted and saved at step" in output
    output = here(*common, f"workdir={tmp_path / 'stopped'}")
    assert "dpo: resumed at step" in output
    _assert_same(undisturbed, tmp_path / "stopped", STEPS)


def test_a_finished_run_started_again_changes_nothing(tmp_path):
    common = ["train", TINY, "steps=4", "evaluators=False", "--no-report", f"workdir={tmp_path}"]
    here(*common)
    before = rows(tmp_path, "metrics.jsonl")
    output = here(*common)
    assert "sft: done at step 4" in output
    assert rows(tmp_path, "metrics.jsonl") == before
