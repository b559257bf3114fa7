"""The pod scripts against a fake `gcloud` that logs its words and runs worker commands in local folders."""

import itertools
import os
import re
import shlex
import shutil
import signal
import string
import subprocess

import pytest
from fake_pod import SCRIPTS, running

from jaxpref import config

NAMES = ["create", "setup", "run", "status", "logs", "delete", "keep", "profile"]


pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)


@pytest.fixture
def pod(tmp_path):
    with running(tmp_path) as pod:
        yield pod


def arguments(script: str) -> list[str]:
    accelerator, command = ["--accelerator", "v6e-16"], ["--", "echo", "hello"]
    needed = {"create": accelerator, "run": command, "keep": accelerator + command, "profile": ["/mnt/run"]}
    return needed.get(script, [])


@pytest.mark.parametrize("script", NAMES)
def test_help_names_the_settings(pod, script):
    done = pod(script, "--help", TPU_NAME=None, ZONE=None, PROJECT=None)
    assert done.returncode == 0
    assert "TPU_NAME ZONE PROJECT" in done.stdout
    assert "DRY_RUN=1" in done.stdout
    assert "set -euo" not in done.stdout


@pytest.mark.parametrize("script", NAMES)
def test_missing_settings_are_named(pod, script):
    done = pod(script, *arguments(script), ZONE=None, PROJECT="")
    assert done.returncode == 2
    assert "ZONE PROJECT not set" in done.stderr
    assert not pod.calls


@pytest.mark.parametrize("script", NAMES)
def test_missing_gcloud_is_an_error(pod, script, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "git", "awk"):
        (tools / tool).symlink_to(shutil.which(tool))
    done = pod(script, *arguments(script), PATH=str(tools))
    assert done.returncode == 2
    assert "gcloud is not on PATH" in done.stderr


@pytest.mark.parametrize("script", NAMES)
def test_dry_run_prints_and_runs_nothing(pod, script):
    done = pod(script, *arguments(script), DRY_RUN="1")
    assert done.returncode == 0
    assert not pod.calls
    words = shlex.split(done.stdout)
    assert words.count("gcloud") >= 1
    assert words.count("--zone=us-east5-b") == words.count("--project=some-project") == words.count("gcloud")


