"""Block sizes as data: each with its reason and, where there is one, its measurement.

A scan carries a float32 accumulator through its blocks, so its traffic is a fraction `intensity / block` of
the compute (`Machine.intensity`, FLOPs a byte): ten times the intensity keeps it below a tenth. Larger
blocks only cost memory. `jaxpref bench tune` prints the table of the machine it runs on.
"""

import dataclasses
import math

from jaxpref.kernels.machines import Machine

__all__ = ["BLOCKS", "Blocks", "balanced", "blocks_for"]

TILE_BYTES = 512 * 2**20  # of one float32 tile of logits: a few per cent of the smallest accelerator's memory
_LANES = 128  # a TPU's vector registers and a GPU's tiles are this wide or divide it


@dataclasses.dataclass(frozen=True)
class Blocks:
    """`vocab`: columns of a block of `vocab_scan`; `tokens`: rows of one of `token_scan`."""

    vocab: int
    tokens: int
    reason: str


BLOCKS = {
    "cpu": Blocks(2048, 512, "measured, see BENCHMARKS.md: 2048 to 8192 columns within 5 %, memory grows"),
    "TPU v5 lite": Blocks(2560, 2560, "ten times 240 FLOPs a byte"),
    "TPU v5": Blocks(2048, 2048, "ten times 166 FLOPs a byte, rounded up to what v5e and v6e divide"),
    "TPU v5p": Blocks(2048, 2048, "as TPU v5, its other name"),
    "TPU v6 lite": Blocks(5632, 5632, "ten times 560 FLOPs a byte"),
    "gpu": Blocks(8192, 8192, "four times the 1,840 that H200 needs: fewer, larger products (not measured)"),
    "other": Blocks(4096, 4096, "between the others"),
}


def blocks_for(machine: Machine, *, rows: int, vocab: int) -> Blocks:
    """The table's entry, made equal in size and small enough that one tile of logits fits `TILE_BYTES`."""
    entry = BLOCKS.get(machine.kind) or BLOCKS.get(machine.platform) or BLOCKS["other"]
    columns = max(min(entry.vocab, TILE_BYTES // (4 * rows)), _LANES)
    tokens = max(min(entry.tokens, TILE_BYTES // (4 * vocab)), 1)
    return Blocks(balanced(vocab, columns), balanced(rows, tokens, multiple=8), entry.reason)


def balanced(total: int, block: int, *, multiple: int = _LANES) -> int:
    """As many blocks as `block` gives, but of nearly equal size: 50,257 in blocks of 4,096 leaves no small
    tail (13 of 3,968, the last 2,641)."""
    if block >= total:
        return total
    even = math.ceil(total / math.ceil(total / block))
    return min(math.ceil(even / multiple) * multiple, total)
