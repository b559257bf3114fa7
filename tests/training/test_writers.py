"""Every writer gets the same metrics, by name, and forgets what a resumed run writes again."""

import csv
import json
import math
import pathlib
import shutil
import sys
import types

import pytest
from launch import TINY, here
from tensorboardX.proto.event_pb2 import Event

from jaxpref.training.files import RunFiles
from jaxpref.training.writers import WRITERS, builders


def scalars(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Points of TensorBoard's event files, by tag: records framed by a length, its checksum and theirs."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((folder / "tensorboard").glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def table(folder: pathlib.Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Kept:
    """A writer of a user's: remembers what it was told."""

    every_step = False
    told: list = []  # noqa: RUF012

    def __init__(self, directory: pathlib.Path) -> None:
        self.told.append(("made", directory.is_dir()))

    def write(self, stage, split, step, values):
        self.told.append((stage, split, step, dict(values)))

    def forget(self, kept):
        self.told.append(("forget", kept("dpo", "train", 2), kept("dpo", "train", 3), kept("dpo", "eval", 3)))

    def flush(self):
        self.told.append("flushed")

    def close(self):
        self.told.append("closed")


@pytest.fixture
def own(monkeypatch):
    """The writer above as `my_writers:kept`."""
    module = types.ModuleType("my_writers")
    module.kept = Kept  # pyright: ignore
    monkeypatch.setitem(sys.modules, "my_writers", module)
    monkeypatch.setattr(Kept, "told", [])
    return Kept.told


def filled(folder: pathlib.Path, names: tuple[str, ...]) -> RunFiles:
    files = RunFiles(folder, names=names)
    for step in range(4):
        means = {"loss": 1.5, "rate": 7.0} if step % 2 else {}
        files.write("dpo", "train", step, {"loss": float(step)}, means)
    files.write("dpo", "eval", 4, {"loss": math.nan})
    files.write("dpo", "evaluations", 4, {"accuracy": 0.75})
    return files


def test_all_writers_get_steps_or_their_means(tmp_path, own):
    filled(tmp_path, ("csv", "tensorboard", "my_writers:kept", "jsonl")).close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["split"], r["step"], r["loss"]) for r in lines] == [
        *(("train", step, float(step)) for step in range(4)),
        ("eval", 4, "nan"),
    ], "evaluations.jsonl has the rest"
    assert set().union(*lines) == {"stage", "step", "split", "time", "loss"}
    assert [(r["split"], r["step"], r["name"], float(r["value"])) for r in table(tmp_path)][:4] == [
        ("train", step, "loss", float(step)) for step in map(str, range(4))
    ]
    assert [r["value"] for r in table(tmp_path)][4:] == ["nan", "0.75"]
    points = scalars(tmp_path)
    assert points["dpo/train/loss"] == [(1, 1.5), (3, 1.5)]
    assert points["dpo/train/rate"] == [(1, 7.0), (3, 7.0)]
    assert points["dpo/evaluations/accuracy"] == [(4, 0.75)]
    assert own[0] == ("made", True)
    assert own[1:3] == [
        ("dpo", "train", 1, {"loss": 1.5, "rate": 7.0}),
        ("dpo", "train", 3, {"loss": 1.5, "rate": 7.0}),
    ]
    assert own[-1] == "closed"


def test_a_resumed_run_removes_just_what_it_will_write_again(tmp_path, own):
    names = ("csv", "tensorboard", "my_writers:kept")
    filled(tmp_path, names).close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("12.5,dpo,train,0,lo")  # cut by a kill
    files = RunFiles(tmp_path, names=names)
    files.forget_after(["sft", "dpo"], "dpo", 3)
    files.flush()
    files.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["split"], row["step"]) for row in lines] == [("train", 0), ("train", 1), ("train", 2)]
    assert [(row["split"], row["step"]) for row in table(tmp_path)] == [("train", str(s)) for s in range(3)]
    assert scalars(tmp_path) == {"dpo/train/loss": [(1, 1.5)], "dpo/train/rate": [(1, 7.0)]}
    assert ("forget", True, False, True) in own
    assert own[-2:] == ["flushed", "closed"]
    files = RunFiles(tmp_path, names=names)
    files.forget_after(["sft", "dpo"], "sft", -1)
    files.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert table(tmp_path) == []


