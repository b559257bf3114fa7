"""How much memory a run holds while it runs: of the devices where they count it, else of the process."""

import os
import pathlib
import sys

import jax

__all__ = ["in_use", "shown"]


def in_use() -> dict[str, float]:
    """Bytes by name, now and at most so far.

    Returns:
      `memory/device` and `memory/device_peak` of the device of this process that holds most; where devices do
      not count (CPU), `memory/process` (Linux alone) and `memory/process_peak` (not on Windows), resident.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    now = [s["bytes_in_use"] for s in stats if "bytes_in_use" in s]
    if now:
        peak = [s.get("peak_bytes_in_use", 0) for s in stats]
        return {"memory/device": float(max(now)), "memory/device_peak": float(max(*now, *peak))}
    resident = _resident()
    both = {"memory/process": resident, "memory/process_peak": _most(resident)}
    return {name: size for name, size in both.items() if size is not None}


def shown(memory: dict[str, float]) -> str:
    """`9.1 GB, peak 12.3`, for a line of the log; nothing where nothing is known."""
    now = [f"{x / 1e9:.1f} GB" for name, x in memory.items() if not name.endswith("_peak")]
    peak = [f"peak {x / 1e9:.1f}" for name, x in memory.items() if name.endswith("_peak")]
    return ", ".join([*now, *peak])


def _resident() -> float | None:
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _most(resident: float | None) -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return resident
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(float(most), resident or 0.0)
