"""Reading a model folder into shards: its rate beside the disk's own, and the memory that it takes."""

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxpref.benchmarks.machine import facts
from jaxpref.benchmarks.timing import peak_growth
from jaxpref.experiment import MeshShape
from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub import hf_sizes, hf_weights, write_folder
from jaxpref.models.hub.folder import open_folder
from jaxpref.models.hub.lazy import Bounds, LazyArray, Piece, blocks, within
from jaxpref.models.sizes import tiny
from jaxpref.models.transformer import Transformer
from jaxpref.models.weights import parameter_count, shapes
from jaxpref.training import sharding
from jaxpref.training.constants import fingerprint

__all__ = ["load", "measure", "table", "write_noise"]

_BLOCK = 2**23  # bytes that the disk is asked for at a time


def measure(
    *, rounds: int = 5, gib: float = 2.0, processes: Sequence[int] = (1, 4), directory: str = ""
) -> dict[str, Any]:
    """Reads a folder of `gib` GiB of bfloat16, written for this and deleted afterwards, by each number of
    processes, with parameters split over them (`fsdp`); and its files from end to end, as fast as the disk
    gives them. What the system keeps of the files in memory is dropped before each, where it can be.

    Args:
      directory: where the folder is written; "": where temporary files lie.
    """
    with tempfile.TemporaryDirectory(dir=directory or None) as parent:
        folder = pathlib.Path(parent) / "model"
        write_noise(folder, gib)
        found: dict[str, list[Any]] = {"disk": [], **{str(n): [] for n in processes}}
        for _ in range(rounds):
            found["disk"].append(_read_through(folder))
            for n in processes:
                found[str(n)].append(_by_processes(folder, n))
        tensors = open_folder(folder).values()
        largest, total = max(x.nbytes for x in tensors), sum(x.nbytes for x in tensors)
    rates = found.pop("disk")
    return {
        "benchmark": "load",
        **facts(),
        "bytes": total,
        "largest_tensor_bytes": largest,
        "cold": hasattr(os, "posix_fadvise"),
        "disk_bytes_per_second": statistics.median(rates),
        "disk_bytes_per_second_all": rates,
        "processes": {n: _summary(turns, rates, total) for n, turns in found.items()},
    }


