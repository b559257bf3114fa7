"""Compiled programs are kept between runs: jax's persistent cache, in a folder of the user's, with a bound.

Whoever has set jax's own (JAX_COMPILATION_CACHE_DIR, or `jax_compilation_cache_dir`) keeps what they set;
JAXPREF_COMPILE_CACHE=off switches it off in any case. Of several processes the first alone writes (jax's
rule), all read. A home that machines share has a folder for each kind of CPU, since nothing says that jax's
keys know its instructions.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
from typing import Any

import jax

from jaxpref.data.cache import cache_root

__all__ = ["BOUND", "described", "keep_programs", "prune"]

BOUND = 5_000_000_000  # bytes
# A program that took less is compiled again: reading one takes a few hundredths of a second. Measured on
# experiments/quickstart.py: see BENCHMARKS.
SHORTEST = 0.1  # seconds
_CONFIG: Any = jax.config  # whose settings are added as jax runs
_SUFFIX = "-cache"  # of jax's entries


def keep_programs() -> None:
    """Switches the cache on for this process, before it compiles anything, and cuts it to its bound.

    Raises:
      ValueError: JAXPREF_COMPILE_CACHE says something else than off.
    """
    said = os.environ.get("JAXPREF_COMPILE_CACHE", "")
    if said not in ("", "off"):
        raise ValueError(
            f"JAXPREF_COMPILE_CACHE={said}: expected off, or nothing; JAX_COMPILATION_CACHE_DIR says where "
            "programs are kept"
        )
    if said == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if _CONFIG.jax_compilation_cache_dir or not _CONFIG.jax_enable_compilation_cache:
        return
    folder = cache_root() / "xla" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prune(folder)
    except OSError:  # a home that cannot be written to is no reason not to train
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)


def described() -> str:
    """`compile cache: PATH, 312 MB, 40 programs; JAXPREF_COMPILE_CACHE=off switches it off`, or that there is
    none."""
    given = _CONFIG.jax_compilation_cache_dir
    if not given or not _CONFIG.jax_enable_compilation_cache:
        return "compile cache: none; every start compiles anew"
    size = ""
    if "://" not in given:
        sizes = [file.stat().st_size for file in _entries(pathlib.Path(given))]
        size = f", {sum(sizes) / 1e6:,.0f} MB, {len(sizes)} programs"
    return f"compile cache: {given}{size}; JAXPREF_COMPILE_CACHE=off switches it off"


def prune(folder: pathlib.Path, bound: int = BOUND) -> None:
    """Removes what was used longest ago until at most `bound` bytes are left; where the disk notes no uses,
    what was written first. Another process that looks for one of these at the moment compiles it.

    jax has a bound of its own (`jax_compilation_cache_max_size`), which needs a package more (filelock) and a
    lock around each read.
    """
    stats = []
    for file in _entries(folder):
        with contextlib.suppress(FileNotFoundError):  # another process removes, too
            stats.append((file.stat(), file))
    stats.sort(key=lambda one: max(one[0].st_atime, one[0].st_mtime))
    total = sum(stat.st_size for stat, _ in stats)
    for stat, file in stats:
        if total <= bound:
            return
        file.unlink(missing_ok=True)
        total -= stat.st_size


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []


def _machine() -> str:
    """Name of this kind of CPU: what it is and the instructions that it has."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
