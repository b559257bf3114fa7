"""Joins the processes of a pod (or of a test) before anything else touches jax."""

import atexit
import os
import socket
import sys
from typing import NamedTuple

import jax
import numpy as np
from jax._src import clusters  # no public name says what jax would find
from jax._src.distributed import global_state as jax_state
from jax.experimental import multihost_utils

from jaxpref.training import preemption
from jaxpref.training.arrival import meet
from jaxpref.training.job import Job, current, enter
from jaxpref.training.start import check_alone, check_count, check_devices, check_facts, facts

__all__ = ["first", "initialize", "joined", "seconds"]

# Environment variable -> seconds where it is not set.
_SECONDS = {"JAXPREF_JOIN_TIMEOUT": 300, "JAXPREF_PEER_TIMEOUT": 90, "JAXPREF_LEAVE_TIMEOUT": 300}


class _Place(NamedTuple):
    """Where a process belongs, as jax's own `initialize` takes it."""

    address: str
    count: int
    process: int
    local_devices: list[int] | None


def initialize(*, one_of_many: bool = False) -> None:
    """Joins this process with the others of its job, where the environment asks for it.

    JAXPREF_DISTRIBUTED=1 alone lets jax find the other workers (Cloud TPU, Slurm). With
    JAXPREF_COORDINATOR=host:port, JAXPREF_NUM_PROCESSES and JAXPREF_PROCESS_ID the processes are named
    explicitly. Must run before the first use of a device; where they are joined already it does nothing.

    Seconds by environment: JAXPREF_JOIN_TIMEOUT (300) to wait for all to come; JAXPREF_PEER_TIMEOUT (90) of
    silence after which a process counts as missing and all others end with status 4 (where its connection
    breaks they end at once); JAXPREF_LEAVE_TIMEOUT (300) that one which is done waits for the others.
    JAXPREF_EXPECTED_PROCESSES, where it is set, is how many there must be.

    Args:
      one_of_many: it is fine that this process is alone on one worker of many: what it does needs no other.

    Raises:
      ValueError: not all have come, or they differ in number, versions or devices. The message is the same
        in all of them.
    """
    if jax.distributed.is_initialized():
        return
    place = _place()
    check_count(1 if place is None else place.count)
    if place is None:
        if not one_of_many:
            check_alone()
        return
    job = _enter(place)
    # jax would take SIGTERM below Python, where no handler of ours would hear of it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        *place,
        cluster_detection_method="deactivate",
        initialization_timeout=seconds("JAXPREF_JOIN_TIMEOUT"),
        heartbeat_timeout_seconds=2 * seconds("JAXPREF_PEER_TIMEOUT") + 60,  # the job says it first
        shutdown_timeout_seconds=seconds("JAXPREF_LEAVE_TIMEOUT"),
    )
    check_devices(job, jax.local_device_count())


def _enter(place: _Place) -> Job:
    """Meets the other processes, and compares what must not differ."""
    patience, timeout = seconds("JAXPREF_PEER_TIMEOUT"), seconds("JAXPREF_JOIN_TIMEOUT")
    met = meet(place.address, place.count, place.process, facts(), timeout=timeout, patience=patience)
    job = enter(Job(place.process, place.count, met, patience=patience))
    atexit.register(job.bye)  # runs before jax's own end, which waits for the others
    atexit.register(_tell_of_crash, job)  # before that: what was registered last runs first
    preemption.attach(job)
    check_facts(job)
    return job


def _tell_of_crash(job: Job) -> None:
    """A script that calls `train` and ends by an exception has not left politely."""
    error = getattr(sys, "last_value", None)
    if error is not None:
        job.ended(1, f"{type(error).__name__}: {error}")


def joined() -> Job:
    """The job of this process; that of processes which somebody has joined through jax alone is made here."""
    job, count = current(), jax.process_count()
    if job.count == count:
        return job
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = np.asarray([probe.getsockname()[1]], np.int32)
    port = int(multihost_utils.process_allgather(port).reshape(-1)[0])
    host = (jax_state.coordinator_address or "localhost").rpartition(":")[0]
    return _enter(_Place(f"{host}:{port}", count, jax.process_index(), None))


def seconds(variable: str) -> int:
    """One of the timeouts, from the environment.

    Raises:
      ValueError: it is set to something that is no positive number.
    """
    text = os.environ.get(variable, str(_SECONDS[variable]))
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ValueError(f"{variable}={text}: expected a whole number of seconds, from 1")
    return value


def first() -> bool:
    """Whether this process is the one that writes. Where no others were joined this starts no device, so
    that records can be prepared while something else holds the accelerator."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _place() -> _Place | None:
    """Where this process belongs; None where it is alone."""
    named = os.environ.get("JAXPREF_COORDINATOR")
    if not named and os.environ.get("JAXPREF_DISTRIBUTED") != "1":
        return None
    numbers: list[int | None] = [None, None]
    if named:
        numbers = [_number(n) for n in ("JAXPREF_NUM_PROCESSES", "JAXPREF_PROCESS_ID")]
    address, count, process, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        named or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        numbers[0],
        numbers[1],
        None,
        None,
        seconds("JAXPREF_JOIN_TIMEOUT"),
    )
    if address is None or count is None or process is None:
        raise ValueError(
            "JAXPREF_DISTRIBUTED=1, but jax finds no workers here (it knows Cloud TPU, Slurm, Open MPI and "
            "Kubernetes); set JAXPREF_COORDINATOR=host:port, JAXPREF_NUM_PROCESSES and JAXPREF_PROCESS_ID"
        )
    if not 0 <= process < count:
        raise ValueError(f"process {process} of {count}: processes are numbered from 0 to {count - 1}")
    return _Place(address, count, process, None if local is None else list(local))


def _number(name: str) -> int:
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"JAXPREF_COORDINATOR is set but {name} is not; set all three")
    if not text.isdigit():
        raise ValueError(f"{name}={text}: expected a whole number")
    return int(text)
