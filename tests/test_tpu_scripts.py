"""The pod scripts against a fake `gcloud` that logs its words and runs worker commands in local folders."""

import itertools
import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import string
import subprocess
import time

import pytest

from jaxpref import config

SCRIPTS = pathlib.Path(__file__).parent.parent / "tpu_scripts"
NAMES = ["create", "setup", "run", "status", "logs", "delete"]
SETTINGS = {"TPU_NAME": "pod", "ZONE": "us-east5-b", "PROJECT": "some-project"}

# argv goes to a JSON-lines log; `ssh --command` runs in the home folder of every addressed worker.
FAKE_GCLOUD = r"""#!/usr/bin/env python3
import json, os, pathlib, shutil, subprocess, sys
root = pathlib.Path(os.environ["FAKE_ROOT"])
with open(root / "calls", "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\n")
failures = root / "failures"
if failures.exists() and (left := int(failures.read_text())):
    failures.write_text(str(left - 1))
    sys.exit("ssh: connection refused")
words = sys.argv[1:]
options = dict(w[2:].split("=", 1) for w in words if w.startswith("--") and "=" in w)
workers = sorted(root.glob("worker*"))
if options.get("worker", "all") != "all":
    workers = [root / f"worker{options['worker']}"]
if "ssh" in words:
    for home in workers:
        environment = {**os.environ, "HOME": str(home)}
        done = subprocess.run(["bash", "-c", options["command"]], cwd=home, env=environment)
        if done.returncode:
            sys.exit(done.returncode)
if "list" in words:
    print((root / "requests").read_text() if (root / "requests").exists() else "", end="")
if words[3:5] == ["queued-resources", "delete"]:
    (root / "requests").unlink(missing_ok=True)
if "scp" in words:
    source, target = words[words.index("scp") + 1 : words.index("scp") + 3]
    for home in workers:
        shutil.copy(source, home / target.split(":", 1)[1])
"""

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)


class Pod:
    """Two workers as folders, and a PATH on which `gcloud` is the fake one."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        for worker in self.workers:
            worker.mkdir(parents=True)
            (worker / "jaxpref-code").mkdir()
        (root / "bin").mkdir()
        (root / "bin" / "gcloud").write_text(FAKE_GCLOUD)
        (root / "bin" / "gcloud").chmod(0o755)
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in (*SETTINGS, "DRY_RUN")},
            **SETTINGS,
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "FAKE_ROOT": str(root),
            "RETRY_PAUSE": "0",
            "YES": "1",
        }

    @property
    def workers(self) -> list[pathlib.Path]:
        return [self.root / "worker0", self.root / "worker1"]

    @property
    def calls(self) -> list[list[str]]:
        log = self.root / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def __call__(self, script: str, *words: str, answer: str = "", **environment: str | None):
        merged = {k: v for k, v in {**self.environment, **environment}.items() if v is not None}
        return subprocess.run(
            [str(SCRIPTS / f"{script}.sh"), *words],
            env=merged,
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def job(self, name: str, patience: float = 10) -> list[str]:
        """The text of a job's file on every worker, once all have it."""
        files = [worker / "jaxpref-job" / name for worker in self.workers]
        deadline = time.monotonic() + patience
        while not all(f.exists() and f.read_text() for f in files) and time.monotonic() < deadline:
            time.sleep(0.02)
        return [f.read_text() for f in files]


@pytest.fixture
def pod(tmp_path):
    pod = Pod(tmp_path)
    yield pod
    if any((worker / "jaxpref-job" / "pid").exists() for worker in pod.workers):
        pod("run", "--stop")


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
    printed = pod("run", *command, DRY_RUN="1", RUN_ID="one").stdout
    assert pod("run", *command, RUN_ID="one").returncode == 0
    words = shlex.split(printed)
    starts = [i for i, word in enumerate(words) if word == "gcloud"] + [len(words)]
    assert [words[a + 1 : b] for a, b in itertools.pairwise(starts)] == pod.calls


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--accelerator", "v5litepod-16"], ["tpu-vm", "--version=v2-alpha-tpuv5-lite"]),
        (["--accelerator", "v5p-8", "--spot"], ["tpu-vm", "--version=v2-alpha-tpuv5", "--spot"]),
        (
            ["--accelerator", "v6e-16", "--queued", "--valid-until", "6h"],
            [
                "queued-resources",
                "--runtime-version=v2-alpha-tpuv6e",
                "--node-id=pod",
                "--valid-until-duration=6h",
            ],
        ),
        (["--accelerator", "v5p-8", "--runtime", "mine"], ["tpu-vm", "--version=mine"]),
        (["--accelerator", "v6e-8", "--reserved"], ["tpu-vm", "--reserved"]),
        (
            [
                *("--accelerator", "v6e-16", "--queued", "--network", "lab", "--subnetwork", "lab-east"),
                *("--service-account", "runner@p.iam.gserviceaccount.com", "--internal-ips"),
                *(
                    "--data-disk",
                    "projects/p/zones/z/disks/a",
                    "--data-disk",
                    "projects/p/zones/z/disks/b,read-only",
                ),
            ],
            [
                "--network=lab",
                "--subnetwork=lab-east",
                "--service-account=runner@p.iam.gserviceaccount.com",
                "--internal-ips",
                "--data-disk=source=projects/p/zones/z/disks/a,mode=read-write",
                "--data-disk=source=projects/p/zones/z/disks/b,mode=read-only",
            ],
        ),
    ],
)
def test_create(pod, words, expected):
    assert pod("create", *words).returncode == 0
    *asked, call = pod.calls
    assert [other[3:5] for other in asked] == [["queued-resources", "list"]] * ("--queued" in words)
    assert set(expected) | {f"--accelerator-type={words[1]}", "create", "pod"} <= set(call)
    assert ("--spot" in call) == ("--spot" in words)


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


