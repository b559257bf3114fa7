"""Constants of a run: arrays that are not trained, loaded once and laid out over the mesh."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxpref.models.hub.lazy import LazyArray, in_order
from jaxpref.models.quantized import formats
from jaxpref.policies.base import Model, Policy
from jaxpref.training import sharding
from jaxpref.types import Params

__all__ = [
    "Loaded",
    "adapters_of",
    "check_adapters",
    "check_base",
    "check_same",
    "fingerprint",
    "loaded",
    "other_scheme",
]

# What is hashed, and in which order: to be raised where that changes, since fingerprints of two schemes say
# nothing of one another.
_SCHEME = "leaves1:"
_PART = 2**28  # bytes of an array on devices that are fetched at a time


class Loaded(NamedTuple):
    """Params by name, and a fingerprint of each: all of them that a checkpoint holds."""

    params: dict[str, Params]
    fingerprints: dict[str, str]
    arrays: dict[Any, jax.Array]  # all of the params, by values and layout

    def __or__(self, other: "Loaded") -> "Loaded":
        return Loaded(
            self.params | other.params, self.fingerprints | other.fingerprints, self.arrays | other.arrays
        )


def loaded(models: Mapping[str, Model], mesh: jax.sharding.Mesh, arrays: Mapping[Any, jax.Array]) -> Loaded:
    """Models on the mesh, each as its axes say. Of lazy arrays, a process reads what its devices hold, and
    its share of all of them for the fingerprint.

    What has the values of one of `arrays` or of an earlier model, such as the base of a judge that is the
    policy's own, is that array.
    """
    made = Loaded({}, {}, {})
    for name, model in models.items():
        made |= _loaded(name, model, mesh, {**arrays, **made.arrays})
    return made


def _loaded(name: str, model: Model, mesh: jax.sharding.Mesh, arrays: Mapping[Any, jax.Array]) -> Loaded:
    shardings = sharding.param_shardings(model.params, model.axes, mesh)
    # What is quantised as it is read is small on the devices, and would be quantised again.
    put = sharding.put_params(model.params, shardings) if formats(model.params) else None
    params = model.params if put is None else put
    leaves, tree = jax.tree.flatten(params)
    hashed = _hashed(params)
    layouts = jax.tree.leaves(shardings)
    keys = [(x.digest, x.dtype, x.shape, layout) for x, layout in zip(hashed, layouts, strict=True)]
    fresh = {key: leaf for key, leaf in zip(keys, leaves, strict=True) if key not in arrays}
    values: list[Any] = [*fresh.values()]
    if put is None:
        values = sharding.put_params(values, [key[-1] for key in fresh])
    known = {**arrays, **dict(zip(fresh, values, strict=True))}
    found = jax.tree.unflatten(tree, [known[key] for key in keys])
    return Loaded({name: found}, {name: _fingerprint(hashed, params)}, {key: known[key] for key in keys})


def fingerprint(params: Any) -> str:
    """What tells arrays apart: SHA-256 of the name, type, shape and SHA-256 of the values of each, and which
    formats there are if weights are quantised.

    It is the same for arrays of numpy, lazy ones and those on devices, however they lie there. All processes
    of a run must call this: each hashes some of the arrays, one after the other, and of lazy ones reads no
    others, some rows (of a stack: layers) at a time.
    """
    return _fingerprint(_hashed(params), params)


class _Hashed(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


def _hashed(params: Any) -> list[_Hashed]:
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)]
    arrays = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for _, leaf in leaves]
    return [
        _Hashed(name, str(array.dtype), tuple(array.shape), digest.tobytes().hex())
        for (name, _), array, digest in zip(leaves, arrays, _digests(arrays), strict=True)
    ]


def _fingerprint(hashed: Sequence[_Hashed], params: Any) -> str:
    whole = hashlib.sha256()
    for x in hashed:
        whole.update(f"{x.name} {x.dtype} {x.shape} {x.digest}\n".encode())
    return ":".join([_SCHEME + whole.hexdigest(), *formats(params)])


def other_scheme(saved: object) -> bool:
    """Whether a fingerprint was made by another version of `fingerprint`, which cannot be compared."""
    return isinstance(saved, str) and not saved.startswith(_SCHEME)


def check_same(directory: Any, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compares the fingerprints beside a checkpoint with those of the run that reads it.

    Raises:
      ValueError: some differ, or only one side has them.
    """
    differing = sorted(name for name in {*saved, *now} if saved.get(name) != now.get(name))
    older = [name for name in differing if name in now and other_scheme(saved.get(name))]
    if older:
        raise ValueError(
            f"{directory}: the checkpoint was written by another version of jaxpref, whose fingerprints of "
            f"the models {older} cannot be compared; read it with that version, or start in a new workdir"
        )
    for name in differing:
        kinds = [_kinds(side[name]) for side in (saved, now) if name in side]
        if len(set(kinds)) > 1:
            raise ValueError(
                f"{directory}: the checkpoint was written beside a model {name!r} with {kinds[0]} weights, "
                f"and this run has {kinds[1]} ones; give quantize= as it was, or start in a new workdir"
            )
    if differing:
        raise ValueError(
            f"{directory}: the checkpoint was written beside other models of the names {differing} (their "
            "weights differ); give the run the ones it began with, or start in a new workdir"
        )


