"""`gke.sh` with a fake xpk, `slurm.sbatch` with a fake Slurm, and gcloud's own grammar for all scripts."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from fake_pod import SCRIPTS, running

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)
GKE = ["--cluster", "c", "--workload", "w", "--accelerator", "v6e-16"]


@pytest.fixture
def pod(tmp_path):
    with running(tmp_path) as pod:
        yield pod


def test_gke_gives_xpk_the_workload(pod):
    command = ["jaxpref", "train", "a file.py", "note=it's"]
    words = [*GKE, "--slices", "2", "--spot", "--env", "A=b", "--extras", "tpu,gcs", "--", *command]
    done = pod("gke", *words, TPU_NAME=None)
    assert done.returncode == 0, done.stderr
    (call,) = pod.calls
    assert call[:3] == ["xpk", "workload", "create"]
    options = dict(word[2:].split("=", 1) for word in call[3:] if "=" in word)
    expected = {"cluster": "c", "workload": "w", "tpu-type": "v6e-16", "num-slices": "2", "env": "A=b"}
    expected |= {"zone": "us-east5-b", "project": "some-project", "base-docker-image": "python:3.12"}
    assert expected.items() <= options.items()
    assert "--spot" in call
    install, _, run = options["command"].partition(" && ")
    assert install == "pip install --quiet -c constraints.txt -e '.[tpu,gcs]'"
    assert shlex.split(run) == ["exec", "env", "JAXPREF_DISTRIBUTED=1", "PYTHONUNBUFFERED=1", *command]


def test_gke_gives_the_image_the_commit(pod):
    """What the fake xpk would build from is gone with the script; so it looks while it is there."""
    xpk = pod.root / "bin" / "xpk"
    xpk.write_text(
        "#!/bin/sh\nfor w; do case $w in --script-dir=*) ls ${w#*=} > $FAKE_ROOT/seen;; esac; done\n"
    )
    done = pod("gke", *GKE, "--", "echo")
    assert done.returncode == 0, done.stderr
    assert {"pyproject.toml", "constraints.txt", "jaxpref"} <= set((pod.root / "seen").read_text().split())
    assert "code.tar" not in (pod.root / "seen").read_text()


def test_gke_takes_an_image_as_it_is(pod):
    assert pod("gke", *GKE, "--image", "i", "--", "jaxpref").returncode == 0
    (call,) = pod.calls
    assert "--docker-image=i" in call
    assert "--command=exec env JAXPREF_DISTRIBUTED=1 PYTHONUNBUFFERED=1 jaxpref" in call
    assert not any("base-docker-image" in word or "pip install" in word for word in call)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (GKE[2:], "no cluster"),
        (["--cluster", "c", "--workload", "W"], "--workload: expected"),
        (GKE[:4], "no accelerator type"),
        (GKE, "no command"),
        ([*GKE, "--env", "a b", "--", "echo"], "--env: expected NAME=VALUE, got 'a b'"),
        ([*GKE, "--extras", "tpu]", "--", "echo"], "--extras: expected names"),
        ([*GKE, "--max-restarts", "-1", "--", "echo"], "--max-restarts: expected a number"),
        ([*GKE, "--", "echo", "a\nb"], "the command has a line break"),
        ([*GKE, "--what", "--", "echo"], "unknown option '--what'"),
    ],
)
def test_gke_names_what_is_wrong(pod, words, message):
    done = pod("gke", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not pod.calls


def test_gke_refuses_the_xpk_of_its_own_environment(pod):
    (pod.root / "bin" / "jaxpref").touch()
    done = pod("gke", *GKE, "--", "echo")
    assert done.returncode == 2
    assert "is in the environment of jaxpref" in done.stderr
    assert not pod.calls
    dry = pod("gke", *GKE, "--", "echo", DRY_RUN="1")
    assert dry.returncode == 0
    assert not pod.calls
    assert "xpk workload create --cluster=c" in dry.stdout


# As sbatch, srun, scancel and scontrol do it: the lines of the file are options, those of the command line
# win; the script runs once, with Slurm's variables; USR1 comes when a task asks for it.
FAKE_SLURM = r"""#!/usr/bin/env python3
import os, pathlib, re, signal, subprocess, sys, time
root, name = pathlib.Path(os.environ["FAKE_ROOT"]), pathlib.Path(sys.argv[0]).name
with open(root / "slurm", "a") as log:
    print(name, file=log)
if name == "sbatch":
    at = next(i for i, word in enumerate(sys.argv) if i and not word.startswith("--"))
    script, lines = sys.argv[at], open(sys.argv[at]).read()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", lines, re.M))
    options |= dict(word[2:].split("=", 1) for word in sys.argv[1:at])
    nodes, tasks = int(options["nodes"]), int(options["ntasks-per-node"])
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS": str(nodes * tasks)}
    environment |= {"SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_GPUS_PER_NODE": options["gpus-per-node"]}
    for count in range(5):
        environment |= {"SLURM_RESTART_COUNT": str(count)} if count else {}
        batch = subprocess.Popen(["bash", script, *sys.argv[at + 1 :]], env=os.environ | environment)
        while batch.poll() is None:
            if (root / "limit").exists():
                (root / "limit").unlink()
                batch.send_signal(getattr(signal, "SIG" + options["signal"].split(":")[1].split("@")[0]))
            time.sleep(0.02)
        if not (root / "requeue").exists():
            sys.exit(batch.returncode)
        (root / "requeue").unlink()
elif name == "srun":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    tasks = [
        subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(i)})
        for i in range(int(os.environ["SLURM_NTASKS"]))
    ]
    (root / "tasks").write_text(" ".join(str(task.pid) for task in tasks))
    sys.exit(max(task.wait() % 256 for task in tasks))