def on_a_terminal(pod, script: str, *words: str, answer: str) -> tuple[int, str]:
    """Exit status and output of a script whose input is a terminal."""
    controller, terminal = pty.openpty()
    environment = {k: v for k, v in pod.environment.items() if k != "YES"}
    with subprocess.Popen(
        [str(SCRIPTS / f"{script}.sh"), *words],
        env=environment,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.write(controller, answer.encode())
        output, _ = process.communicate(timeout=60)
    os.close(controller)
    os.close(terminal)
    return process.returncode, output


@pytest.mark.parametrize(
    ("words", "capacity"), [([], "on demand"), (["--spot"], "spot"), (["--reserved"], "reserved")]
)
def test_create_says_what_will_be_billed_and_asks(pod, words, capacity):
    words = ["--accelerator", "v6e-16", *words]
    for answer in ("\n", "n\n", "\x04"):
        status, output = on_a_terminal(pod, "create", *words, answer=answer)
        assert (status, pod.calls) == (2, [])
        for part in ("v6e-16", "'pod' in us-east5-b of project some-project", capacity, "/tpu/pricing"):
            assert part in output
        assert "nothing was created" in output
    assert on_a_terminal(pod, "create", *words, answer="y\n")[0] == 0
    assert len(pod.calls) == 1


def test_create_does_not_ask_where_it_is_told_and_refuses_where_it_cannot(pod):
    words = ["--accelerator", "v6e-16"]
    refused = pod("create", *words, answer="y\n", YES=None)
    assert refused.returncode == 2
    assert "no terminal to ask on; -y or YES=1" in refused.stderr
    assert not pod.calls
    assert "no terminal" in pod("create", *words, answer="y\n", YES="no").stderr
    assert pod("create", *words, "-y", YES=None).returncode == 0
    assert pod("create", *words, YES="1").returncode == 0
    assert len(pod.calls) == 2


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_request_that_has_ended_is_deleted_before_another_one_of_its_name(pod, state):
    (pod.root / "requests").write_text(f"pod-two\tACTIVE\npod\t{state}\n")
    done = pod("create", "--accelerator", "v6e-16", "--queued", "--spot")
    assert done.returncode == 0, done.stderr
    assert f"is {state}: deleting it" in done.stderr
    assert [call[4] for call in pod.calls] == ["list", "delete", "create"]
    assert pod.calls[1][5:7] == ["pod", "--force"]


@pytest.mark.parametrize(
    "state", ["ACTIVE", "WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDING", "DELETING"]
)
def test_a_request_that_has_not_ended_is_left_alone(pod, state):
    (pod.root / "requests").write_text(f"pod\t{state}\n")
    done = pod("create", "--accelerator", "v6e-16", "--queued")
    assert done.returncode == 2
    assert f"there is a request 'pod' already, and it is {state}" in done.stderr
    assert [call[4] for call in pod.calls] == ["list"]


def test_requests_that_cannot_be_asked_for_stop_it(pod):
    (pod.root / "failures").write_text("1")
    done = pod("create", "--accelerator", "v6e-16", "--queued")
    assert done.returncode == 2
    assert "could not ask for the queued requests" in done.stderr
    assert [call[4] for call in pod.calls] == ["list"]


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
    assert all("--worker=all" in call for call in pod.calls)


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
    assert done.stdout.count("already started") == 1
    assert done.stdout.count(": started") == 1


def test_flaky_ssh_is_tried_again_and_then_reported(pod):
    (pod.root / "failures").write_text("2")
    assert pod("run", "--", "echo", "hello").returncode == 0
    assert pod.job("log") == ["hello\n"] * 2
    (pod.root / "failures").write_text("99")
    done = pod("run", "--", "echo", "again", RETRIES="3")
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
    assert [call[4] for call in pod.calls] == ["scp", "ssh"] * 2


def test_logs_follow_one_worker_or_print_all(pod):
    pod("run", "--", "seq", "5")
    pod.job("status")
    done = pod("logs", "--worker", "all", "--lines", "2")
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["4", "5"] * 2
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
