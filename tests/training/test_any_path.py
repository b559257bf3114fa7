"""A run in an object store: the same files, and nothing beside them."""

import hashlib
import importlib.util
import json
import os
import pathlib
import sys
from unittest import mock

import numpy as np
import pytest
from buckets import Bucket
from etils import epath
from launch import TINY, here, rows

from jaxpref import paths
from jaxpref.data.prepare import prepared
from jaxpref.training import spool
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.files import RunFiles
from jaxpref.training.preemption import Preemption


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Where `mem://` keeps its objects; the working directory is an empty folder, and stays so."""
    monkeypatch.setattr(Bucket, "folder", tmp_path / "store", raising=False)
    for name in ("home", "here", "store", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "store"
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == [], "what was spooled is removed"


def names(folder: pathlib.Path) -> set[str]:
    """Files below a folder; those of TensorBoard, whose names have time and host, once."""
    found = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    own = {p for p in found if p.parts[0] not in ("checkpoints", "tensorboard")}
    return {str(p) for p in own} | {p.parts[0] for p in found - own}


def assert_alike(first: pathlib.Path, second: pathlib.Path) -> None:
    assert names(first) == names(second)
    for name in (n for n in names(first) if n.endswith(".jsonl")):
        assert rows(first, name) == rows(second, name), name


class Stopping(Preemption):
    """SIGTERM comes in the tenth step."""

    asked = 0

    def reached(self) -> bool:
        type(self).asked += sys._getframe(1).f_code.co_name == "_due"  # after a step
        return type(self).asked == 10 or super().reached()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_in_a_bucket_as_in_a_folder(bucket, tmp_path, monkeypatch):
    """Two stages, evaluators, samples, checkpoints and the page; stopped in the second stage and resumed."""
    common = ["train", TINY, "steps=8", "checkpoint_every=3", "writers=csv,tensorboard"]
    here(*common, f"workdir={tmp_path / 'local'}")
    save, saved = Checkpoints.save, []

    def looked_at(self, step, *rest):
        """What the store has as a checkpoint is begun."""
        saved.append((step, [row["step"] for row in rows(bucket / "runs/one", "metrics.jsonl")][-3:]))
        return save(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", looked_at)
    with mock.patch("jaxpref.training.preemption.Preemption", Stopping):
        assert "saved at step 2" in here(*common, "workdir=mem://runs/one", expect=143)
    lines = (bucket / "runs/one/metrics.jsonl").read_text()
    assert [step for step, _ in saved] == [3, 6, 8, 2]
    assert all(step - 1 in there for step, there in saved), "the lines that lead to a checkpoint, before it"
    # A kill later than that would have left lines that the run writes again.
    later = {"stage": "dpo", "step": 5, "split": "train", "loss": 1.0}
    (bucket / "runs/one/metrics.jsonl").write_text(lines + json.dumps(later) + "\n")
    assert "dpo: resumed at step 2" in here(*common, "workdir=mem://runs/one")
    assert_alike(tmp_path / "local", bucket / "runs/one")
    # The CSV has each number of the lines, and those of evaluators.
    table = (bucket / "runs/one/metrics.csv").read_text().splitlines()
    assert len(table) == len((tmp_path / "local/metrics.csv").read_text().splitlines())
    assert len(set(map(lambda line: line.partition(",")[2], table))) == len(table), "no step twice"
    # What reads a run reads it there.
    output = here("evaluate", TINY, "steps=8", "workdir=mem://runs/one")
    assert "held out  rewards/accuracies" in output
    assert here("report", "mem://runs/one", f"{tmp_path / 'local'}", "--out", "mem://both/page.html")
    assert "2 runs" in (bucket / "both/page.html").read_text()
    assert list((bucket / "both/report").glob("*.png"))
    assert_alike(tmp_path / "local", bucket / "runs/one")


@pytest.mark.exhaustive
def test_records_of_a_bucket_are_copied_once_and_again_when_they_change(bucket, tmp_path):
    common = [TINY, "steps=2", "evaluators=False"]
    here("prepare", *common, "records=mem://data/tiny")
    folders = [p for p in (bucket / "data/tiny").iterdir() if p.is_dir()]
    assert (bucket / "data/tiny/index.json").is_file()
    output = here("train", *common, "--no-report", "records=mem://data/tiny", "workdir=mem://runs/a")
    assert output.count("records: copying mem://data/tiny") == len(folders)
    again = here("train", *common, "--no-report", "records=mem://data/tiny", "workdir=mem://runs/b")
    assert "copying" not in again
    assert_alike(bucket / "runs/a", bucket / "runs/b")
    here("train", *common, "--no-report", f"workdir={tmp_path / 'c'}")
    assert rows(tmp_path / "c", "metrics.jsonl") == rows(bucket / "runs/a", "metrics.jsonl")
    first = prepared(directory=f"mem://data/tiny/{folders[0].name}")
    assert isinstance(first.prompt_tokens, np.memmap)
    tokens = folders[0] / "prompt_tokens.npy"
    changed = np.load(tokens)
    changed[0] += 1
    np.save(tokens, changed)
    stamp = tokens.stat().st_mtime + 5  # a store's times are whole seconds
    os.utime(tokens, (stamp, stamp))
    with pytest.raises(ValueError, match=r"prompt_tokens.npy is not the file that manifest.json"):
        prepared(directory=f"mem://data/tiny/{folders[0].name}")
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    manifest["files"]["prompt_tokens"]["sha256"] = hashlib.sha256(tokens.read_bytes()).hexdigest()
    (folders[0] / "manifest.json").write_text(json.dumps(manifest))
    os.utime(tokens, (stamp - 5, stamp - 5))  # the checksum alone says that it is another one
    second = prepared(directory=f"mem://data/tiny/{folders[0].name}")
    assert second.prompt_tokens[0] == first.prompt_tokens[0] + 1
    with pytest.raises(ValueError, match=r"mem://data/none has no manifest.json"):
        prepared(directory="mem://data/none")


@pytest.mark.parametrize(
    ("url", "installed", "message"),
    [
        ("nothing://a", set(), "no file system is known"),
        ("gs://a/b", set(), "pip install gcsfs"),
        ("s3://a/b", {"tensorflow"}, "EPATH_USE_TF=false"),
        ("s3://a/b", {"s3fs"}, ""),
        ("gs://a/b", {"tensorflow"}, ""),
        (pathlib.Path("gs://a/b"), {"gcsfs"}, "give the string itself"),
    ],
)
def test_a_scheme_that_cannot_be_read_says_what_is_missing(url, installed, message, monkeypatch):
    monkeypatch.delenv("EPATH_USE_TF", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    if message:
        with pytest.raises(ValueError, match=message):
            paths.as_path(url)
    else:
        assert str(paths.as_path(url)) == url


def test_a_path_of_this_machine_is_one_of_pathlib(tmp_path):
    for given in (str(tmp_path), tmp_path, epath.Path(tmp_path)):
        assert type(paths.as_path(given)) is type(tmp_path)
        assert paths.as_path(given) == tmp_path


def test_what_is_cut_short_leaves_the_file_before(tmp_path):
    file = tmp_path / "page.html"
    paths.write_whole(file, "before")
    with mock.patch.object(pathlib.Path, "replace", side_effect=OSError("full")), pytest.raises(OSError):
        paths.write_whole(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


class Clock:
    """Seconds that pass only when told."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_writes_to_a_store_that_nobody_asked_for_take_a_twentieth_of_the_time(bucket, monkeypatch):
    clock, sizes = Clock(), []
    write = Bucket.write_bytes

    def slow(self, data):
        clock.now += 4.0
        sizes.append(len(data))
        return write(self, data)

    monkeypatch.setattr(spool, "time", clock)
    monkeypatch.setattr(Bucket, "write_bytes", slow)
    files = RunFiles(paths.as_path("mem://run"), names=())
    for step in range(1000):
        files.write("dpo", "train", step, {"loss": 0.5})
        clock.now += 1.0
    assert len(sizes) == pytest.approx(1000 / 80, abs=1), "4 seconds of 80"
    assert sizes == sorted(sizes)
    files.flush()
    assert len(rows(bucket / "run", "metrics.jsonl")) == 1000
    count = len(sizes)
    files.flush()
    assert len(sizes) == count, "nothing new, nothing written"
    files.close()


