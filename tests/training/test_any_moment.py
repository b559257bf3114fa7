"""SIGTERM and Ctrl-C at any moment of any command: what there is to save is saved, and the folder is free."""

import contextlib
import importlib
import os
import pathlib
import signal
from unittest import mock

import pytest
from launch import TINY, here

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
TRAINING = ["steps=4", "checkpoint_every=100", "--no-report"]


@contextlib.contextmanager
def _signalled(name: str, number: int, at: int = 1, after: bool = False):
    """The signal comes as a function is called for the `at`-th time, or returns."""
    module, _, attribute = name.partition(":")
    owner = importlib.import_module(module)
    *path, last = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    function, calls = getattr(owner, last), []

    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == at and not after:
            os.kill(os.getpid(), number)
        value = function(*arguments, **options)
        if len(calls) == at and after:
            os.kill(os.getpid(), number)
        return value

    with mock.patch.object(owner, last, wrapped):
        yield
    assert len(calls) >= at, "it came there"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("trained")
    here("train", TINY, *TRAINING, f"workdir={folder}")
    return folder


MOMENTS = {  # where, which call, and what is saved by then
    "while the policy is built": ("jaxpref.training.run:open_run", 1, {}),
    "in the evaluation before the first step": ("jaxpref.training.loop:evaluate_stage", 1, {}),
    "as the step is compiled": ("jaxpref.training.loop:StageRun.step", 1, {}),
    "in the second step": ("jaxpref.training.loop:StageRun.step", 2, {"sft": 2}),
    "in an evaluation": ("jaxpref.training.loop:evaluate_stage", 2, {"sft": 4}),
    "while a checkpoint is written": ("jaxpref.training.loop:Checkpoints.save", 1, {"sft": 4}),
    "between the stages": ("jaxpref.training.run:initial_params", 1, {}),
    "in the second stage": ("jaxpref.training.loop:StageRun.step", 6, {"sft": 4, "dpo": 2}),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
def test_training(moment, number, trained, tmp_path, capsys):
    where, at, saved = MOMENTS[moment]
    common = ["train", TINY, *TRAINING, f"workdir={tmp_path / 'run'}"]
    with _signalled(where, number, at):
        output = here(*common, expect=128 + number)
    steps = {
        stage.name: int(step.name)
        for stage in (tmp_path / "run" / "checkpoints").glob("*")
        for step in stage.iterdir()
        if step.name.isdigit()
    }
    print(f"{signal.Signals(number).name} {moment}: {output.splitlines()[-1]}")
    assert not (tmp_path / "run" / "lock.json").exists()
    if where.endswith("save"):  # the last of the stage: the second one begins, and has nothing to save
        assert steps["sft"] == 4
    else:
        assert steps == saved
    assert "Traceback" not in output
    here(*common)
    names = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")
    for name in names:
        ours, whole = ((folder / name).read_text().count("\n") for folder in (tmp_path / "run", trained))
        assert ours == whole, name


OTHERS = {
    "evaluate": (["evaluate", TINY], "jaxpref.commands.results:held_out_pass"),
    "sample": (
        ["sample", TINY, "--prompt", "1+1=", "--num-samples", "2"],
        "jaxpref.commands.speaking:Speaker.sample",
    ),
    "prepare": (["prepare", TINY, "records=RECORDS"], "jaxpref.training.prepared:write_records_to"),
    "restoring": (["train", TINY], "jaxpref.training.checkpoint:Checkpoints.restore"),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", OTHERS)
def test_other_commands(command, number, trained, tmp_path):
    words, where = OTHERS[command]
    words = [word.replace("RECORDS", str(tmp_path / "records")) for word in words]
    words += TRAINING[: 3 if words[0] == "train" else 2] if words[0] != "prepare" else []
    words += [f"workdir={trained}"] if words[0] != "prepare" else []
    with _signalled(where, number):
        output = here(*words, expect=128 + number)
    print(f"{signal.Signals(number).name} {command}: {output.splitlines()[-1]}")
    assert "Traceback" not in output
    assert not (trained / "lock.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_stops_as_a_whole(number, tmp_path):
    file = tmp_path / "two.py"
    text = pathlib.Path(TINY).read_text()
    text += "\n\ndef sweep_two():\n    return [experiment(learning_rate=x) for x in (1e-2, 1e-3)]\n"
    file.write_text(text)
    words = ["sweep", f"{file}:sweep_two", "--smoke", f"workdir={tmp_path / 'runs'}"]
    with _signalled("jaxpref.commands.training:run_training", number, after=True):
        output = here(*words, expect=128 + number)
    print(f"{signal.Signals(number).name} sweep: {output.splitlines()[-1]}")
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert not list((tmp_path / "runs").glob("*/lock.json"))
