"""Joins the processes of a pod (or of a test) before anything else touches jax."""

import os

import jax

__all__ = ["first", "initialize"]


def initialize() -> None:
    """Calls `jax.distributed.initialize` where the environment asks for it.

    JAXPREF_DISTRIBUTED=1 alone lets jax find the other workers (Cloud TPU, Slurm). With
    JAXPREF_COORDINATOR=host:port, JAXPREF_NUM_PROCESSES and JAXPREF_PROCESS_ID the processes are named
    explicitly. Must run before the first use of a device; where they are joined already it does nothing.
    """
    if jax.distributed.is_initialized():
        return
    coordinator = os.environ.get("JAXPREF_COORDINATOR")
    if coordinator:
        missing = [n for n in ("JAXPREF_NUM_PROCESSES", "JAXPREF_PROCESS_ID") if n not in os.environ]
        if missing:
            raise ValueError(f"JAXPREF_COORDINATOR is set but {missing[0]} is not; set all three")
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=int(os.environ["JAXPREF_NUM_PROCESSES"]),
            process_id=int(os.environ["JAXPREF_PROCESS_ID"]),
        )
    elif os.environ.get("JAXPREF_DISTRIBUTED") == "1":
        jax.distributed.initialize()


def first() -> bool:
    """Whether this process is the one that writes. Where no others were joined this starts no device, so
    that records can be prepared while something else holds the accelerator."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0
