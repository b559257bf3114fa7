"""`keep.sh` on the fake pod: what takes a pod away, what ends a command, and what each costs."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from fake_pod import SCRIPTS, Pod, on_a_terminal, running

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)
KEEP = ["--accelerator", "v6e-16", "--poll", "0.05"]


@pytest.fixture
def pod(tmp_path):
    """One worker; and what setup.sh does, which has its own test, takes no time."""
    with running(tmp_path / "pod", workers=1) as pod:
        pod.scripts = tmp_path / "tpu_scripts"
        shutil.copytree(SCRIPTS, pod.scripts)
        (pod.scripts / "setup.sh").write_text("#!/bin/sh\necho set up >> $FAKE_ROOT/setups\n")
        yield pod


def setups(pod: Pod) -> int:
    return (pod.root / "setups").read_text().count("set up")


def taken_once(how: str) -> list[str]:
    """A command that loses its pod the first time, and is done the second."""
    first = f"test ! -e $FAKE_ROOT/seen && touch $FAKE_ROOT/seen && {{ {how}; sleep 60; }}"
    return ["--", "bash", "-c", f"{first}; true"]


@pytest.mark.parametrize(
    "how",
    [
        r"printf 'pod\tSUSPENDED\n' > $FAKE_ROOT/requests",
        pytest.param("echo PREEMPTED > $FAKE_ROOT/state", marks=pytest.mark.exhaustive),
        pytest.param(r"printf 'pod\tFAILED\n' > $FAKE_ROOT/requests", marks=pytest.mark.exhaustive),
    ],
)
def test_a_pod_that_is_taken_away_is_made_anew_and_the_command_started_again(pod, how):
    done = pod("keep", *KEEP, *taken_once(how))
    assert done.returncode == 0, done.stderr
    assert "the command has exited 0" in done.stderr
    assert pod.verbs.count("create") == setups(pod) == pod.verbs.count("delete") == 2
    creations = [call for call in pod.calls if call[4] == "create"]
    assert creations[0] == creations[1]
    assert {"--spot", "--accelerator-type=v6e-16"} <= set(creations[0])
    assert pod.verbs[-1] == "delete"


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_a_command_that_fails_the_same_way_ends_it_and_the_pod(pod, times):
    done = pod("keep", *KEEP, "--max-failures", str(times), "--", "sh", "-c", "echo the reason; exit 7")
    assert done.returncode == 1
    assert f"giving up: the command failed: exited 7, {times} times" in done.stderr
    assert done.stderr.count("; 'tpu_scripts/logs.sh --worker all' shows them") == times
    assert "worker0: the reason" in done.stdout
    assert (pod.verbs.count("create"), pod.verbs[-1]) == (1, "delete")


@pytest.mark.exhaustive
def test_failures_of_different_kinds_are_counted_apart(pod):
    script = "echo >> $FAKE_ROOT/runs; n=$(wc -l < $FAKE_ROOT/runs); exit $((n < 3 ? 4 + n : 0))"
    done = pod("keep", *KEEP, "--max-failures", "2", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "exited 5 (1 of 2)" in done.stderr
    assert "exited 6 (1 of 2)" in done.stderr


@pytest.mark.exhaustive
def test_sigterm_is_no_failure(pod):
    """jaxpref saves and leaves; what sent it (maintenance) may leave the pod as it is."""
    first = "test ! -e $FAKE_ROOT/seen && touch $FAKE_ROOT/seen && kill -TERM 0"
    done = pod("keep", *KEEP, "--max-failures", "1", "--", "bash", "-c", f"trap : TERM; {first}; true")
    assert done.returncode == 0, done.stderr
    assert "SIGTERM ended it, and the pod is still there" in done.stderr
    assert pod.verbs.count("create") == 1


def test_hours_that_are_over_stop_the_command_and_delete_the_pod(pod):
    saves = "trap 'touch $FAKE_ROOT/saved; exit 143' TERM; sleep 60 & wait"
    done = pod("keep", *KEEP, "--leave", "--max-hours", "0.0006", "--", "bash", "-c", saves)
    assert done.returncode == 124
    assert "the 0.0006 hours are over" in done.stderr
    assert (pod.root / "saved").exists()
    assert pod.verbs[-1] == "delete"


def test_hours_are_counted_over_all_pods(pod):
    """Each takes 50 minutes by the clock; 80 are over in the second, whose command would be done soon."""
    clock = pod.root / "bin" / "date"
    clock.write_text('#!/bin/sh\ntest "$1" = +%s && exec cat $FAKE_ROOT/clock\nexec /bin/date "$@"\n')
    clock.chmod(0o755)
    (pod.root / "clock").write_text("1000")
    lost = r"printf 'pod\tSUSPENDED\n' > $FAKE_ROOT/requests; sleep 60"
    passes = "echo $(($(cat $FAKE_ROOT/clock) + 3000)) > $FAKE_ROOT/clock"
    first = f"if ! test -e $FAKE_ROOT/seen; then touch $FAKE_ROOT/seen; {passes}; {lost}; fi"
    done = pod("keep", *KEEP, "--max-hours", "1.34", "--", "bash", "-c", f"{first}; {passes}; sleep 20")
    assert done.returncode == 124, done.stderr
    assert pod.verbs.count("create") == 2
    assert "1.7 hours of 'pod' in all" in done.stderr


def test_ctrl_c_says_what_still_costs_and_the_same_line_takes_over(pod):
    command = [str(pod.scripts / "keep.sh"), *KEEP, "--leave", "--", "bash", "-c"]
    command.append("until test -e $FAKE_ROOT/enough; do sleep 0.05; done")
    with subprocess.Popen(
        command, env=pod.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as keeper:
        deadline = time.monotonic() + 30
        while not (pod.workers[0] / "jaxpref-job" / "id").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(keeper.pid, signal.SIGINT)
        _, said = keeper.communicate(timeout=30)
    assert keeper.returncode == 130
    assert "'pod' is there and costs until 'tpu_scripts/delete.sh --queued'; its command goes on" in said
    (pod.root / "enough").touch()
    again = pod("keep", *command[1:])
    assert again.returncode == 0, again.stderr
    assert "the pod 'pod' stays and costs until" in again.stderr
    assert (pod.verbs.count("create"), setups(pod), pod.verbs.count("delete")) == (1, 1, 0)


@pytest.mark.exhaustive
def test_another_command_on_the_pod_is_left_alone(pod):
    (pod.root / "requests").write_text("pod\tACTIVE\n")
    assert pod("run", "--", "sleep", "60").returncode == 0
    done = pod("keep", *KEEP, "--", "echo")
    assert done.returncode == 2
    assert "another command runs on 'pod'" in done.stderr
    assert "delete" not in pod.verbs


@pytest.mark.exhaustive
def test_a_worker_that_does_not_answer_is_waited_for_and_then_the_pod_replaced(pod):
    (pod.root / "requests").write_text("pod\tACTIVE\n")
    (pod.root / "deaf").write_text("worker0 1\n")
    lifts = ["--env", "X=", "--", "true"]
    with subprocess.Popen(
        [str(pod.scripts / "keep.sh"), *KEEP, *lifts], env=pod.environment, stderr=subprocess.PIPE, text=True
    ) as keeper:
        deadline = time.monotonic() + 60
        while "delete" not in pod.verbs and time.monotonic() < deadline:
            time.sleep(0.05)
        (pod.root / "deaf").unlink()
        _, said = keeper.communicate(timeout=60)
    assert keeper.returncode == 0, said
    assert "0 of 1 workers answer (10 of 10)" in said
    assert pod.verbs.count("create") == 1


def test_it_asks_before_anything_is_created(pod):
    status, output = on_a_terminal(pod, "keep", *KEEP, "--max-hours", "3", "--", "echo", answer="n\n")
    assert (status, pod.calls) == (2, [])
    for part in ("'pod' in us-east5-b", "--spot", "for at most 3 hours in all", "nothing was created"):
        assert part in output
    assert "no terminal" in pod("keep", *KEEP, "--", "echo", YES=None).stderr
    assert not pod.calls
