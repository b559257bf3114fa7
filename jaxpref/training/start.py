"""What must be true of all processes before a job begins: each difference is one error, the same in all."""

import collections
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jaxpref
from jaxpref.training.job import Job
from jaxpref.training.maintenance import metadata, on_tpu_vm

__all__ = ["check_alone", "check_count", "check_devices", "check_facts", "check_same_run", "facts"]

_CLOCKS = 60.0  # seconds by which clocks may differ
_VERSIONS = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy")


def facts() -> dict[str, Any]:
    """What the others should know of this process: its host, and versions of all that computes."""
    found = {name: _version(name) for name in _VERSIONS}
    versions = {name: version for name, version in found.items() if version}
    own = {"python": platform.python_version(), "jaxpref": f"{_version('jaxpref')} (code {_code()})"}
    return {"host": socket.gethostname(), "versions": own | versions}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _code() -> str:
    """A digest of this package's files, which a commit that was not installed everywhere changes too."""
    root = pathlib.Path(jaxpref.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def check_facts(job: Job) -> None:
    """Compares the versions of all processes, and says whose clock is wrong.

    Raises:
      ValueError: versions differ.
    """
    names = sorted({name for fact in job.facts for name in fact["versions"]})
    for name in names:
        _check_equal(
            job,
            name,
            [str(fact["versions"].get(name)) for fact in job.facts],
            "install the same on all workers (tpu_scripts/setup.sh does)",
        )
    middle = sorted(fact["ahead"] for fact in job.facts)[job.count // 2]
    for process, fact in enumerate(job.facts):
        off = fact["ahead"] - middle
        if abs(off) > _CLOCKS and job.process == 0:
            way = "ahead of" if off > 0 else "behind"
            print(
                f"jaxpref: the clock of {job.name(process)} is {abs(off):.0f} s {way} the others'; times in "
                "logs, and ages of locks, are off by that much",
                flush=True,
            )


def check_devices(job: Job, count: int) -> None:
    """Raises ValueError where processes have different numbers of devices."""
    counts = [str(n) for n in job.gather("number of devices", count)]
    _check_equal(job, "devices of a process", counts, "give each process as many")


def check_count(count: int) -> None:
    """Raises ValueError where JAXPREF_EXPECTED_PROCESSES is set, and is not the number of processes."""
    expected = os.environ.get("JAXPREF_EXPECTED_PROCESSES")
    if expected is not None and expected != str(count):
        alone = "; set JAXPREF_DISTRIBUTED=1 on all workers" if count == 1 else ""
        raise ValueError(f"JAXPREF_EXPECTED_PROCESSES={expected}, and the job has {count}{alone}")


def check_alone() -> None:
    """Raises ValueError on one worker of many, where a process alone would wait for the others' devices, or
    do the whole work once for each worker. JAXPREF_ONE_PROCESS=1 says that it is meant."""
    if os.environ.get("JAXPREF_ONE_PROCESS") == "1":
        return
    why = next((text for text in _workers() if text), None)
    if why is not None:
        raise ValueError(
            f"this is one worker of several ({why}), and the command was started as one process. Start it on "
            "all workers: tpu_scripts/run.sh, or srun with JAXPREF_DISTRIBUTED=1. For one process on purpose "
            "set JAXPREF_ONE_PROCESS=1"
        )


def _workers() -> Sequence[str | None]:
    """What says that there are several; None for what does not."""
    said = []
    for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        hosts = os.environ.get(name, "").split(",")
        said.append(f"{name} names {len(hosts)}" if len(hosts) > 1 else None)
    for name in ("MEGASCALE_NUM_SLICES", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NUM_NODES"):
        text = os.environ.get(name, "")
        said.append(f"{name}={text}" if text.isdigit() and int(text) > 1 else None)
    if not any(said) and on_tpu_vm():
        hosts = (metadata("attributes/worker-network-endpoints") or "").split(",")
        said.append(f"the TPU has {len(hosts)}" if len(hosts) > 1 else None)
    return said


def check_same_run(job: Job, run: Callable[[], Mapping[str, Any]]) -> None:
    """Compares what the processes are about to do.

    Args:
      run: gives plain values by name, of which all must be equal.

    Raises:
      ValueError: they are not; it names the first that differ.
    """
    if job.count == 1:
        return
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in run().items()}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    if len(set(job.gather("experiment", digest))) == 1:
        return
    all_texts = job.gather("configuration", texts)
    for name in sorted({name for one in all_texts for name in one}):
        values = [str(one.get(name)) for one in all_texts]
        _check_equal(job, name, values, "start the same command on all workers")


def _check_equal(job: Job, what: str, values: Sequence[str], cure: str) -> None:
    """Raises ValueError where not all processes have the same; names those that have what fewest have."""
    common, _ = collections.Counter(values).most_common(1)[0]
    for process, value in enumerate(values):
        if value != common:
            other = job.name(values.index(common))
            raise ValueError(f"{what}: {value} in {job.name(process)}, and {common} in {other}; {cure}")
