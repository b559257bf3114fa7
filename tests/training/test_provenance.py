"""When, from which commit and on what a run was started stands in experiment.json, once for each session."""

import datetime
import json
import subprocess

import pytest
from launch import TINY, here

from jaxpref.report.runs import read_run
from jaxpref.report.sources import facts
from jaxpref.training import provenance
from jaxpref.training.provenance import commit_of, session


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """One commit of two files."""
    git(tmp_path, "init", "-q")
    for name in ("experiment.py", "other.py"):
        (tmp_path / name).write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_the_commit_is_that_of_the_files_repository_and_changes_are_marked(repository):
    commit, file = git(repository, "rev-parse", "HEAD"), repository / "experiment.py"
    assert commit_of(file) == (commit, False)
    (repository / "notes.txt").write_text("not tracked, and not the experiment")
    assert commit_of(file) == (commit, False)
    (repository / "new.py").write_text("")
    assert commit_of(repository / "new.py") == (commit, True), "the commit does not hold this file"
    (repository / "other.py").write_text("x = 2\n")
    assert commit_of(file) == (commit, True), "it may import what was changed"


def test_an_installed_package_is_not_of_the_checkout_that_its_environment_lies_in(repository):
    installed = repository / "venv" / "package.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert provenance._tracked_at(installed) is None
    assert provenance._tracked_at(repository / "other.py") == git(repository, "rev-parse", "HEAD")


def test_without_a_repository_or_git_there_is_no_commit(tmp_path, monkeypatch):
    assert commit_of(tmp_path / "experiment.py") == (None, False)
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path / "experiment.py") == (None, False)
    assert session(None)["commit"] is None


def test_what_git_cannot_tell_is_not_said_to_be_committed(repository, monkeypatch):
    real = provenance._git
    monkeypatch.setattr(provenance, "_git", lambda *a: None if a[1] == "status" else real(*a))
    assert commit_of(repository / "experiment.py") == (git(repository, "rev-parse", "HEAD"), True)


def test_each_start_of_a_run_is_a_session(tmp_path):
    workdir = tmp_path / "run"
    for _ in range(2):
        here("train", TINY, f"workdir={workdir}", "steps=2", "evaluators=False", "--no-report")
    recorded = json.loads((workdir / "experiment.json").read_text())
    assert len(recorded["sessions"]) == 2
    for entry in recorded["sessions"]:
        began = datetime.datetime.fromisoformat(entry["started"])
        assert abs(datetime.datetime.now(datetime.UTC) - began) < datetime.timedelta(hours=1)
        assert entry["device"].endswith("x cpu")
        assert entry["host_cpu"]
        assert entry["host_cores"] > 0
    said = " ".join(facts([read_run(workdir)]))
    assert f"{recorded['sessions'][0]['started'][:10]} " in said
    assert recorded["sessions"][0]["host_cpu"] in said