def test_a_run_is_written_by_those_that_its_command_names(tmp_path, own):
    here("train", TINY, "steps=2", "--no-report", f"workdir={tmp_path}", "writers=my_writers:kept")
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "metrics.jsonl").exists()
    given = [told for told in own if isinstance(told, tuple) and len(told) == 4 and told[0] == "dpo"]
    assert {split for _, split, _, _ in given} == {"train", "eval", "evaluations", "resources"}
    losses = [values["loss"] for _, split, _, values in given if split == "train"]
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    of_steps = [row["loss"] for row in rows if row["stage"] == "dpo" and row["split"] == "train"]
    assert losses == [pytest.approx(sum(of_steps) / 2)]
    assert "flushed" in own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", "none of csv, jsonl, tensorboard"),
        ("nowhere:writer", "cannot be imported"),
        ("json:nothing", "cannot be imported"),
        ("math:pi", "none of csv, jsonl, tensorboard"),
    ],
)
def test_a_wrong_name_is_said_before_anything_runs(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        RunFiles(tmp_path / "run", active=False, names=(name,))
    assert not (tmp_path / "run").exists()


def test_metrics_jsonl_is_always_written_and_once():
    assert builders(()) == builders(("jsonl",)) == (WRITERS["jsonl"],)
    assert builders(("csv", "jsonl")) == (WRITERS["jsonl"], WRITERS["csv"])


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    files = RunFiles(tmp_path, names=())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "open", full)
    with pytest.raises(ValueError, match=r"No space left on device.*run the same command again"):
        files.write("dpo", "train", 0, {"loss": 1.0})


@pytest.mark.parametrize("there", [False, True])
def test_a_run_without_a_step_takes_back_what_it_wrote_and_no_more(tmp_path, there):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()

    def fail(others: bool) -> None:
        files = RunFiles(folder, names=("csv", "tensorboard"))
        with files.discarded_if_nothing_ran():
            files.write_json("experiment.json", {})
            files.note("data.json", "sft", ["rows"])
            files.append("samples.jsonl", [{"stage": "sft", "step": 0}])
            files.write("sft", "evaluations", 0, {"loss": 1.0})
            files.flush()
            assert list((folder / "tensorboard").glob("events.*"))
            if others:
                (folder / "notes.txt").write_text("mine")
                (folder / "tensorboard" / "events.other").write_bytes(b"of another run")
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        fail(others=False)
    assert folder.exists() == there
    assert not there or not list(folder.iterdir())
    with pytest.raises(ValueError, match="late"):
        fail(others=True)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "tensorboard/events.other"}


@pytest.mark.parametrize("damaged", ['{"sft": ["ro', "[1]", ""])
def test_a_damaged_account_is_begun_anew(tmp_path, damaged):
    (tmp_path / "data.json").write_text(damaged)
    RunFiles(tmp_path, names=()).note("data.json", "dpo", ["rows"])
    assert json.loads((tmp_path / "data.json").read_text()) == {"dpo": ["rows"]}


def test_curves_of_a_resumed_run_have_each_step_once(tmp_path):
    common = ["train", TINY, "steps=4", "evaluators=False", "--no-report", f"workdir={tmp_path}"]
    common.append("writers=csv,tensorboard")
    here(*common)
    whole = scalars(tmp_path)
    with next((tmp_path / "tensorboard").glob("events.*")).open("ab") as file:
        file.write(b"\x20")  # a record that a kill cut short
    shutil.rmtree(tmp_path / "checkpoints" / "dpo" / "4")
    output = here(*common)
    assert "dpo: resumed at step 2" in output
    again = scalars(tmp_path)
    for points in again.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))
    rates = ("tokens_per_second", "mfu")
    same = [tag for tag in whole if not tag.endswith(rates) and "/resources/" not in tag]
    assert {tag: again[tag] for tag in same} == {tag: whole[tag] for tag in same}
    rows = [(row["stage"], row["split"], row["step"], row["name"]) for row in table(tmp_path)]
    assert len(rows) == len(set(rows))
