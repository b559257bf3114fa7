"""What a figure was measured on: versions, load, allocator, and the rates that times are compared with."""

import importlib.metadata
import os
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["HUGE_PAGES", "cores", "facts", "measured_bandwidth", "platform_name", "versions"]

HUGE_PAGES = "glibc.malloc.hugetlb=1"  # for GLIBC_TUNABLES: malloc asks for transparent huge pages


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def platform_name() -> str:
    """cpu, gpu or tpu, of the default device."""
    name = jax.devices()[0].platform
    return "gpu" if name in ("cuda", "rocm") else name


def versions(*optional: str) -> dict[str, str]:
    """Versions of Python, of the packages that compile and compute, and of installed ones of `optional`."""
    installed = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "optax", *optional):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def facts() -> dict[str, Any]:
    """Facts about the machine and this process. Starts the default backend."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": platform_name(),
        "cores": cores(),
        **versions(),
        "huge_pages": HUGE_PAGES in os.environ.get("GLIBC_TUNABLES", ""),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_average": os.getloadavg()[0],
    }


def measured_bandwidth(repeats: int = 5) -> float:
    """Bytes per second, reads and writes together: the best of scaling a large array in place."""
    size = 2**26 if platform_name() == "cpu" else 2**29  # float32 entries
    x = jnp.ones(size, jnp.float32)
    scale = jax.jit(lambda x: x * 0.999, donate_argnums=0)
    x = scale(x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        x = scale(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * 4 * size / best
