"""Batches of records, in an order that is a pure function of (seed, step)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxpref.data.content import content_of

__all__ = ["Loader", "Table"]


class Table(Protocol):
    """What batches are made of: `Records` or `SegmentRecords`."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    def __len__(self) -> int: ...

    @property
    def k(self) -> int: ...

    @property
    def prompt_lengths(self) -> np.ndarray: ...

    @property
    def response_lengths(self) -> np.ndarray: ...

    def rows(
        self, indices: np.ndarray, *, prompt_length: int | None, response_length: int | None, pad_id: int
    ) -> Any: ...


class Loader:
    """Deterministic, bucketed batches; the position is the step number and nothing else.

    Global batch `s` is positions `[s * batch_size, (s + 1) * batch_size)` of an endless sequence of
    permutations of the rows, one per epoch, each seeded by `(seed, epoch)`: every row occurs once per epoch,
    and a batch may straddle two. So resuming at any step costs one permutation of `n` rows (about 15 ms a
    million, paid once per epoch anyway), however many batches came before.

    A loader knows no devices and no processes: whoever needs a part of a batch names its rows, and no other
    row is read. A part is padded like the whole, to the smallest bucket that holds the longest prompt
    (response) of the *global* batch, so parts fit together, and a step compiles once per pair of buckets
    used.
    """

    def __init__(
        self,
        records: Table,
        *,
        batch_size: int,
        seed: int = 0,
        prompt_buckets: Sequence[int] | None = None,
        response_buckets: Sequence[int] | None = None,
        shuffle: bool = True,
    ):
        """`batch_size` is global. Buckets default to one, the longest row rounded up to a multiple of 8.

        Raises ValueError for an empty table, a batch without rows, or a row longer than the largest bucket.
        """
        if len(records) == 0:
            raise ValueError("Loader: the records are empty; there is nothing to train or evaluate on")
        if batch_size < 1:
            raise ValueError(f"Loader: batch_size counts from 1, got {batch_size}")
        self.records = records
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.prompt_buckets = _buckets("prompt_buckets", prompt_buckets, records.prompt_lengths)
        self.response_buckets = _buckets("response_buckets", response_buckets, records.response_lengths)
        self._longest = records.response_lengths.max(-1)
        self._pad_id = int(records.metadata.get("pad_id", 0))
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every row occurs once; may be a fraction."""
        return len(self.records) / self.batch_size

    @property
    def description(self) -> dict[str, Any]:
        """What must be equal for a resumed run to see the same batches (plain values, for a checkpoint)."""
        return {
            "rows": len(self.records),
            "k": self.records.k,
            "tokens": int(self.records.prompt_lengths.sum() + self.records.response_lengths.sum()),
            "content": content_of(self.records),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "prompt_buckets": list(self.prompt_buckets),
            "response_buckets": list(self.response_buckets),
        }

    def indices(self, step: int) -> np.ndarray:
        """Row numbers of global batch `step` (from 0), int64 [batch_size]."""
        if step < 0:
            raise ValueError(f"Loader: steps count from 0, got {step}")
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, len(self.records))
        if not self.shuffle:
            return offsets
        # Ascending epochs, so the order kept for the next call is the last one.
        return np.concatenate([self._order(int(e))[offsets[epochs == e]] for e in np.unique(epochs)])

    def batch(self, step: int, rows: np.ndarray | None = None) -> Any:
        """Global batch `step`: numpy arrays [batch_size, ...]. With `rows` (int [m], each from 0 to
        batch_size - 1), those of its rows alone, [m, ...]."""
        return self._rows(self.indices(step), rows)

    def evaluation_batch(self, index: int, rows: np.ndarray | None = None) -> Any:
        """Batch `index` (from 0) of one pass in table order, or `rows` of it as in `batch`; the last one is
        filled up with rows whose masks are False."""
        indices = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        return self._rows(np.where(indices < len(self.records), indices, -1), rows)

    def evaluation_batches(self) -> Iterator[Any]:
        """Yields one pass over the table, whole batches."""
        return (self.evaluation_batch(index) for index in range(self.evaluation_steps()))

    def evaluation_steps(self) -> int:
        """Batches of one pass."""
        return -(-len(self.records) // self.batch_size)

    def shapes(self) -> list[tuple[int, int]]:
        """Every (prompt, response) bucket pair that a batch can have: what a step may compile for."""
        return [(p, r) for p in self.prompt_buckets for r in self.response_buckets]

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
            self._epoch = (epoch, generator.permutation(len(self.records)))
        return self._epoch[1]

    def _rows(self, indices: np.ndarray, rows: np.ndarray | None) -> Any:
        real = indices[indices >= 0]
        return self.records.rows(
            indices if rows is None else indices[rows],
            prompt_length=_smallest(self.prompt_buckets, self.records.prompt_lengths[real].max()),
            response_length=_smallest(self.response_buckets, self._longest[real].max()),
            pad_id=self._pad_id,
        )


def _buckets(name: str, given: Sequence[int] | None, lengths: np.ndarray) -> tuple[int, ...]:
    longest = int(lengths.max())
    if given is None:
        return (max(8, -(-longest // 8) * 8),)
    buckets = tuple(sorted(set(given)))
    if not buckets or buckets[0] < 1:
        raise ValueError(f"{name}: expected positive lengths, got {tuple(given)}")
    if longest > buckets[-1]:
        raise ValueError(
            f"{name}: the largest is {buckets[-1]} and the longest row has {longest} tokens; add a bucket or "
            "prepare the records with a smaller budget"
        )
    return buckets


def _smallest(buckets: Sequence[int], length: int) -> int:
    return next(bucket for bucket in buckets if bucket >= length)