def _summary(turns: list[list[dict[str, Any]]], disk: list[float], total: int) -> dict[str, Any]:
    """Of one number of processes: medians over the rounds, the largest of the processes in each."""
    slowest = {
        name: [max(one[name] for one in turn) for turn in turns]
        for name in ("seconds", "again_seconds", "fingerprint_seconds")
    }
    shares = {
        f"{name}_share_of_disk": statistics.median(total / s / r for s, r in zip(times, disk, strict=True))
        for name, times in slowest.items()
    }
    largest = (
        "shard_bytes",
        "asked_bytes",
        "peak_bytes",
        "fingerprint_asked_bytes",
        "fingerprint_peak_bytes",
    )
    return {
        **{name: statistics.median(times) for name, times in slowest.items()},
        **{f"{name}_all": times for name, times in slowest.items()},
        **shares,
        "cpu_seconds": statistics.median(sum(one["cpu_seconds"] for one in turn) for turn in turns),
        **{name: max(one[name] for turn in turns for one in turn) for name in largest},
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    mib = 2**20
    lines = [
        f"A folder of {figures['bytes'] / mib:,.0f} MiB, largest tensor "
        f"{figures['largest_tensor_bytes'] / mib:.0f} MiB, {figures['cores']} cores, load "
        f"{figures['load_average']:.1f}; the disk reads {figures['disk_bytes_per_second'] / mib:,.0f} MiB/s "
        f"{'(cold)' if figures['cold'] else '(from memory, maybe)'}",
        f"{'processes':>9s} {'seconds':>8s} {'of disk':>8s} {'again':>8s} {'of disk':>8s} {'CPU s':>6s} "
        f"{'shards MiB':>11s} {'read MiB':>9s} {'beside MiB':>11s} | {'fingerprint s':>14s} {'read MiB':>9s} "
        f"{'peak MiB':>9s}",
    ]
    lines += [
        f"{n:>9s} {v['seconds']:8.2f} {v['seconds_share_of_disk']:8.0%} {v['again_seconds']:8.2f} "
        f"{v['again_seconds_share_of_disk']:8.0%} {v['cpu_seconds']:6.1f} {v['shard_bytes'] / mib:11,.0f} "
        f"{v['asked_bytes'] / mib:9,.0f} {v['peak_bytes'] / mib:11,.1f} | {v['fingerprint_seconds']:14.2f} "
        f"{v['fingerprint_asked_bytes'] / mib:9,.0f} {v['fingerprint_peak_bytes'] / mib:9,.1f}"
        for n, v in figures["processes"].items()
    ]
    lines.append(
        "Times are medians, of the slowest process; bytes are those of the process that has most. `again`: "
        "into memory that the process had before, since a machine may be slower to give memory than the disk "
        "is to fill it. `beside`: the peak of resident memory less what it was before and less the shards."
    )
    return "\n".join(lines)


def write_noise(folder: pathlib.Path, gib: float) -> TransformerSizes:
    """A Llama of about `gib` GiB, at least a layer, whose weights are random bits."""
    width = 2048 if gib >= 0.25 else 64
    one, two = (parameter_count(_sizes(width, layers)) for layers in (1, 2))
    sizes = _sizes(width, max(1, 1 + round((gib * 2**30 / 2 - one) / (two - one))))
    params = jax.tree.map(lambda x: _Noise(x.shape, jnp.bfloat16), shapes(sizes))
    write_folder(params, sizes, folder)
    return sizes


def _sizes(width: int, layers: int) -> TransformerSizes:
    return tiny(vocab=16 * width, embed=width, layers=layers, heads=width // 64, mlp=width * 11 // 4)


class _Noise(LazyArray):
    """Finite numbers of any size, the same for arrays of one shape."""

    bits = np.random.default_rng(0).integers(0, 2**16, 2**23, dtype=np.uint16) & 0xBFFF

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        for part in blocks(bounds, self.dtype.itemsize):
            shape = tuple(stop - start for start, stop in part)
            size = int(np.prod(shape))
            yield within(part, bounds), lambda shape=shape, size=size: self._of(size).reshape(shape)

    def _of(self, size: int) -> np.ndarray:
        return np.resize(self.bits, size).view(self.dtype)


class _Counted(LazyArray):
    """Counts the bytes that are asked of an array."""

    def __init__(self, base: LazyArray, asked: list[int]) -> None:
        super().__init__(base.shape, base.dtype)
        self.base, self.asked, self.is_stack = base, asked, base.is_stack

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        self.asked.append(int(np.prod([stop - start for start, stop in bounds])) * self.dtype.itemsize)
        return self.base.pieces(bounds)


def load(folder: str) -> dict[str, Any]:
    """Reads a folder into the shards of this process, once more into the memory that this gave back, and for
    its fingerprint; bytes and seconds."""
    asked: list[int] = []
    sizes, weights = hf_sizes(folder), hf_weights(folder)
    counted = jax.tree.map(lambda x: _Counted(x, asked), weights)
    mesh = sharding.make_mesh(MeshShape(data=1, fsdp=jax.device_count()))
    shardings = sharding.param_shardings(weights, Transformer(sizes).axes(), mesh)
    multihost_utils.sync_global_devices("load")
    start, cpu = time.perf_counter(), time.process_time()
    params, growth = peak_growth(lambda: sharding.put_params(counted, shardings))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    shards = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
    read = sum(asked)
    del params
    _drop(pathlib.Path(folder))
    multihost_utils.sync_global_devices("again")
    start = time.perf_counter()
    again = sharding.put_params(weights, shardings)
    again_seconds = time.perf_counter() - start
    del again
    asked.clear()
    multihost_utils.sync_global_devices("fingerprint")
    start = time.perf_counter()
    _, peak = peak_growth(lambda: fingerprint(counted))
    return {
        "seconds": seconds,
        "again_seconds": again_seconds,
        "cpu_seconds": cpu,
        "shard_bytes": shards,
        "asked_bytes": read,
        "peak_bytes": (growth or 0) - shards,  # beside the shards
        "fingerprint_seconds": time.perf_counter() - start,
        "fingerprint_asked_bytes": sum(asked),
        "fingerprint_peak_bytes": peak or 0,
    }


_WORKER = """
import json, sys
from jaxpref.benchmarks.load import load
from jaxpref.training.distributed import initialize
initialize()
print(json.dumps(load(sys.argv[1])))
"""


def _by_processes(folder: pathlib.Path, count: int) -> list[dict[str, Any]]:
    """What `load` says in each of `count` processes of one device, which start from a cold cache."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    joined = {"JAXPREF_COORDINATOR": f"localhost:{port}", "JAXPREF_NUM_PROCESSES": str(count)}
    on_cpu = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    _drop(folder)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(folder)],
            env=os.environ | on_cpu | joined | {"JAXPREF_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"load: a process of {count} failed; see above")
    return [json.loads(text.splitlines()[-1]) for text in printed]


def _read_through(folder: pathlib.Path) -> float:
    """Bytes per second of reading all files from end to end."""
    _drop(folder)
    buffer, count, start = bytearray(_BLOCK), 0, time.perf_counter()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb", buffering=0) as file:
            while size := file.readinto(buffer):
                count += size
    return count / (time.perf_counter() - start)


def _drop(folder: pathlib.Path) -> None:
    """Asks the system to forget what it keeps of the files."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
