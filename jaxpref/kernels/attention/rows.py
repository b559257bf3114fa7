"""Rows `[prompt | response 1 | ... | response k]`, and which token reads which."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

__all__ = ["Marks", "Row", "reads"]


class Marks(NamedTuple):
    """What is known of each token of a row, and how far it sees."""

    segment: Int[Array, "#b t"]  # 0 of the prompt, 1 and up of the responses
    position: Int[Array, "b t"]
    real: Bool[Array, "b t"]  # False for padding of the prompt, which no response reads
    window: Int[Array, ""] | None  # a token reads those fewer than this many positions before it

    def of(self, begin: Array | int, size: int) -> "Marks":
        """Those of `size` tokens."""
        segment, position, real = (part_of(x, begin, size, 1) for x in self[:3])
        return Marks(segment, position, real, self.window)


def part_of(x: Array, begin: Array | int, size: int, axis: int) -> Array:
    """`size` entries of an axis; with one entry it belongs to all."""
    if x.shape[axis] in (1, size):
        return x
    return jax.lax.dynamic_slice_in_dim(x, begin, size, axis)


def reads(queries: Marks, keys: Marks) -> Bool[Array, "b q s"]:
    """Which keys each query reads: those before it in its own segment, itself, and what is real of the
    prompt, within the window.

    Returns:
      `[b, q, s]`, True where it is read.

    Example:
      >>> from jaxpref.kernels.attention.rows import Marks, reads
      >>> real = jnp.array([[True, False, True]])
      >>> marks = Marks(jnp.array([[0, 0, 1]]), jnp.array([[0, 1, 1]]), real, None)
      >>> print(reads(marks, marks)[0].astype(int).tolist())  # the response does not read padding
      [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    own = queries.segment[:, :, None] == keys.segment[:, None]
    distance = queries.position[:, :, None] - keys.position[:, None]
    of_prompt = (keys.segment == 0) & keys.real
    allowed = jnp.where(own, distance >= 0, of_prompt[:, None])
    return allowed if queries.window is None else allowed & (distance < queries.window)


@dataclasses.dataclass(frozen=True)
class Row:
    """Its shape: tokens of the prompt, number of responses, tokens of each of them."""

    prompt: int
    responses: int = 0
    each: int = 0

    @property
    def length(self) -> int:
        return self.prompt + self.responses * self.each

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that a dense form computes."""
        return self.prompt**2 + self.responses * self.each * (self.prompt + self.each)

    def bounds(self) -> list[tuple[int, int]]:
        """Where the segments begin and end; the prompt's comes first."""
        starts = [self.prompt + i * self.each for i in range(self.responses)]
        return [(0, self.prompt), *((start, start + self.each) for start in starts)]

    def segments(self) -> np.ndarray:
        """The segment of each token, int32 [t]."""
        own = np.repeat(np.arange(1, self.responses + 1, dtype=np.int32), self.each)
        return np.concatenate([np.zeros(self.prompt, np.int32), own])

    def blocks(self, size: int, window: int | None) -> np.ndarray:
        """Pairs (block of queries, block of keys), int32 [m, 2], in which some query may read some key,
        whatever the lengths of the prompts. Blocks of `size` tokens; the last one may end beyond the row."""
        count = -(-self.length // size)
        pairs = [
            (i, j) for i in range(count) for j in range(i + 1) if self._meet(i * size, j * size, size, window)
        ]
        return np.array(pairs, np.int32).reshape(-1, 2)

    def _meet(self, q: int, s: int, size: int, window: int | None) -> bool:
        far = np.inf if window is None else window
        for number, (begin, end) in enumerate(self.bounds()):
            first, last = max(q, begin), min(q + size, end) - 1  # queries of this segment
            if first > last:
                continue
            low, high = max(s, begin), min(s + size, end) - 1
            if low <= high and last >= low and max(first - high, 0) < far:
                return True
            # The last real token of the prompt is at least one position before a response's first one.
            if number and s < self.prompt and first - begin + 1 < far:
                return True
        return False
