"""Whether all processes train on the same batch, and have on their devices what it says."""

import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref.data.loader import Loader
from jaxpref.training import job, sharding

__all__ = ["check_batch", "checksum", "digest"]


def check_batch(stage: str, loader: Loader, step: int, mesh: Mesh) -> None:
    """Compares the global batch of a step among the processes, each of which reads all of it here, and then
    with what lies on the devices after each has placed its rows, as training does. Once for a stage, and
    where there are several processes.

    Raises:
      ValueError: they differ, in all processes; says which one has another batch, or where.
    """
    current = job.current()
    if current.count == 1:
        return
    whole = loader.batch(step)
    digests = current.gather("digest of the batch", digest(whole))
    differing = [i for i, one in enumerate(digests) if one != digests[0]]
    if differing:
        raise ValueError(
            f"{stage}: {current.name(differing[0])} reads another batch {step} than process 0; the records "
            "or their files differ between workers: give all the same ones"
        )
    placed = sharding.put_batch(partial(loader.batch, step), loader.batch_size, mesh)
    wanted, there = checksum(whole), _placed_checksum(placed, mesh)
    wrong = [name for name in wanted if wanted[name] != there[name]]
    told = current.gather("batch on devices", wrong)
    for process, names in enumerate(told):
        if names:
            raise ValueError(
                f"{stage}: batch {step} on the devices is not the one that the processes read: {names[0]} "
                f"differs, as {current.name(process)} sees it. Rows were placed wrongly for the mesh "
                f"{sharding.describe_mesh(mesh)}; this is a fault of jaxpref, please report it"
            )


def digest(batch: Any) -> str:
    """SHA-256 of the arrays of a batch: names, shapes, dtypes and values."""
    found = hashlib.sha256()
    for name, array in _named(batch).items():
        values = np.ascontiguousarray(array)
        found.update(f"{name} {values.dtype} {values.shape}\0".encode())
        found.update(values.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def checksum(batch: Any) -> dict[str, int]:
    """For each array a sum of its values' bits, each times an odd number that its position gives, modulo
    2^32: exact in any order, so arrays that are split over devices have it too."""
    return {name: int(_sum(array, np)) for name, array in _named(batch).items()}


def _placed_checksum(batch: Any, mesh: Mesh) -> dict[str, int]:
    def sums(batch: Any) -> dict[str, jax.Array]:
        return {name: _sum(array, jnp) for name, array in _named(batch).items()}

    whole = NamedSharding(mesh, PartitionSpec())
    return {n: int(x) for n, x in sharding.on_mesh(sums, mesh, out_shardings=whole)(batch).items()}


def _named(batch: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): x
        for path, x in jax.tree.leaves_with_path(batch)
    }


def _sum(array: Any, numpy: Any) -> Any:
    """Of a numpy array, or of one in a compiled program."""
    # As devices would hold it: 64 bits are cut to 32 where jax does so.
    array = numpy.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))
    if array.dtype == bool:
        array = array.astype(np.uint8)
    size = array.dtype.itemsize
    bits = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[size]
    if numpy is np:
        values = np.ascontiguousarray(array).view(bits) if size < 8 else np.atleast_1d(array).view(bits)
    else:
        values = jax.lax.bitcast_convert_type(array, bits)
    values = values.reshape(-1).astype(np.uint32) + np.uint32(1)
    # Mixed, since evenly spaced ones would take two rows of the same sum for one another.
    weights = numpy.arange(1, values.size + 1, dtype=np.uint32) * np.uint32(2654435761)
    weights = (weights ^ (weights >> np.uint32(15))) * np.uint32(2246822519) | np.uint32(1)
    return (values * weights).sum(dtype=np.uint32)
