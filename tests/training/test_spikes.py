"""Steps whose loss jumped or was not finite: found, kept with their examples, and done again."""

import dataclasses
import json
import math

import numpy as np
import pytest
from launch import TINY, here, rows

from jaxpref.commands.replaying import summary
from jaxpref.training.files import RunFiles
from jaxpref.training.replay import Replayed
from jaxpref.training.spikes import QUIET, WARM_UP, WINDOW, SpikeWatch, threshold


def watching(folder, lines):
    files = RunFiles(folder, log=lines.append, names=())
    watch = SpikeWatch(files, "dpo", ids=lambda step: [step, step + 1], nearest=lambda step: step // 10 * 10)
    return files, watch


def test_the_threshold_is_ten_deviations_above_the_median_and_a_tenth_of_it():
    random = np.random.default_rng(0)
    losses = list(random.normal(5.0, 0.1, 10_000))
    assert threshold(losses[:100]) == pytest.approx(5 + 10 * 0.1, abs=0.4)
    assert threshold([2.0] * 50) == 2.2
    assert threshold([2.0] * (WARM_UP - 1)) == math.inf
    # What came before the window does not matter, nor what was not finite.
    assert threshold([50.0] * 900 + [2.0] * WINDOW) == threshold([math.nan, *[2.0] * WINDOW])
    above = [x > threshold(losses[max(i - WINDOW, 0) : i]) for i, x in enumerate(losses[:2000])]
    assert not any(above), "noise is no spike"


def test_a_jump_is_told_of_once_with_its_examples_and_again_when_it_is_another(tmp_path):
    lines: list[str] = []
    files, watch = watching(tmp_path, lines)
    for step in range(100):
        jump = 40 <= step < 45 or step == 80
        watch.seen(
            step, {"loss": 9.0 if jump else 1.0 + 0.01 * (step % 3), "grad_norm": 2.0 + jump, "a": 1.0}
        )
    files.close()
    found = [json.loads(line) for line in (tmp_path / "spikes.jsonl").read_text().splitlines()]
    assert [(e["step"], e["kind"], e["example_ids"]) for e in found] == [
        (40, "spike", [40, 41]),
        (80, "spike", [80, 81]),
    ]
    assert found[0]["largest"][0] == {"name": "grad_norm", "value": 3.0, "median": 2.0, "deviations": "inf"}
    assert found[0]["loss"] == 9.0 > found[0]["threshold"] > 1.01
    assert "from the checkpoint of step 40" in lines[0]
    assert "--stage dpo --step 80" in lines[1]


def test_a_resumed_run_finds_what_an_undisturbed_one_finds(tmp_path):
    losses = [1.0 + 0.01 * (step % 3) for step in range(60)]
    losses[30], losses[30 + QUIET // 2], losses[55] = 9.0, 8.0, 7.0
    lines: list[str] = []
    files, watch = watching(tmp_path / "whole", lines)
    for step, loss in enumerate(losses):
        watch.seen(step, {"loss": loss})
    files.close()
    files, watch = watching(tmp_path / "resumed", lines)
    for step, loss in enumerate(losses[:35]):
        watch.seen(step, {"loss": loss})
    files, watch = watching(tmp_path / "resumed", lines)
    files.forget_after(["sft", "dpo"], "dpo", 30)  # the update of step 30 is made again
    done = [
        {"stage": "dpo", "split": "train", "step": s, "time": 0.0, "loss": x} for s, x in enumerate(losses)
    ]
    watch.go_on([{"stage": "sft", "split": "train", "step": 0, "loss": 500.0}, *done[:30]])
    for step, loss in list(enumerate(losses))[30:]:
        watch.seen(step, {"loss": loss})
    files.close()
    whole = (tmp_path / "whole" / "spikes.jsonl").read_text()
    assert (tmp_path / "resumed" / "spikes.jsonl").read_text() == whole
    assert [json.loads(line)["step"] for line in whole.splitlines()] == [30, 55]


@pytest.fixture(scope="module")
def exploded(tmp_path_factory):
    """A run that stops since its loss is not finite, and its command."""
    workdir = tmp_path_factory.mktemp("exploded") / "run"
    common = [
        TINY,
        "steps=40",
        "learning_rate=1e-3",
        "explode_at=1.0",
        "evaluators=False",
        f"workdir={workdir}",
    ]
    return workdir, common, here("train", *common, "--no-report", expect=3)


def test_the_step_that_was_not_finite_is_kept_and_is_done_again_bit_for_bit(exploded):
    workdir, common, output = exploded
    (entry,) = rows(workdir, "spikes.jsonl")
    step = entry["step"]
    assert (entry["stage"], entry["kind"]) == ("dpo", "not finite")
    assert f"not finite: dpo: loss {entry['loss']}" in output
    assert f"its 8 example ids are in spikes.jsonl; `jaxpref replay` with --stage dpo --step {step}" in output
    before = sorted((p, p.stat().st_mtime_ns) for p in workdir.rglob("*"))
    again = here("replay", *common, "--stage", "dpo", "--step", str(step), "--rows", "1")
    assert "bit-equal to the run: all " in again
    assert f"done again from the checkpoint of step {step}" in again, "saved as the run stopped"
    shown = [line for line in again.splitlines() if line.startswith("  example ")]
    assert len(shown) == 1
    assert int(shown[0].split()[1].rstrip(":")) in entry["example_ids"]
    assert "    prompt: '" in again
    assert sorted((p, p.stat().st_mtime_ns) for p in workdir.rglob("*")) == before, "nothing is written"


def test_a_step_before_the_kept_checkpoints_is_done_again_from_the_beginning(exploded):
    workdir, common, _ = exploded
    again = here("replay", *common, "--stage", "dpo", "--step", "2", "--rows", "8")
    assert "dpo step 2, done again from the beginning of the stage" in again
    assert "bit-equal to the run: all " in again
    recorded = next(r for r in rows(workdir) if (r["stage"], r["split"], r["step"]) == ("dpo", "train", 2))
    assert f"loss {recorded['loss']!r}" in again
    # The batch's loss is the mean of its rows' own.
    own = [float(x.split("loss ")[1].split()[0]) for x in again.splitlines() if x.startswith("  example ")]
    assert len(own) == 8
    assert np.mean(own) == pytest.approx(recorded["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stage", "dpo", "--step", "40"), "dpo has no step 40: it has 40, the first is 0"),
        (("--stage", "ppo", "--step", "1"), "unknown stage 'ppo'; this experiment has sft, dpo"),
        (("--step", "-1"), "expected 0 or more, got -1"),
    ],
)
def test_a_step_that_is_not_there_is_one_clear_error(exploded, options, message):
    assert message in here("replay", *exploded[1], *options, expect=2)


def test_another_step_is_not_taken_for_the_runs():
    recorded = {"loss": 0.5, "grad_norm": math.nan, "gone": 1.0}
    done = Replayed("dpo", 7, 5, {"loss": 0.5, "grad_norm": math.nan, "new": 2.0}, recorded, None, [])
    assert "bit-equal to the run" in summary(done)[1]
    other = dataclasses.replace(done, metrics=done.metrics | {"loss": float(np.nextafter(0.5, 1))})
    assert "not the step of the run: loss was 0.5, is 0.5000000000000001;" in summary(other)[1]
    assert "no line of this step" in summary(dataclasses.replace(done, recorded={}))[1]


def test_a_folder_without_the_stage_is_one_clear_error(tmp_path):
    output = here("replay", TINY, f"workdir={tmp_path}", "--step", "0", expect=2)
    assert "has no stage sft that has begun" in output
    assert list(tmp_path.iterdir()) == []
