"""`run.sh` on the fake pod: the same command on all workers or on none, and how it ends."""

import pathlib
import shutil
import time

import pytest
from fake_pod import running

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)


@pytest.fixture
def pod(tmp_path):
    with running(tmp_path) as pod:
        yield pod


def test_run_gives_every_worker_the_same_command_with_its_quoting(pod):
    printer = "import os, sys; print(sys.argv[1:], os.environ['NOTE'])"
    awkward = ["two words", "it's", '"$HOME" `date` $(date)', "line\nbreak", "*", ""]
    done = pod("run", "--env", "NOTE=it's $5", "--", "python3", "-c", printer, *awkward)
    assert done.returncode == 0, done.stderr
    assert pod.job("status") == ["0\n", "0\n"]
    assert pod.job("log") == [f"{awkward} it's $5\n"] * 2
    assert pod.job("command")[0].startswith("python3 -c ")
    assert [call[4] for call in pod.calls] == ["describe", "ssh", "ssh"]
    assert all("--worker=all" in call for call in pod.calls[1:])


def test_run_refuses_a_second_command_until_the_first_is_stopped(pod):
    assert pod("run", "--", "sleep", "60").returncode == 0
    second = pod("run", "--", "echo", "second")
    assert second.returncode == 2
    assert "still running" in second.stderr
    assert "sleep 60" in second.stderr
    assert "running" in pod("status").stdout

    assert pod("run", "--stop").returncode == 0
    assert pod.job("status") == ["143\n", "143\n"]
    assert "exited with 143" in pod("status").stdout
    assert pod("run", "--", "echo", "second").returncode == 0
    assert pod.job("log") == ["second\n"] * 2
    assert all(len(list((worker / "jaxpref-job" / "old").iterdir())) == 1 for worker in pod.workers)


def test_run_started_twice_under_one_id_starts_once(pod):
    """What a retry does to the workers that the first attempt did reach."""
    (pod.workers[0] / "jaxpref-job").mkdir()
    (pod.workers[0] / "jaxpref-job" / "id").write_text("same\n")
    done = pod("run", "--", "echo", "hello", RUN_ID="same")
    assert done.stdout.count("started already") == 1
    assert done.stdout.count(": started\n") == 1


def test_flaky_ssh_is_tried_again_and_then_reported(pod):
    (pod.root / "failures").write_text("2")
    assert pod("run", "--workers", "2", "--", "echo", "hello").returncode == 0
    assert pod.job("log") == ["hello\n"] * 2
    (pod.root / "failures").write_text("99")
    done = pod("run", "--workers", "2", "--", "echo", "again", RETRIES="3")
    assert done.returncode == 2
    assert "nothing was started" in done.stderr
    assert int((pod.root / "failures").read_text()) == 96


def test_the_command_is_told_how_many_workers_there_are(pod):
    assert (
        pod("run", "--", "sh", "-c", "echo $JAXPREF_DISTRIBUTED $JAXPREF_EXPECTED_PROCESSES").returncode == 0
    )
    assert pod.job("log") == ["1 2\n"] * 2


def alive(pid: int) -> bool:
    """Neither gone nor waiting for its parent to notice."""
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("calls", [1, 2])
def test_a_command_that_reaches_one_worker_of_four_runs_on_none(tmp_path, calls):
    """gcloud ends with status 0 where it could not prepare some nodes. They do not even say whether they are
    busy, so nothing starts; or they are lost after that, and what did start is stopped."""
    with running(tmp_path, workers=4) as pod:
        (pod.root / "deaf").write_text("".join(f"worker{i} {calls}\n" for i in (0, 1, 3)))
        done = pod("run", "--", "sleep", "60")
        assert done.returncode == 2
        started = [w.name for w in pod.workers if (w / "jaxpref-job" / "pid").exists()]
        if calls == 1:
            assert "1 of 4 workers answered; nothing was started" in done.stderr
            assert started == []
        else:
            assert "started on 1 of 4 workers; not on: worker0 worker1 worker3." in done.stderr
            assert "those that did start were stopped" in done.stderr
            assert started == ["worker2"]
            pid = int((pod.workers[2] / "jaxpref-job" / "pid").read_text())
            deadline = time.monotonic() + 5
            while alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not alive(pid)


@pytest.mark.parametrize("state", ["CREATING", "PREEMPTED", "STOPPED"])
def test_a_pod_that_is_not_ready_gets_no_command(pod, state):
    (pod.root / "state").write_text(state)
    done = pod("run", "--", "echo")
    assert done.returncode == 2
    assert f"'pod' is {state}" in done.stderr
    assert "nothing was started" in done.stderr
    assert pod.verbs == ["describe"]


def test_a_pod_of_two_slices_runs_on_both(pod):
    alone = pod("run", "--", "echo", FAKE_SLICES="2")
    assert alone.returncode == 2
    assert "a pod of several slices needs SLICES (now 1)" in alone.stderr
    done = pod("run", "--", "sh", "-c", "echo $JAXPREF_EXPECTED_PROCESSES", FAKE_SLICES="2", SLICES="2")
    assert done.returncode == 0, done.stderr
    assert pod.job("log") == ["2\n"] * 2


def test_hours_that_are_over_end_the_command_and_say_so(pod):
    """SIGTERM first, so that it can save."""
    saves = "trap 'echo saved; exit 143' TERM; sleep 60 & wait"
    assert pod("run", "--max-hours", "0.0003", "--", "bash", "-c", saves).returncode == 0
    assert pod.job("status") == ["124\n", "124\n"]
    assert pod.job("log") == ["saved\n"] * 2
    assert pod("status").stdout.count("its --max-hours were over") == 2
