"""Machines that programs can be compiled for without having one: names, chips, devices.

libtpu compiles for any TPU it knows, and the CUDA plugin for a described GPU, ahead of time (AOT). Figures of
chips are those that their makers publish: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x) and the data
sheets of H100 SXM and H200. What a compiler lets a program use of the main memory was measured.
"""

import dataclasses
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies as jax_topologies

__all__ = ["CHIPS", "Chip", "Topology", "described", "known"]

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device of jax has (of v4 and tpu7x: half of a chip)."""

    kind: str
    memory: float  # bytes of main memory that a program may use
    flops: float  # bfloat16 operations a second
    bandwidth: float  # bytes of main memory a second
    link: float  # bytes a second over one link, in one direction
    dimensions: int  # of the torus; 0: a switch, whose one link is a device's own
    network: float  # bytes a second to other slices (data center network), in one direction


CHIPS = {
    "v4": Chip("TPU v4, half a chip", 15.25 * _GIB, 275e12 / 2, 1228e9 / 2, 50e9, 3, 1.5e9),
    "v5e": Chip("TPU v5e", 15.75 * _GIB, 197e12, 819e9, 50e9, 2, 3.1e9),
    "v5p": Chip("TPU v5p", 95.73 * _GIB, 459e12, 2765e9, 100e9, 3, 6.25e9),
    "v6e": Chip("TPU v6e", 31.24 * _GIB, 918e12, 1640e9, 100e9, 2, 12.5e9),
    "tpu7x": Chip("TPU7x, half a chip", 94.74 * _GIB, 2307e12 / 2, 7380e9 / 2, 100e9, 3, 6.25e9),
    "h100": Chip("H100 SXM", 0.92 * 80e9, 989e12, 3352e9, 450e9, 0, 50e9),
    "h200": Chip("H200", 0.92 * 141e9, 989e12, 4800e9, 450e9, 0, 50e9),
}
# Accelerator types of Google Cloud, whose number counts chips or, for v4 and v5p, cores (two a chip).
_CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4", 256: "4x4x8", 512: "4x8x8"}
_SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SLICES = {
    "v4": _CUBES,
    "v5p": _CUBES,
    "v5e": _SQUARES,
    "v6e": _SQUARES,
}
_ENVIRONMENT = {  # libtpu asks for its surroundings, which an AOT compilation has none of
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at a time
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
# What XLA's cost model is told of a GPU; limits of a block are those of compute capability 9.0.
_GPU = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: {bandwidth:.0f} l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: {size:.0f}
shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 minor: 0 }}
registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }} device_description_str: "{name}" """
_GPUS = {"h100": ("NVIDIA H100 80GB HBM3", 84_942_979_072), "h200": ("NVIDIA H200", 150_000_000_000)}


@dataclasses.dataclass(frozen=True)
class Topology:
    name: str  # as `described` takes it
    chip: Chip
    devices: list[Any]

    def rate(self, members: list[Any]) -> float:
        """Bytes a second that a device sends in a ring of these ones: over each side of the torus along
        which they differ (both ways where it closes), its one link to a switch, or the network between
        slices."""
        if len({getattr(device, "slice_index", 0) for device in members}) > 1:
            return self.chip.network
        return self.chip.link * (self._directions * self.spanned(members) if self.chip.dimensions else 1)

    @property
    def _directions(self) -> int:
        """2 where sides close to rings: in slices of whole cubes of 4 x 4 x 4 (cloud.google.com/tpu/docs/v5p)
        and, of two sides, where both are a whole pod's 16; a line sends one way at a time."""
        if not self.chip.dimensions:
            return 1
        sides = [int(n) for n in self.name.rpartition(":")[2].split("x")]
        whole = 4 if self.chip.dimensions == 3 else 16
        return 2 if all(side % whole == 0 for side in sides) else 1

    def spanned(self, members: list[Any]) -> int:
        """Dimensions of the torus along which these devices differ; 1 behind a switch."""
        if not self.chip.dimensions:
            return 1
        coords = zip(*(device.coords for device in members), strict=True)
        return max(1, sum(len(set(along)) > 1 for along in coords))


