"""A fake `gcloud` that logs its words and runs worker commands in local folders, for the pod scripts."""

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


@contextlib.contextmanager
def running(root: pathlib.Path) -> Iterator[Pod]:
    """A pod whose job, if it has one, is stopped at the end."""
    pod = Pod(root)
    yield pod
    if any((worker / "jaxpref-job" / "pid").exists() for worker in pod.workers):
        pod("run", "--stop")


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
