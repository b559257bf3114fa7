"""What lies on one device, by kind: what stays there while a stage runs, and what a program needs beside it."""

import dataclasses
import math
from typing import Any

import jax

from jaxpref.aot.programs import Compiled, Laid

__all__ = ["Memory", "bytes_on_device", "memory_of", "resident"]


def bytes_on_device(tree: Any) -> int:
    """Bytes on one device of arrays with shardings, without the filling of tiles."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * _width(x.dtype)
        for x in jax.tree.leaves(tree)
    )


def _width(dtype: Any) -> int:
    return 4 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def resident(laid: Laid) -> dict[str, int]:
    """Bytes on one device that stay there while the stage runs, by kind."""
    state = laid.state
    kinds = {"params": bytes_on_device(state.params)}
    others = {
        "optimizer": getattr(state, "opt_state", None),
        **{f"policy {name}": tree for name, tree in getattr(state, "policies", {}).items()},
        **{_constant(name): tree for name, tree in laid.constants.items()},
    }
    kinds |= {name: bytes_on_device(tree) for name, tree in others.items()}
    rest = bytes_on_device(state) + bytes_on_device(laid.constants) - sum(kinds.values())
    kinds["other state"] = rest
    # One that is learnt from, and the next one, which is put together meanwhile.
    kinds["batches (2)"] = 2 * bytes_on_device(laid.batch)
    return {name: size for name, size in kinds.items() if size}


def _constant(name: str) -> str:
    return "base (frozen)" if name == "policy" else f"model {name}"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device at the worst moment of a program."""

    kinds: dict[str, int]  # resident, by kind, then what the program has beside
    limit: float

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    @property
    def missing(self) -> float:
        """Bytes by which it does not fit; 0 where it does."""
        return max(self.total - self.limit, 0.0)


def memory_of(laid: Laid, program: Compiled, limit: float) -> Memory:
    """The residents and a program's own: temporaries (activations, gradients, collectives' buffers, results
    that replace nothing), and what tiles fill up of its arguments."""
    kinds = resident(laid)
    return Memory(kinds | {"temporaries": program.temporaries}, limit)
