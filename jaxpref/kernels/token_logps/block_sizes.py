"""Block sizes as data: each with its reason and, where there is one, its measurement.

A scan carries a float32 accumulator through its blocks, so its traffic is a fraction `intensity / block` of
the compute (`Machine.intensity`, FLOPs a byte): ten times the intensity keeps it below a tenth. Larger
blocks only cost memory. `jaxpref bench tune` prints the table of the machine it runs on.
"""

import dataclasses
import math

from jaxpref.kernels.machines import Machine

__all__ = [
    "BLOCKS",
    "ROW_TILES",
    "ROW_VMEM",
    "TPU_TILES",
    "Blocks",
    "Tiles",
    "balanced",
    "blocks_for",
    "tpu_tiles",
]

TILE_BYTES = 512 * 2**20  # of one float32 tile of logits: a few per cent of the smallest accelerator's memory
_LANES = 128  # a TPU's vector registers and a GPU's tiles are this wide or divide it


@dataclasses.dataclass(frozen=True)
class Blocks:
    """`vocab`: columns of a block of `vocab_scan`; `tokens`: rows of one of `token_scan`."""

    vocab: int
    tokens: int
    reason: str


BLOCKS = {
    "cpu": Blocks(
        2048,
        512,
        "measured, 2048x512x32768 float32: 512 to 16,384 columns within 5 % (1,839 CPU ms a core at 2,048, "
        "24 MiB), so few blocks for few rows; 512 rows 1,808 ms, 256 are 4 % and 128 13 % slower",
    ),
    "TPU v5 lite": Blocks(2560, 2560, "ten times 240 FLOPs a byte"),
    "TPU v5": Blocks(2048, 2048, "ten times 166 FLOPs a byte, rounded up to what v5e and v6e divide"),
    "TPU v5p": Blocks(2048, 2048, "as TPU v5, its other name"),
    "TPU v6 lite": Blocks(5632, 5632, "ten times 560 FLOPs a byte"),
    "gpu": Blocks(8192, 8192, "four times the 1,840 that H200 needs: fewer, larger products (not measured)"),
    "other": Blocks(4096, 4096, "between the others"),
}


