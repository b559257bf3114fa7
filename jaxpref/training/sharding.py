"""Meshes and shardings: the one place that knows devices. Losses, policies and algorithms never do.

To add a mesh axis: a field in `experiment.MeshShape`, its name in `AXES`, and the logical axes it splits in
`RULES`. One that splits the batch, the vocabulary or `embed` is named in `kernels.partition`, since a kernel
with a loop has to know it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxpref.experiment import MeshShape
from jaxpref.kernels import partition
from jaxpref.models.hub.lazy import LazyArray

__all__ = [
    "BATCH",
    "RULES",
    "OnMesh",
    "batch_shards",
    "check_batch_size",
    "describe_mesh",
    "fetch",
    "make_mesh",
    "on_mesh",
    "param_shardings",
    "put_batch",
    "put_params",
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
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    try:
        if slices == 1:
            return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)
        return Mesh(_over_slices(sizes, slices, devices, described), AXES, axis_types=types)
    except NotImplementedError as error:
        sides = [max(along) + 1 for along in zip(*(device.coords for device in devices), strict=True)]
        raise ValueError(
            f"mesh {described}: a torus of {' x '.join(map(str, sides))} cannot hold it; axes are products "
            f"of whole sides, each side in one axis; for example mesh.fsdp={len(devices)}"
        ) from error


def _over_slices(sizes: Sequence[int], slices: int, devices: Sequence[Any], described: str) -> np.ndarray:
    """Devices of several slices (or GPU nodes), between which only the axis `data` goes: it has the least to
    say. (`jax.make_mesh` refuses them.)"""
    data, *inner = sizes
    if data % slices:
        raise ValueError(
            f"mesh {described} on {slices} slices (or nodes): only data goes between slices, so mesh.data "
            f"must be a multiple of {slices}; for example mesh.data={slices} mesh.fsdp=-1"
        )
    between = (slices, *(1 for _ in inner))
    within = (data // slices, *inner)
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


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


def check_batch_size(batch_size: int, mesh: Mesh, *, parts: int = 1, where: str = "") -> None:
    """Raises ValueError unless each of the equal parts that a step cuts a batch into divides evenly over
    the batch axes of the mesh. `where`: whose batch it is, such as the name of a stage."""
    if parts < 1:
        raise ValueError(
            f"{where}: a batch is cut into {parts} parts; set microbatches and minibatches to 1 or more"
        )
    wanted = batch_shards(mesh) * parts
    if batch_size % wanted:
        over = f"{' x '.join(BATCH)} = {batch_shards(mesh)} devices"
        cut = f" in {parts} parts (microbatches x minibatches)" if parts > 1 else ""
        raise ValueError(
            f"{f'{where}: ' if where else ''}batch_size={batch_size} does not divide over {over}{cut}; use a "
            f"multiple of {wanted}, or fewer {'parts or ' if cut else ''}devices on these axes"
        )


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that say where each array lives: a target for checkpoints."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def put_batch(read: Callable[[np.ndarray], Any], size: int, mesh: Mesh) -> Any:
    """A batch of `size` rows as global arrays [size, ...], split over the batch axes of the mesh.

    `read(rows)` gives the rows (int64, ascending) that the devices of this process hold: all of them, where
    no batch axis is split over processes. Every process must call this with the same batch.

    Raises:
      ValueError: the rows do not divide over the batch axes.
    """
    check_batch_size(size, mesh)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    indices = sharding.addressable_devices_indices_map((size,)).values()
    rows = np.unique(np.concatenate([np.arange(size)[index] for index in indices]))

    def placed(part: Any) -> jax.Array:
        def of_device(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            begin = np.searchsorted(rows, start)
            return np.asarray(part)[begin : begin + stop - start]

        return jax.make_array_from_callback((size, *np.shape(part)[1:]), sharding, of_device)

    return jax.tree.map(placed, read(rows))


def put_params(tree: Any, shardings: Any) -> Any:
    """Host weights (the same on every process) laid out as `shardings`.

    Of lazy ones a process reads the slices that its devices hold, each of them once. On CPU they are read
    into what becomes the shard. Elsewhere a stack (the layers of a model) passes through the host array by
    array, so that no more than one of them is there.
    """
    return jax.tree.map(_put, tree, shardings)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    on_host = all(device.platform == "cpu" for device in sharding.device_set)
    if not isinstance(x, LazyArray) or not x.is_stack or on_host or any(sharding.spec[:1]):
        return _put_at_once(x, sharding)
    return _put_one_by_one(x, sharding)


def _put_one_by_one(x: LazyArray, sharding: NamedSharding) -> jax.Array:
    # One program for all devices and layers, which writes into the array that it is given.
    array = jax.jit(partial(jnp.zeros, x.shape, x.dtype), out_shardings=sharding)()
    write = jax.jit(
        jax.lax.dynamic_update_slice_in_dim, static_argnums=3, donate_argnums=0, out_shardings=sharding
    )
    for i in range(len(x)):
        array = write(array, _put_at_once(x.rows(slice(i, i + 1)), sharding), i, 0)
        array.block_until_ready()  # what is read next would otherwise wait beside it
    return array


def _put_at_once(x: Any, sharding: NamedSharding) -> jax.Array:
    read: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}

    def of_device(index: Any) -> np.ndarray:
        place = tuple(i.indices(n) for i, n in zip(index, np.shape(x), strict=True))
        if place not in read:
            read[place] = x[index] if isinstance(x, LazyArray) else np.asarray(x)[index]
        return read[place]

    return jax.make_array_from_callback(np.shape(x), sharding, of_device)


def fetch(tree: Any) -> Any:
    """Arrays as numpy on every process, gathered where they live on others."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """A compiled function that is traced and called with `mesh` in context, where kernels look for it."""

    compiled: Any
    mesh: Mesh

    def __call__(self, *args: Any, **options: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return self.compiled(*args, **options)

    def trace(self, *args: Any, **options: Any) -> Any:
        """`jax.stages.Traced` for such arguments, to be lowered and compiled ahead of time."""
        with jax.set_mesh(self.mesh):
            return self.compiled.trace(*args, **options)

    @property
    def programs(self) -> int:
        """Programs compiled so far: one for each shape."""
        return self.compiled._cache_size()


def on_mesh(function: Callable[..., Any], mesh: Mesh, **options: Any) -> OnMesh:
    """`jax.jit(function, **options)` with the mesh in context, which rounds wherever the function says so.

    XLA may leave out a rounding to bfloat16 between two operations, and does so in one program and not in
    another. The log-probs of a policy and of its reference would then differ where their weights do not: a
    first DPO loss was 9e-5 off log 2.
    """
    return OnMesh(jax.jit(function, compiler_options={"xla_allow_excess_precision": False}, **options), mesh)


def batch_shards(mesh: Mesh) -> int:
    """Devices along the batch axes: rows of a batch must be a multiple of this."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def describe_mesh(mesh: Mesh) -> str:
    return " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