elif name == "scancel":
    for pid in (root / "tasks").read_text().split():
        os.kill(int(pid), signal.SIGTERM)
elif name == "scontrol":
    (root / "requeue").touch()
"""


@pytest.fixture
def sbatch(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun", "scancel", "scontrol"):
        (tmp_path / "bin" / name).write_text(FAKE_SLURM)
        (tmp_path / "bin" / name).chmod(0o755)
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "FAKE_ROOT": str(tmp_path)}

    def submit(*words: str, **environment: str):
        command = [word if word != "FILE" else str(SCRIPTS / "slurm.sbatch") for word in words]
        return subprocess.run(
            ["sbatch", *command],
            env=os.environ | path | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return submit


TWO = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "FILE"]


def slurm_calls(root: pathlib.Path) -> list[str]:
    return (root / "slurm").read_text().split()


def test_slurm_starts_a_process_per_gpu_and_says_how_many(sbatch, tmp_path):
    done = sbatch(*TWO, "sh", "-c", "echo $SLURM_PROCID $JAXPREF_DISTRIBUTED $JAXPREF_EXPECTED_PROCESSES")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 1 2", "1 1 2"]
    assert slurm_calls(tmp_path) == ["sbatch", "srun"]


def test_slurm_goes_back_to_the_queue_at_its_time_limit_once_all_have_saved(sbatch, tmp_path):
    """The first time the limit comes while they train; the second time they are done."""
    task = """
    if [ -e $FAKE_ROOT/saved-$SLURM_PROCID ]; then echo done; exit 0; fi
    trap 'kill $!; sleep 0.$SLURM_PROCID; touch $FAKE_ROOT/saved-$SLURM_PROCID; exit 143' TERM
    touch $FAKE_ROOT/ready-$SLURM_PROCID
    until [ -e $FAKE_ROOT/ready-0 -a -e $FAKE_ROOT/ready-1 -a -e $FAKE_ROOT/tasks ]; do sleep 0.02; done
    [ $SLURM_PROCID = 1 ] || touch $FAKE_ROOT/limit
    sleep 60 >/dev/null & wait
    """
    done = sbatch(*TWO, "bash", "-c", task)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2
    assert slurm_calls(tmp_path) == ["sbatch", "srun", "scancel", "scontrol", "srun"]
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


@pytest.mark.parametrize(("task", "status"), [("exit 3", 3), ("exit 0", 0)])
def test_slurm_ends_with_the_command(sbatch, tmp_path, task, status):
    assert sbatch(*TWO, "sh", "-c", task).returncode == status
    assert slurm_calls(tmp_path) == ["sbatch", "srun"]


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (TWO, {}, "no command"),
        (["--gpus-per-node=h100:4", *TWO[:2], "FILE", "echo"], {}, "1 tasks a node for h100:4 GPUs"),
        ([*TWO, "echo"], {"VENV": "/nowhere"}, "VENV: no bin/activate in '/nowhere'"),
    ],
)
def test_slurm_names_what_is_wrong(sbatch, tmp_path, words, environment, message):
    done = sbatch(*words, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert slurm_calls(tmp_path) == ["sbatch"]


def test_slurm_outside_of_slurm_says_so():
    command = ["bash", str(SCRIPTS / "slurm.sbatch")]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run([*command, "echo"], capture_output=True, text=True, env=clean)
    assert (done.returncode, done.stderr) == (2, "error: not under Slurm; give this file to sbatch\n")
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, env=clean)
    assert helped.returncode == 0
    assert "MAX_REQUEUES" in helped.stdout
    assert "#SBATCH" not in helped.stdout


PRINTED = [
    ["create", "--accelerator", "v6e-16", "--spot"],
    [
        *("create", "--accelerator", "v6e-16", "--reserved", "--queued", "--valid-until", "6h"),
        *("--network", "n", "--subnetwork", "s", "--service-account", "a@b.c", "--internal-ips"),
        *("--data-disk", "projects/p/zones/z/disks/d,read-only"),
    ],
    ["setup"],
    ["run", "--", "echo"],
    ["run", "--stop"],
    ["status", "--queued"],
    ["logs", "--worker", "all"],
    ["profile", "/run"],
    ["profile", "gs://b/run"],
    ["delete"],
    ["keep", "--accelerator", "v5p-64", "--", "echo"],
]


def gcloud_calls(words: list[str]) -> Iterator[list[str]]:
    """The calls among printed commands, without the scripts for the workers."""
    for i, word in enumerate(words):
        if word == "gcloud":
            others = (j for j in range(i + 1, len(words)) if words[j] in ("gcloud", "git", "mkdir"))
            call = words[i : next(others, len(words))]
            yield ["--command=c" if w.startswith("--command=") else w for w in call]


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs the Google Cloud CLI")
def test_gcloud_knows_every_word(pod):
    """Its own parser, without a call to any service; the fake takes everything."""
    commands = set()
    for script, *words in PRINTED:
        for slices in ("1", "2"):
            if slices == "2" and script == "create" and "--queued" not in words:
                continue
            printed = pod(script, *words, SLICES=slices, DRY_RUN="1", SSH_FLAGS="--internal-ip")
            assert printed.returncode == 0, printed.stderr
            for call in gcloud_calls(shlex.split(printed.stdout)):
                # its linter takes the word after a flag for the flag's value
                bare = [word for word in call if word.startswith("--") and "=" not in word]
                commands.add(shlex.join([word for word in call if word not in bare] + bare))
    file = pod.root / "commands.json"
    file.write_text(json.dumps([{"command_string": command} for command in sorted(commands)]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(pod.root / "config")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    results = json.loads(done.stdout)
    assert len(results) == len(commands) > 20
    assert [r["command_string"] for r in results if not r["success"]] == []