def test_a_store_out_of_reach_does_not_stop_a_run_until_it_must_be_there(bucket, monkeypatch):
    clock, lines = Clock(), []
    monkeypatch.setattr(spool, "time", clock)
    files = RunFiles(paths.as_path("mem://run"), names=(), log=lines.append)
    files.write("dpo", "train", 0, {"loss": 0.5})
    clock.now = 100.0
    with monkeypatch.context() as away:
        away.setattr(Bucket, "write_bytes", mock.Mock(side_effect=RuntimeError("no route")))
        files.write("dpo", "train", 1, {"loss": 0.5})
        assert "no route" in lines[0]
        with pytest.raises(ValueError, match=r"mem://run/metrics.jsonl could not be written.*no route"):
            files.flush()
    files.close()
    assert [row["step"] for row in rows(bucket / "run", "metrics.jsonl")] == [0, 1]


def test_a_store_that_does_not_answer_is_one_clear_error(bucket, monkeypatch):
    monkeypatch.setattr(Bucket, "exists", mock.Mock(side_effect=PermissionError("no credentials")))
    for given in (["train", TINY, "workdir=mem://run"], ["report", "mem://run"]):
        output = here(*given, expect=2)
        assert "error: mem://run cannot be reached: PermissionError: no credentials" in output


def test_a_store_that_takes_no_files_is_one_clear_error(bucket, monkeypatch):
    monkeypatch.setattr(Bucket, "write_bytes", mock.Mock(side_effect=RuntimeError("no such bucket")))
    output = here("train", TINY, "workdir=mem://run", expect=2)
    assert "lock.json could not be written: RuntimeError: no such bucket; see that you may write" in output


def test_a_reading_command_leaves_nothing_behind(tmp_path):
    files = RunFiles(tmp_path / "none")
    assert files.read("samples.jsonl") == []
    files.close()
    assert not (tmp_path / "none").exists()
