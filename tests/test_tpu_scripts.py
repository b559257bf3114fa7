"""The pod scripts against a fake `gcloud` that logs its words and runs worker commands in local folders."""

import itertools
import os
import re
import shlex
import shutil
import string
import subprocess

import pytest
from fake_pod import SCRIPTS, running

from jaxpref import config

NAMES = ["create", "setup", "run", "status", "logs", "delete"]


pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)


@pytest.fixture
def pod(tmp_path):
    with running(tmp_path) as pod:
        yield pod


def arguments(script: str) -> list[str]:
    return {"create": ["--accelerator", "v6e-16"], "run": ["--", "echo", "hello"]}.get(script, [])


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
        ("setup", ["--extras", "tpu]; rm"], "--extras: expected names"),
        ("run", [], "no command"),
        ("run", ["--env"], "--env needs a value"),
        ("run", ["--env", "no-equals", "--", "echo"], "--env: expected NAME=VALUE"),
        ("run", ["--wrong", "--", "echo"], "unknown option '--wrong'"),
        ("logs", ["--worker", "first"], "--worker: expected a number"),
        ("delete", ["pod"], "unknown option 'pod'"),
    ],
)
def test_wrong_arguments_stop_before_any_call(pod, script, words, message):
    done = pod(script, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not pod.calls


def test_the_lines_of_the_readme_run(pod):
    """Each as it stands there, on the fake pod; what is trained is an experiment with its tokenizer, whose
    extra is installed."""
    text = (SCRIPTS / "README.md").read_text()
    block = text.split("```bash\n")[1].split("```")[0]
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=SCRIPTS.parent,
        env=pod.environment | {"DRY_RUN": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not pod.calls
    (install,) = re.findall(r"pip install .* -e '\\''\.\[(.*?)\]", done.stdout)
    (command,) = re.findall(r"tpu_scripts/run.sh -- (jaxpref train .*)", block)
    settings = dict(re.findall(r"(\w+)=(\S+)", block.splitlines()[0]))
    words = shlex.split(string.Template(command).substitute(settings))
    experiment = config.load(words[2], [w for w in words[3:] if not w.startswith("workdir=")])
    functions = {f.__name__ for f in config.functions(experiment.tokenizer)}
    assert functions == {"gguf_tokenizer"}
    assert {"tpu", "gguf"} == set(install.split(","))
    assert f"workdir={settings['BUCKET']}" in done.stdout


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
    files = sorted(str(file) for file in SCRIPTS.glob("*.sh"))
    done = subprocess.run(["shellcheck", "-x", *files], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0
