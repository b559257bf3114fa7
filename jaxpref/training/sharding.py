"""Meshes and shardings: the one place that knows devices. Losses, policies and algorithms never do.

To add a mesh axis: a field in `experiment.MeshShape`, its name in `AXES`, and the logical axes it splits in
`RULES`. One that splits the batch, the vocabulary or `embed` is named in `kernels.partition`, since a kernel
with a loop has to know it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxpref.experiment import MeshShape
from jaxpref.kernels import partition

__all__ = [
    "BATCH",
    "RULES",
    "OnMesh",
    "batch_shards",
    "check_batch_size",
    "describe_mesh",
    "fetch",
    "make_mesh",
    "param_shardings",
    "put_batch",
    "put_params",
    "put_whole",
    "state_shardings",
    "with_shardings",
]

AXES = ("data", "fsdp", "tensor")
BATCH = partition.ROWS

# Logical axis of a weight -> mesh axis. What is not named here is replicated.
RULES = {
    "vocab": partition.VOCAB,
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "embed": partition.EMBED,
    "regions": partition.REGIONS,
}


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices, or over those given.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(shape, axis) for axis in AXES]
    free = [i for i, size in enumerate(sizes) if size == -1]
    known = math.prod(size for size in sizes if size != -1)
    described = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh {described}: sizes are 1 or more, and at most one is -1")
    if len(devices) % known or (not free and known != len(devices)):
        raise ValueError(
            f"mesh {described} does not fit {len(devices)} devices: the sizes must multiply to that number; "
            "set one to -1 to take what is left, for example mesh.data=-1"
        )
    for i in free:
        sizes[i] = len(devices) // known
    # make_mesh's default axis type changed between versions, and Explicit axes break vocabulary gathers.
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _spec(shape: tuple[int, ...], logical: tuple[str | None, ...], mesh: Mesh) -> PartitionSpec:
    if len(shape) != len(logical):
        raise ValueError(f"logical axes {logical} do not match an array of shape {shape}")
    names, used = [], set()
    for size, name in zip(shape, logical, strict=True):
        axis = RULES.get(name or "")
        # A dimension that the mesh axis does not divide stays whole: correct, and only costs memory.
        fits = axis is not None and axis not in used and size % mesh.shape[axis] == 0
        names.append(axis if fits else None)
        used.add(axis)
    return PartitionSpec(*names)


def param_shardings(abstract: Any, axes: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each array of `abstract`, from the matching tree of logical axis tuples."""
    return jax.tree.map(
        lambda leaf, names: NamedSharding(mesh, _spec(leaf.shape, names, mesh)), abstract, axes
    )


def state_shardings(abstract_state: Any, abstract_params: Any, axes: Any, mesh: Mesh) -> Any:
    """Shardings of any algorithm's state: an array whose path ends like a parameter's, with its shape, is
    laid out like that parameter (moments, reference copies, second players); the rest is replicated."""
    specs = param_shardings(abstract_params, axes, mesh)
    flat_params = jax.tree.leaves_with_path(abstract_params)
    by_path = {
        path: (leaf.shape, sharding)
        for (path, leaf), sharding in zip(flat_params, jax.tree.leaves(specs), strict=True)
    }
    depth = max((len(path) for path in by_path), default=0)

    def one(path, leaf):
        for length in range(min(depth, len(path)), 0, -1):
            shape, sharding = by_path.get(path[-length:], (None, None))
            if shape == leaf.shape:
                return sharding
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map_with_path(one, abstract_state)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless rows divide evenly over the batch axes of the mesh."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise ValueError(
            f"batch_size={batch_size} does not divide over {' x '.join(BATCH)} = {shards} devices; "
            f"use a multiple of {shards} or fewer devices on these axes"
        )


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that say where each array lives: a target for checkpoints."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a host batch as one global array, sharded over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(x)), batch
    )


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """A host batch that every process has in full, sharded over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index]),
        tree,
    )


def put_params(tree: Any, shardings: Any) -> Any:
    """Host weights (the same on every process) laid out as `shardings`."""
    return jax.tree.map(
        lambda x, s: jax.make_array_from_callback(np.shape(x), s, lambda index: np.asarray(x)[index]),
        tree,
        shardings,
    )


def fetch(tree: Any) -> Any:
    """Arrays as numpy on every process, gathered where they live on others."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


class OnMesh:
    """A compiled function that is traced and called with `mesh` in context, where kernels look for it."""

    def __init__(self, compiled: Any, mesh: Mesh) -> None:
        self._compiled, self._mesh = compiled, mesh

    def __call__(self, *args: Any) -> Any:
        with jax.set_mesh(self._mesh):
            return self._compiled(*args)

    @property
    def programs(self) -> int:
        """Programs compiled so far: one for each shape."""
        return self._compiled._cache_size()


def batch_shards(mesh: Mesh) -> int:
    """Devices along the batch axes: rows of a batch must be a multiple of this."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def describe_mesh(mesh: Mesh) -> str:
    return " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
