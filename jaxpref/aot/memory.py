"""What lies on one device, by kind: what stays there while a stage runs, and a program's own."""

import dataclasses

from jaxpref.aot.programs import Compiled, Laid
from jaxpref.aot.sizes import bytes_on_device

__all__ = ["Memory", "memory_of", "resident"]


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
    """The residents, what fills up the tiles of a program's arguments, and its temporaries (activations,
    gradients, collectives' buffers, results that replace nothing)."""
    filling = max(program.arguments - program.given, 0)
    own = {"filled tiles": filling, "temporaries": program.temporaries}
    return Memory(resident(laid) | own, limit)