def known() -> str:
    """What `described` takes, for messages and help."""
    return (
        "v5e:4x4, v6e:2x4, v5p:4x4x4, v4:2x2x2, tpu7x:2x2x1 (chips along each side; 2*v5p:4x4x4 are two "
        "slices), h100:8, h200:8, or an accelerator type of Google Cloud such as v5litepod-16, v6e-16 or "
        "v5p-128 (v4 and v5p count cores, two a chip)"
    )


def described(name: str) -> Topology:
    """The devices of a machine by its name.

    Raises:
      ValueError: nobody knows the name, or what compiles for it is not installed.
    """
    slices, kind, size = _split(name)
    chip = CHIPS[kind]
    os.environ.update({k: v for k, v in _ENVIRONMENT.items() if k not in os.environ})
    # Programs for other machines are written to the cache and refused when they are read.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        if kind in _GPUS:
            devices = _gpus(kind, int(size))
        else:
            more: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if size == "1x1" else {}
            more |= {"num_slices": slices} if slices > 1 else {}
            devices = jax_topologies.get_topology_desc(
                platform="tpu", topology_name=f"{kind}:{size}", **more
            ).devices
    except Exception as error:
        raise ValueError(_why(name, kind, error)) from error
    times = f"{slices}*" if slices > 1 else ""
    return Topology(f"{times}{kind}:{size}", chip, list(devices))


def _split(name: str) -> tuple[int, str, str]:
    """Slices, kind of chip, and sides (or, of GPUs, their number)."""
    counted = re.fullmatch(r"(\d+)\*(.+)", name)
    slices, one = (int(counted[1]), counted[2]) if counted else (1, name)
    kind, colon, size = one.lower().replace("v5litepod", "v5e").replace("v5lite", "v5e").partition(":")
    if not colon and (typed := re.fullmatch(r"(\w+)-(\d+)", kind)) and typed[1] in _SLICES:
        kind, count = typed[1], int(typed[2])
        size = _SLICES[kind].get(count, "")
        if not size:
            raise ValueError(
                f"--topology {name}: {kind} has slices of {', '.join(map(str, _SLICES[kind]))}; give one of "
                f"these, or the sides, such as {kind}:{_SLICES[kind][8]}"
            )
    wanted = r"\d+" if kind in _GPUS else r"\d+(x\d+){1,2}"
    if kind not in CHIPS or not re.fullmatch(wanted, size) or slices < 1 or (slices > 1 and kind in _GPUS):
        raise ValueError(f"--topology {name}: unknown; there are {known()}")
    sides = [int(n) for n in size.split("x")]
    if min(sides) < 1 or (kind not in _GPUS and len(sides) != CHIPS[kind].dimensions):
        raise ValueError(
            f"--topology {name}: a {kind} slice has {CHIPS[kind].dimensions} sides of 1 or more, such as "
            f"{kind}:{'x'.join('4' * CHIPS[kind].dimensions)}"
        )
    if kind in _GPUS and math.prod(sides) > 8:
        raise ValueError(f"--topology {name}: one node of up to 8 GPUs is described; several are not")
    return slices, kind, size


def _gpus(kind: str, count: int) -> list[Any]:
    name, size = _GPUS[kind]
    config = _GPU.format(name=name, size=size, bandwidth=CHIPS[kind].bandwidth)
    return jax_topologies.get_topology_desc(
        platform="cuda", topology_name="gpus", topology=f"1x1x{count}", target_config=config
    ).devices


def _why(name: str, kind: str, error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if kind in _GPUS:
        packages, extra = "jax-cuda13-plugin and jax-cuda13-pjrt of jax's own version", "cuda"
    else:
        packages, extra = "libtpu", "tpu"
    missing = any(
        word in first
        for word in ("not found", "Unknown backend", "No module", "no plugin", "not implemented")
    )
    if missing or (isinstance(error, ImportError | RuntimeError) and "opology" not in first):
        return (
            f"--topology {name}: what compiles for it is not installed ({first}); install {packages}: "
            f"pip install -c constraints.txt -e '.[{extra}]'"
        )
    return f"--topology {name}: its compiler does not know it ({first}); there are {known()}"
