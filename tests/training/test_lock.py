"""One run at a time in a folder."""

import json
import os
import subprocess
import sys
import time

import pytest
from buckets import Bucket
from etils import epath
from jobs import each, together
from launch import TINY, here

from jaxpref.training import lock, lock_file
from jaxpref.training.job import Job


def _hold(directory, job=None, said=None):
    return lock.locked(directory, job or Job(), (said if said is not None else []).append)


def test_a_folder_in_use_is_refused_with_its_owner(tmp_path):
    folder = tmp_path / "run"
    with _hold(folder):
        found = json.loads((folder / "lock.json").read_text())
        assert (found["pid"], found["processes"]) == (os.getpid(), 1)
        said = f"{folder} is in use by a run on {found['host']}, pid {os.getpid()}, since 2"
        for enter in (_hold(folder).__enter__, lambda: lock.check_free(tmp_path)):
            with pytest.raises(ValueError, match=said):
                enter()
        assert json.loads((folder / "lock.json").read_text()) == found, "as it was"
    assert not folder.exists(), "which was made for the lock alone"
    lock.check_free(tmp_path)


def test_train_into_a_folder_in_use_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    with _hold(tmp_path / "run"):
        said = here("train", TINY, f"workdir={tmp_path / 'run'}", expect=2)
        assert said.splitlines()[-1].startswith(
            f"jaxpref: error: workdir={tmp_path / 'run'} is in use by a run on"
        )
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["lock.json"]


def _left(folder, **changes) -> None:
    """The lock of a run that did not end by itself: of a process that is not there any more."""
    code = "import sys; from jaxpref.training import lock; from jaxpref.training.job import Job; "
    code += "import pathlib, os; held = lock.locked(pathlib.Path(sys.argv[1]), Job(), print); "
    code += "held.__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    path = folder / "lock.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    _left(tmp_path)
    said = []
    with _hold(tmp_path, said=said):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert len(said) == 1
    assert "taken over from a run that did not end by itself (pid" in said[0]
    assert not (tmp_path / "lock.json").exists()
    # A later process with its pid is another one.
    _left(tmp_path, pid=os.getpid())
    with _hold(tmp_path, said=said):
        assert len(said) == 2


def test_the_lock_of_another_machine_ends_with_its_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_file, "WATCH", 0.2)
    refused = r"in use by a run on elsewhere, .* last seen alive"
    _left(tmp_path / "fresh", host="elsewhere", alive=time.time() - lock_file.FRESH + 5)
    with pytest.raises(ValueError, match=refused):
        _hold(tmp_path / "fresh").__enter__()

    # By its own clock it lives, whatever ours says; and then it does not any more.
    for behind in (3600, -3600):
        folder = tmp_path / str(behind)
        _left(folder, host="elsewhere", alive=time.time() - behind)
        path = folder / "lock.json"

        def beats(seconds, path=path):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"alive": 5.0}))

        with monkeypatch.context() as patch:
            patch.setattr(lock_file.time, "sleep", beats)
            with pytest.raises(ValueError, match=refused):
                _hold(folder).__enter__()
        said = []
        with _hold(folder, said=said):
            assert "watched for" in said[0]
            assert "no sign of life for" in said[1]


def test_what_is_no_lock_is_not_kept(tmp_path):
    (tmp_path / "lock.json").write_text("{")
    said = []
    with _hold(tmp_path, said=said):
        assert "its lock is damaged" in said[0]


def test_it_is_written_again_while_it_is_held_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    path = tmp_path / "lock.json"
    with _hold(tmp_path):
        first = path.read_text()
        end = time.monotonic() + 10
        while path.read_text() == first and time.monotonic() < end:
            time.sleep(0.01)
        assert path.read_text() != first
    time.sleep(0.1)
    assert not path.exists()


def test_a_run_whose_folder_was_taken_over_meanwhile_ends(tmp_path, monkeypatch, capfd):
    ends, path = [], tmp_path / "lock.json"

    def take_over() -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "another", "host": "b"}))

    with _hold(tmp_path):  # it ends before it has looked
        take_over()
    assert json.loads(path.read_text())["host"] == "b"
    path.unlink()
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with _hold(tmp_path, job=Job(end=ends.append)):
        take_over()
        end = time.monotonic() + 10
        while not ends and time.monotonic() < end:
            time.sleep(0.01)
        assert ends == [2]
    assert json.loads(path.read_text())["host"] == "b", "the lock of the other one stays"
    assert "a run on b, pid" in capfd.readouterr().err


def test_a_store_has_locks_too(tmp_path, monkeypatch):
    """Without append, rename or a way to create what is not there."""
    monkeypatch.setattr(Bucket, "folder", tmp_path, raising=False)
    folder, path = epath.Path("mem://runs/one"), tmp_path / "runs/one/lock.json"
    with _hold(folder):
        assert "token" in json.loads(path.read_text())
        with pytest.raises(ValueError, match="in use by a run on"):
            _hold(folder).__enter__()
    assert not path.exists()

    def another_writes(seconds):
        path.write_text(json.dumps({"token": "another", "host": "b", "pid": 1, "alive": time.time()}))

    monkeypatch.setattr(lock.time, "sleep", another_writes)  # both found nothing, and the other was last
    with pytest.raises(ValueError, match="in use by a run on b"):
        _hold(folder).__enter__()
    assert json.loads(path.read_text())["host"] == "b"


def test_all_processes_see_the_folder_or_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lock._sees, "__defaults__", (0.2,))
    with together(3) as (jobs, _):

        def hold(i, folder):
            with _hold(folder, job=jobs[i]):
                return jobs[i].gather("held", (folder / "lock.json").exists())

        assert each(3, lambda i: hold(i, tmp_path / "shared")) == [[True] * 3] * 3
        said = [str(e) for e in each(3, lambda i: hold(i, tmp_path / ("b" if i == 1 else "a")))]
        assert all("process 1 (host1) does not see what process 0 writes there; give" in x for x in said)
        # The first process's refusal is everyone's.
        with _hold(tmp_path / "a"):
            said = [str(e) for e in each(3, lambda i: hold(i, tmp_path / "a"))]
        assert all("is in use by a run on" in text for text in said)
        assert len(set(said)) == 1