def adapters_of(policy: Policy) -> dict[str, Any] | None:
    """How strong the adapters of a policy are, which no array says; None: there are none."""
    lora = getattr(policy.model, "lora", None)
    if lora is None:
        return None
    alphas = [list(pair) for pair in lora.alphas]  # as JSON has it
    return {"alpha": lora.alpha, "rank_stabilised": lora.rank_stabilised, "alphas": alphas}


def check_adapters(directory: Any, meta: Mapping[str, Any], policy: Policy) -> None:
    """Compares the scale of adapters beside a checkpoint with that of the policy that reads it.

    Raises:
      ValueError: they differ: the adapters would change the base by another amount than they were trained to.
    """
    saved, now = meta.get("adapters"), adapters_of(policy)
    if saved is None or now is None or saved == now:  # without arrays of adapters, shapes tell
        return
    differing = [
        f"{name}={saved.get(name)}, and {now[name]} here" for name in now if saved.get(name) != now[name]
    ]
    raise ValueError(
        f"{directory}: the adapters were trained with {'; '.join(differing)}; give those of LoRA as they "
        "were (finetune.py: lora_alpha=)"
    )


def check_base(
    directory: Any,
    saved: Mapping[str, str],
    now: Mapping[str, str],
    *,
    other_base: bool,
    option: str,
    say: Callable[[str], None],
) -> None:
    """Compares the base that adapters were trained above with the one they are read above, among the
    fingerprints beside a checkpoint and those of whoever reads it.

    `other_base`: take another one, and say so. `option`: how to ask for that.

    Raises:
      ValueError: they differ, or (in any case) only one side has one.
    """
    before, here = ({n: value for n, value in one.items() if n == "policy"} for one in (saved, now))
    if other_base and before and here:
        if before != here:
            say(
                f"OTHER BASE: the adapters in {directory} were trained above {before['policy'][:24]}... and "
                f"are read above {here['policy'][:24]}..., as {option} asks for"
            )
        return
    try:
        check_same(directory, before, here)
    except ValueError as error:
        if not (before and here):
            raise
        raise ValueError(f"{error}; {option} reads its adapters above this base all the same") from None


def _kinds(of: str) -> str:
    return " and ".join(of.removeprefix(_SCHEME).split(":")[1:]) or "unquantised"


def _digests(arrays: Sequence[Any]) -> np.ndarray:
    """SHA-256 of each array's values, uint8 [n, 32], on every process."""
    owners = _owners([array.size * array.dtype.itemsize for array in arrays], jax.process_count())
    digests = np.zeros((len(arrays), 32), np.uint8)
    for i, array in enumerate(arrays):
        own = owners[i] == jax.process_index()
        digest = hashlib.sha256()
        for part in _parts(array, own):
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        digests[i] = np.frombuffer(digest.digest(), np.uint8)
    if jax.process_count() == 1 or not len(arrays):
        return digests
    return np.asarray(multihost_utils.process_allgather(digests))[owners, np.arange(len(arrays))]


def _owners(sizes: Sequence[int], processes: int) -> np.ndarray:
    """The process that hashes each array: the largest first, to the one that has least to do."""
    owners, work = np.zeros(len(sizes), np.int64), np.zeros(processes)
    for i in np.argsort(-np.asarray(sizes), kind="stable"):
        owners[i] = work.argmin()
        work[owners[i]] += sizes[i]
    return owners


def _parts(array: Any, own: bool) -> Iterator[np.ndarray]:
    """The values in row-major order, where this process hashes them; else it only takes part in fetching."""
    if isinstance(array, LazyArray):
        yield from in_order(array) if own else ()
        return
    size = array.size * array.dtype.itemsize
    at_once = size <= _PART or not isinstance(array, jax.Array) or not array.ndim
    if at_once:
        spread = isinstance(array, jax.Array) and not array.is_fully_addressable
        fetched = sharding.fetch(array) if spread else array
        yield from [np.asarray(fetched)] if own else []
        return
    rows = max(1, _PART * array.shape[0] // size)
    for start in range(0, array.shape[0], rows):
        part = _sliced(array.sharding, min(rows, array.shape[0] - start))(array, start)
        yield from [np.asarray(part)] if own else []


@functools.lru_cache(maxsize=64)
def _sliced(given: Any, rows: int) -> Any:
    """Some rows of an array, whole on every device that holds a part of it."""
    out = NamedSharding(given.mesh, PartitionSpec()) if isinstance(given, NamedSharding) else given
    return jax.jit(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, rows), out_shardings=out)
