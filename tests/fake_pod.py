"""Fakes of `gcloud` and `xpk` that log their words; the first runs worker commands in local folders."""

import contextlib
import json
import os
import pathlib
import pty
import subprocess
import time
from collections.abc import Iterator

SCRIPTS = pathlib.Path(__file__).parent.parent / "tpu_scripts"
SETTINGS = {"TPU_NAME": "pod", "ZONE": "us-east5-b", "PROJECT": "some-project"}

# argv goes to a JSON-lines log; `ssh --command` runs in the home folder of every addressed worker, of all at
# once. Files in the root say how it differs from a healthy pod: `failures` (calls that fail from now on),
# `requests` (what `list` prints), `state` (of the nodes), `deaf` (a line "worker1 2": it is passed over
# without an error from the second call on, as gcloud does where it cannot prepare one of several nodes).
FAKE_GCLOUD = r"""#!/usr/bin/env python3
import json, os, pathlib, shutil, subprocess, sys
root = pathlib.Path(os.environ["FAKE_ROOT"])
words = sys.argv[1:]
options = dict(w[2:].split("=", 1) for w in words if w.startswith("--") and "=" in w)
slices = int(os.environ.get("FAKE_SLICES", "1"))
everyone = sorted(root.glob("worker*"))
per_slice = len(everyone) // slices
names = ["pod"] if slices == 1 else [f"pod-{i}" for i in range(slices)]
nodes = {name: everyone[i * per_slice : (i + 1) * per_slice] for i, name in enumerate(names)}
with open(root / "calls", "a") as log:
    log.write(json.dumps(words) + "\n")


def text(name, default=""):
    return (root / name).read_text() if (root / name).exists() else default


if left := int(text("failures", "0")):
    (root / "failures").write_text(str(left - 1))
    sys.exit("ssh: connection refused")
kind, verb = words[3:5] if words[:3] == ["--quiet", "compute", "tpus"] else (None, words[1])


def addressed():
    if kind == "tpu-vm":
        name = next(w for w in words[5:] if w.split(":")[0] in (*nodes, "pod")).split(":")[0]
        if name not in nodes:
            sys.exit(f"{name} NOT_FOUND")
        chosen = [nodes[name]]
    else:
        chosen = list(nodes.values())
        chosen = chosen if options["node"] == "all" else [chosen[int(options["node"])]]
    if options["worker"] != "all":
        chosen = [[node[int(options["worker"])]] for node in chosen]
    deaf = dict(line.split() for line in text("deaf").splitlines())
    (root / "deaf").write_text("".join(f"{name} {int(calls) - 1}\n" for name, calls in deaf.items()))
    heard = [home for node in chosen for home in node if int(deaf.get(home.name, 2)) > 1]
    return heard


def end_pod():
    for home in everyone:
        if (home / "jaxpref-job" / "pid").exists():
            subprocess.run(["bash", "-c", f"kill -KILL -- -$(cat {home}/jaxpref-job/pid) 2>/dev/null"])
        shutil.rmtree(home / "jaxpref-job", ignore_errors=True)
    (root / "requests").unlink(missing_ok=True)
    (root / "state").unlink(missing_ok=True)


if verb == "ssh":
    started = [
        subprocess.Popen(["bash", "-c", options["command"]], cwd=home, env={**os.environ, "HOME": str(home)})
        for home in addressed()
    ]
    if failed := [p.returncode for p in started if p.wait()]:
        sys.exit(failed[0])
elif verb == "scp":
    source, target = (w for w in words[5:] if not w.startswith("--"))
    for home in addressed():
        if ":" in target:
            shutil.copy(source, home / target.split(":", 1)[1])
        else:
            found = home / source.split(":", 1)[1]
            shutil.copytree(found, pathlib.Path(target) / found.name, dirs_exist_ok=True)
elif verb == "list":
    print(text("requests"), end="")
elif verb == "describe":
    if words[5] not in nodes:
        sys.exit(f"{words[5]} NOT_FOUND")
    print(text("state", "READY").strip(), len(nodes[words[5]]), 0, sep="\t")
elif kind == "queued-resources" and verb == "create":
    (root / "requests").write_text(text("next", "pod\tACTIVE\n"))
elif verb == "delete":
    end_pod()
"""
FAKE_XPK = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
with open(pathlib.Path(os.environ["FAKE_ROOT"]) / "calls", "a") as log:
    log.write(json.dumps(["xpk", *sys.argv[1:]]) + "\n")
"""
FAKE_HOSTNAME = "#!/bin/sh\nbasename $HOME\n"


class Pod:
    """Workers as folders, and a PATH on which `gcloud` is the fake one."""

    def __init__(self, root: pathlib.Path, workers: int = 2):
        self.root, self.scripts = root, SCRIPTS
        self.workers = [root / f"worker{i}" for i in range(workers)]
        for worker in self.workers:
            worker.mkdir(parents=True)
            (worker / "jaxpref-code").mkdir()
        (root / "bin").mkdir()
        for name, text in {"gcloud": FAKE_GCLOUD, "xpk": FAKE_XPK, "hostname": FAKE_HOSTNAME}.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in (*SETTINGS, "DRY_RUN", "SLICES")},
            **SETTINGS,
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "FAKE_ROOT": str(root),
            "RETRY_PAUSE": "0",
            "YES": "1",
        }

    @property
    def calls(self) -> list[list[str]]:
        log = self.root / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def verbs(self) -> list[str]:
        return [call[4] for call in self.calls]

    def __call__(self, script: str, *words: str, answer: str = "", **environment: str | None):
        merged = {k: v for k, v in {**self.environment, **environment}.items() if v is not None}
        return subprocess.run(
            [str(self.scripts / f"{script}.sh"), *words],
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


@contextlib.contextmanager
def running(root: pathlib.Path, workers: int = 2) -> Iterator[Pod]:
    """A pod whose job, if it has one, is stopped at the end."""
    pod = Pod(root, workers)
    yield pod
    (pod.root / "deaf").unlink(missing_ok=True)
    (pod.root / "failures").unlink(missing_ok=True)
    if any((worker / "jaxpref-job" / "pid").exists() for worker in pod.workers):
        pod("run", "--stop", SLICES=None)


def on_a_terminal(pod: Pod, script: str, *words: str, answer: str) -> tuple[int, str]:
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