def blocks_for(machine: Machine, *, rows: int, vocab: int) -> Blocks:
    """The table's entry, made equal in size and small enough that one tile of logits fits `TILE_BYTES`.

    Returns:
      Block sizes: columns of the vocabulary, and tokens.

    Example:
      >>> from jaxpref.kernels.machines import CPU
      >>> from jaxpref.kernels.token_logps.block_sizes import blocks_for
      >>> blocks = blocks_for(CPU, rows=8, vocab=4096)  # 4,096 columns in two blocks of 2,048
      >>> print(blocks.vocab, blocks.tokens)
      2048 8
    """
    entry = BLOCKS.get(machine.kind) or BLOCKS.get(machine.platform) or BLOCKS["other"]
    columns = max(min(entry.vocab, TILE_BYTES // (4 * rows)), _LANES)
    tokens = max(min(entry.tokens, TILE_BYTES // (4 * vocab)), 1)
    return Blocks(balanced(vocab, columns), balanced(rows, tokens, multiple=8), entry.reason)


def balanced(total: int, block: int, *, multiple: int = _LANES) -> int:
    """A block size that gives as many blocks as `block`, but of nearly equal size.

    Args:
      multiple: the size is a multiple of it, or `total`.

    Returns:
      The size, at most `total`.

    Example:
      >>> from jaxpref.kernels.token_logps.block_sizes import balanced
      >>> print(balanced(50_257, 4096))  # 13 blocks, as with 4,096, and no small tail: the last has 2,641
      3968
    """
    if block >= total:
        return total
    even = math.ceil(total / math.ceil(total / block))
    return min(math.ceil(even / multiple) * multiple, total)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Of the TPU kernels: `rows` of hidden states by `width` against `vocab` rows of weights by `width`.
    `vmem`: bytes of on-chip memory that the compiler may use. `cores` share the blocks of rows."""

    rows: int
    vocab: int
    width: int
    vmem: int
    reason: str
    cores: int = 1


# Weights are read once for every block of rows: with 1,024 rows in bfloat16, in 0.24 (v5e), 0.16 (v5p) and
# 0.55 (v6e) of the time that the products take. States up to 4,096 wide stay on chip for all blocks of the
# vocabulary. Chosen by arithmetic and compiles, not measured on a chip. States of at most `_NARROW` get twice
# the columns, since their products hide less of the work on the carry: libtpu's schedule has a sixth fewer
# instructions a column on v6e, 5 % fewer on v5e (width 896).
TPU_TILES = {
    "TPU v5 lite": Tiles(1024, 1024, 4096, 100 * 2**20, "128 MiB VMEM"),
    "TPU v5": Tiles(1024, 1024, 4096, 60 * 2**20, "two cores of 64 MiB VMEM", 2),
    "TPU v5p": Tiles(1024, 1024, 4096, 60 * 2**20, "as TPU v5, its other name", 2),
    "TPU v6 lite": Tiles(1024, 1024, 4096, 100 * 2**20, "128 MiB VMEM"),
    "tpu": Tiles(256, 512, 2048, 15 * 2**20, "an unknown TPU: inside the 16 MiB that all of them have"),
}
_NARROW = 1024
ROW_TILES = (256, 2048)  # of logits that exist: a few MiB, so that fetching one hides the work on another
ROW_VMEM = 32 * 2**20  # bytes for two such tiles of float32 and what is computed of them


def _vmem(tiles: Tiles, sizes: tuple[int, int]) -> int:
    """Bytes that the fused kernel needs, at most (what libtpu takes, by bisection, is 0.4 to 1.0 of it).

    Operands twice, as one is fetched while one is used, what they are converted to, and six float32 tiles of
    logits. `sizes`: bytes of an entry of the states, the weights.
    """
    hidden, weight = sizes
    states, words = tiles.rows * tiles.width, tiles.vocab * tiles.width
    converted = words * hidden if weight != hidden else 0
    pieces = 8 * (states + words) if hidden == 4 else 0  # float32 products are sums of bfloat16 ones
    return 2 * (states * hidden + words * weight) + converted + pieces + 24 * tiles.rows * tiles.vocab


def tpu_tiles(
    machine: Machine, *, rows: int, vocab: int, width: int, sizes: tuple[int, int], block: int = 0
) -> Tiles:
    """The table's entry cut to these shapes and, where operands are wide, to its VMEM.

    Args:
      sizes: bytes of an entry of the states and of the weights.
      block: columns that the user asked for, rounded up to whole lanes; they are kept while anything else can
        shrink. 0: none asked for.

    Returns:
      Tiles of the fused kernel.

    Example:
      >>> from jaxpref.kernels.machines import MACHINES
      >>> from jaxpref.kernels.token_logps.block_sizes import tpu_tiles
      >>> machine, shape = MACHINES["TPU v5 lite"], {"rows": 512, "vocab": 32_768, "width": 2048}
      >>> tiles = tpu_tiles(machine, **shape, sizes=(2, 2), block=300)  # columns: 3 x 128
      >>> print(tiles.rows, tiles.vocab, tiles.width)
      512 384 2048
    """
    entry = TPU_TILES.get(machine.kind) or TPU_TILES["tpu"]
    if width <= _NARROW:
        entry = dataclasses.replace(entry, vocab=2 * entry.vocab)
    asked = math.ceil(block / _LANES) * _LANES

    def cut(most: Tiles) -> Tiles:
        columns = min(asked, vocab) if asked else balanced(vocab, most.vocab)
        blocks = math.ceil(rows / (most.rows * most.cores)) * most.cores
        return dataclasses.replace(
            most,
            rows=balanced(rows, math.ceil(rows / blocks), multiple=16),
            vocab=columns,
            width=balanced(width, most.width),
        )

    tiles = cut(entry)
    while _vmem(tiles, sizes) > entry.vmem:
        sides = {"vocab": 0 if asked else tiles.vocab, "rows": tiles.rows, "width": tiles.width // 4}
        longest = max(sides, key=lambda name: sides[name])
        half = getattr(tiles, longest) // 2
        if half < _LANES:
            break  # the compiler will say what is too large
        tiles = cut(dataclasses.replace(tiles, **{longest: half}))
    return tiles