def test_dry_run_output_is_what_a_real_run_executes(pod):
    command = ["--env", "NOTE=it's", "--", "echo", "two words", 'a "quoted" $HOME', "line\nbreak"]
    command = ["--workers", "2", *command]
    printed = pod("run", *command, DRY_RUN="1", RUN_ID="one").stdout
    assert pod("run", *command, RUN_ID="one").returncode == 0
    words = shlex.split(printed)
    starts = [i for i, word in enumerate(words) if word == "gcloud"] + [len(words)]
    assert [words[a + 1 : b] for a, b in itertools.pairwise(starts)] == pod.calls


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("create", [], "no accelerator type"),
        ("create", ["--accelerator"], "--accelerator needs a value"),
        ("create", ["--accelerator", "v9-8"], "no default runtime"),
        ("create", ["--accelerator", "v6e-8", "--valid-until", "6h"], "only goes with --queued"),
        ("create", ["--accelerator", "v6e-8", "--spot", "--reserved"], "exclude one another"),
        (
            "create",
            ["--accelerator", "v6e-8", "--data-disk", "mine"],
            "expected projects/P/zones/Z/disks/NAME",
        ),
        ("create", ["--accelerator", "v6e-8", "--data-disk", "projects/p/zones/z/disks/d,rw"], "got 'rw'"),
        ("create", ["--accelerator", "v6e-8", "--slices", "2"], "--slices only goes with --queued"),
        ("create", ["--accelerator", "v6e-8", "--queued", "--slices", "two"], "got 'two'"),
        ("setup", ["--extras", "tpu]; rm"], "--extras: expected names"),
        ("run", [], "no command"),
        ("run", ["--env"], "--env needs a value"),
        ("run", ["--env", "no-equals", "--", "echo"], "--env: expected NAME=VALUE"),
        ("run", ["--wrong", "--", "echo"], "unknown option '--wrong'"),
        ("run", ["--max-hours", "soon", "--", "echo"], "--max-hours: expected hours"),
        ("run", ["--max-hours", "0.0", "--", "echo"], "--max-hours: expected hours"),
        ("run", ["--workers", "0", "--", "echo"], "--workers: expected how many"),
        ("logs", ["--worker", "first"], "--worker: expected a number"),
        ("logs", ["--slice", "1"], "--slice: expected 0 to 0, got '1'"),
        ("profile", [], "no WORKDIR"),
        ("profile", ["/mnt/a run"], "expected a path of letters"),
        ("profile", ["/mnt/a", "/mnt/b"], "expected one WORKDIR"),
        ("keep", ["--accelerator", "v6e-16"], "no command"),
        ("keep", ["--", "echo"], "no accelerator type"),
        (
            "keep",
            ["--accelerator", "v6e-16", "--max-failures", "0", "--", "echo"],
            "--max-failures: expected",
        ),
        ("keep", ["--accelerator", "v6e-16", "--poll", "1m", "--", "echo"], "--poll: expected seconds"),
        ("delete", ["pod"], "unknown option 'pod'"),
    ],
)
def test_wrong_arguments_stop_before_any_call(pod, script, words, message):
    done = pod(script, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not pod.calls


SEQUENCES = re.findall(r"```bash\n(.*?)```", (SCRIPTS / "README.md").read_text(), re.DOTALL)


def dry(pod, lines: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", lines],
        cwd=SCRIPTS.parent,
        env=pod.environment | {"DRY_RUN": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not pod.calls
    return done.stdout


@pytest.mark.parametrize("sequence", SEQUENCES[1:], ids=["v5e", "keep", "slices", "gke", "gpu", "slurm"])
def test_the_sequences_of_the_readme_run(pod, sequence):
    """Each as it stands there, with the settings of the first; what is no script is a fake."""
    for name in ("jaxpref", "sbatch"):
        (pod.root / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (pod.root / "bin" / name).chmod(0o755)
    assert sequence.startswith("jaxpref plan FILE --topology ")
    printed = dry(pod, SEQUENCES[0].splitlines()[0] + "\n" + sequence)
    assert "jaxpref train FILE" in printed
    if "SLICES" in sequence:
        assert printed.count("--node-count=2 --node-prefix=my-pod") == 1


def test_the_first_sequence_of_the_readme_trains_what_it_installs(pod):
    block = SEQUENCES[0]
    printed = dry(pod, block)
    (install,) = re.findall(r"pip install .* -e '\\''\.\[(.*?)\]", printed)
    (command,) = re.findall(r"tpu_scripts/run.sh .*-- (jaxpref train .*)", block)
    settings = dict(re.findall(r"(\w+)=(\S+)", block.splitlines()[0]))
    words = shlex.split(string.Template(command).substitute(settings))
    experiment = config.load(words[2], [w for w in words[3:] if not w.startswith("workdir=")])
    functions = {f.__name__ for f in config.functions(experiment.tokenizer)}
    assert functions == {"gguf_tokenizer"}
    assert {"tpu", "gguf"} == set(install.split(","))
    assert f"workdir={settings['BUCKET']}" in printed


def test_setup_copies_the_commit_to_all_workers(pod):
    """Python itself is faked on the workers: what is tested is the copy, and that it may be repeated."""
    if subprocess.run(["git", "-C", str(SCRIPTS), "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("not a git checkout")
    for worker in pod.workers:
        tools = worker / "jaxpref-venv" / "bin"
        tools.mkdir(parents=True)
        for tool in ("pip", "python"):
            (tools / tool).write_text('#!/bin/sh\necho "$PWD $0 $@" >> "$HOME/tools.log"\n')
            (tools / tool).chmod(0o755)
    for _ in range(2):
        done = pod("setup", "--extras", "tpu,hf")
        assert done.returncode == 0, done.stderr
    for worker in pod.workers:
        assert (worker / "jaxpref-code" / "pyproject.toml").is_file()
        assert (worker / "tools.log").read_text().count(
            "install --quiet -c constraints.txt -e .[tpu,hf]"
        ) == 2
        assert not list(worker.glob("*.tar.gz"))
    assert [call[4] for call in pod.calls] == ["scp", "ssh", "describe"] * 2


def test_logs_follow_one_worker_or_print_all(pod):
    pod("run", "--", "seq", "5")
    pod.job("status")
    done = pod("logs", "--worker", "all", "--lines", "2", "--no-follow")
    assert sorted(done.stdout.splitlines()) == [f"worker{w}: {n}" for w in (0, 1) for n in (4, 5)]
    printed = pod("logs", "--worker", "1", DRY_RUN="1").stdout
    assert "--worker=1" in printed
    assert "tail -n 100 -F" in printed


def test_logs_of_all_workers_follow_side_by_side(pod):
    """The second line of each comes after the first of both: no worker waits for the end of another."""
    both = (
        'echo first; until [ "$(cat $FAKE_ROOT/worker*/jaxpref-job/log | wc -l)" = 2 ]; do sleep 0.1; done; '
    )
    pod("run", "--", "bash", "-c", both + "sleep 0.5; echo second")
    command = ["timeout", "20", str(SCRIPTS / "logs.sh"), "--worker", "all"]
    with subprocess.Popen(
        command, env=pod.environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as follower:
        assert follower.stdout
        try:
            lines = [follower.stdout.readline().strip() for _ in range(4)]
        finally:
            os.killpg(follower.pid, signal.SIGKILL)
    assert sorted(lines) == [f"worker{w}: {word}" for w in (0, 1) for word in ("first", "second")]


@pytest.mark.parametrize("script", NAMES)
def test_several_slices_are_all_addressed(pod, script):
    """Through their queued request, or each by its name; never the one node that a pod of one slice is."""
    words = arguments(script) + (["--queued"] if script in ("create", "status") else [])
    done = pod(script, *words, SLICES="2", DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    calls = done.stdout.split("gcloud ")[1:]
    assert not any(re.search(r"tpu-vm \w+ pod[ :]", call) for call in calls)
    alone = script == "logs"  # one worker, of the first slice
    for call in calls:
        if "ssh" in call or "queued-resources scp" in call:
            assert ("--node=0" if alone else "--node=all --worker=all") in call
    if script in ("create", "keep"):
        assert any("--node-count=2 --node-prefix=pod" in call for call in calls)
    elif script in ("status", "run", "profile"):
        assert {"pod-0", "pod-1"} <= set(re.findall(r"tpu-vm (?:describe|scp) (pod-\d)", done.stdout))


def test_profiles_of_all_workers_come_into_one_folder(pod, tmp_path):
    """A relative workdir is one of the folder where run.sh runs."""
    for number, worker in enumerate(pod.workers):
        trace = worker / "jaxpref-code" / "run" / "profile" / "dpo-100" / f"process-{number}"
        trace.mkdir(parents=True)
        (trace / "trace").write_text(str(number))
    into = tmp_path / "into"
    done = pod("profile", "run", "--into", str(into))
    assert done.returncode == 0, done.stderr
    found = sorted(str(path.relative_to(into)) for path in into.rglob("trace"))
    assert found == [f"profile/dpo-100/process-{n}/trace" for n in (0, 1)]
    assert f"xprof --logdir {into}/profile/STAGE-FIRST/process-0" in done.stderr
    assert " pod:/mnt/run/profile ." in pod("profile", "/mnt/run", DRY_RUN="1").stdout


def test_a_worker_without_traces_is_named(pod, tmp_path):
    (pod.workers[0] / "jaxpref-code" / "run" / "profile").mkdir(parents=True)
    done = pod("profile", "run", "--into", str(tmp_path / "into"), RETRIES="1")
    assert done.returncode == 2
    assert "nothing from worker 1 of pod" in done.stderr
    assert "1 of 2 workers had traces in jaxpref-code/run/profile" in done.stderr


def test_profiles_in_a_bucket_need_no_pod(pod, tmp_path):
    done = pod("profile", "gs://b/run/", "--into", str(tmp_path), TPU_NAME=None, ZONE=None)
    assert done.returncode == 0, done.stderr
    assert pod.calls == [["storage", "rsync", "--recursive", "gs://b/run/profile", f"{tmp_path}/profile"]]


def test_delete_asks_unless_told_not_to(pod):
    refused = pod("delete", answer="y\n")
    assert refused.returncode == 2
    assert "not deleted" in refused.stderr
    assert not pod.calls
    assert pod("delete", answer="pod\n").returncode == 0
    assert pod("delete", "--yes", "--queued").returncode == 0
    assert [call[3:6] for call in pod.calls] == [
        ["tpu-vm", "delete", "pod"],
        ["queued-resources", "delete", "pod"],
    ]
    assert "--force" in pod.calls[1]


@pytest.mark.skipif(
    shutil.which("shellcheck") is None and not os.environ.get("CI"), reason="shellcheck is not on PATH"
)
def test_shellcheck_is_silent():
    files = [*sorted(str(file) for file in SCRIPTS.glob("*.sh")), str(SCRIPTS / "slurm.sbatch")]
    done = subprocess.run(["shellcheck", "-x", *files], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0
