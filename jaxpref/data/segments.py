"""Recorded behaviour: `n` rows of `k` segments each, for control, tables of states and routes."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxpref.data.columns import declared_axes, fitting, with_tokens
from jaxpref.data.records import held_out_rows
from jaxpref.types import Segments, check_segments, column_axes

__all__ = ["SegmentRecords"]


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentRecords:
    """`n` rows of `k` segments (a pair is `k = 2`; demonstrations are `k = 1`), padded in time.

    observations   [n, k, t, ...], float32, or int32 states
    actions        [n, k, t, ...], float32, or int32 actions
    step_lengths   int64 [n, k]: real steps of each segment, 1 or more; they may differ. 0: there is none (an
                   absent demonstration, which no preference may name: its own are all 1/2), but not in a
                   whole row
    preferences    float32 [n, k, k], P(segment i beats segment j), or None: the first is preferred
    group          int64 [n]: rows of one group are never parted by `split`
    columns        arrays whose first axis is `n`, as in `data.Records`
    metadata       where the records come from
    """

    observations: np.ndarray
    actions: np.ndarray
    step_lengths: np.ndarray
    preferences: np.ndarray | None = None
    group: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = self.step_lengths
        if steps.ndim != 2 or steps.dtype.kind not in "iu":
            raise ValueError(
                f"segments: step_lengths: expected integers [n, k], got {steps.dtype} {steps.shape}"
            )
        n, k = steps.shape
        if not len(self.group):
            object.__setattr__(self, "group", np.arange(n))
        t = self.observations.shape[2] if self.observations.ndim > 2 else 0
        for name in ("observations", "actions"):
            values = getattr(self, name)
            if values.shape[:3] != (n, k, t) or values.dtype.kind not in "fiub":
                raise ValueError(
                    f"segments: {name}: expected numbers [{n}, {k}, {t}, ...], got {values.dtype} "
                    f"{values.shape}"
                )
        for name, values in {"group": self.group, **self.columns}.items():
            if len(values) != n:
                raise ValueError(f"segments: {name}: expected one for each of {n} rows, got {len(values)}")
        if self.preferences is None and k > 1:
            # Ahead in order is ahead in preference, so that losses of probabilities take hard labels too.
            order = np.arange(k)
            hard = 0.5 + 0.5 * np.sign(order[None] - order[:, None])
            object.__setattr__(self, "preferences", np.broadcast_to(hard, (n, k, k)).astype(np.float32))
        lengths, absent = self.step_lengths, self.step_lengths == 0
        if absent.any() and self.preferences is not None and self.preferences.shape == (n, k, k):
            absent &= (lengths > 0).any(-1, keepdims=True) & (self.preferences == 0.5).all(-1)
        else:
            absent[:] = False
        short = np.argwhere((lengths < 1) & ~absent | (lengths > t))
        if short.size:
            row, j = short[0]
            raise ValueError(
                f"segments: row {row}, segment {j} has {lengths[row, j]} steps; expected 1 to {t}"
                + (" (0 beside others that have some, and with preferences of 1/2)" if k > 1 else "")
            )

    @staticmethod
    def pairs(
        observations: np.ndarray,
        actions: np.ndarray,
        second_preferred: np.ndarray,
        step_lengths: np.ndarray | None = None,
        **others: Any,
    ) -> "SegmentRecords":
        """Pairs `[n, 2, t, ...]` with labels in [0, 1]: P(segment 1 beats segment 0), one half for a tie.

        This is the sign of most released data ("1: the second one is preferred").

        Raises:
          ValueError: shapes do not fit, or a label is outside [0, 1].
        """
        second = np.asarray(second_preferred, np.float64)
        n = len(observations)
        if observations.shape[:2] != (n, 2) or second.shape != (n,):
            raise ValueError(
                f"segments: expected pairs [n, 2, t, ...] and n labels, got observations "
                f"{observations.shape} and labels {second.shape}"
            )
        if not ((second >= 0) & (second <= 1)).all():
            row = np.flatnonzero(~((second >= 0) & (second <= 1)))[0]
            raise ValueError(f"segments: label {row} is {second[row]}; expected a probability in [0, 1]")
        if step_lengths is not None and (np.asarray(step_lengths) < 1).any():
            row, j = np.argwhere(np.asarray(step_lengths) < 1)[0]
            raise ValueError(
                f"segments: row {row}, segment {j} has {step_lengths[row][j]} steps; both segments of a "
                "pair have 1 or more"
            )
        half = np.full(n, 0.5)
        preferences = np.stack([np.stack([half, 1 - second], 1), np.stack([second, half], 1)], 1)
        if step_lengths is None:
            step_lengths = np.full((n, 2), observations.shape[2], np.int64)
        return SegmentRecords(
            observations, actions, step_lengths, preferences.astype(np.float32), **others
        ).checked()

    def checked(self) -> "SegmentRecords":
        """Returns itself; raises ValueError where shapes do not fit or a number is not finite."""
        at = np.arange(self.observations.shape[2])
        check_segments(self._segments(np.arange(len(self)), at < self.step_lengths[..., None]))
        return self

    def __len__(self) -> int:
        return len(self.step_lengths)

    @property
    def k(self) -> int:
        """Segments of each row."""
        return self.step_lengths.shape[1]

    # What a `Loader` reads; segments have no prompt.

    @property
    def prompt_lengths(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    @property
    def response_lengths(self) -> np.ndarray:
        return self.step_lengths

    def check_vocab(self, vocab_size: int) -> None:
        """Raises ValueError unless actions are numbers below `vocab_size`, or vectors where it is 0."""
        numbered = self.actions.dtype.kind in "iu"
        if numbered != (vocab_size > 0) or (numbered and self.actions.max(initial=0) >= vocab_size):
            given = f"numbers up to {self.actions.max(initial=0)}" if numbered else "vectors"
            wanted = f"takes one of {vocab_size}" if vocab_size else "gives vectors"
            raise ValueError(f"segments: actions are {given}, and the policy {wanted}")

    def rows(
        self,
        indices: Sequence[int] | np.ndarray,
        *,
        prompt_length: int | None = None,
        response_length: int | None = None,
        pad_id: int = 0,
    ) -> Segments:
        """The rows, cut to `response_length` steps (the longest row asked for, by default).

        An index of -1 gives a row of padding: every mask False.
        """
        del prompt_length, pad_id
        indices = np.asarray(indices, np.int64)
        lengths = np.where((indices >= 0)[:, None], self.step_lengths[indices], 0)
        longest = int(lengths.max(initial=1))
        room = longest if response_length is None else response_length
        if room < longest:
            raise ValueError(f"response_length={room}, but a row has {longest} steps; use a larger bucket")
        return self._segments(indices, np.arange(room) < lengths[..., None])

    def _segments(self, indices: np.ndarray, mask: np.ndarray) -> Segments:
        room, real = mask.shape[-1], indices >= 0
        columns = {"example_ids": np.where(real, indices, 0).astype(np.int32)}
        for name in sorted(self.columns):
            values = np.asarray(self.columns[name][indices])
            axes = column_axes(name, values, dict(declared_axes(self.metadata)))
            values = with_tokens(values, axes, room)
            kept = real.reshape((-1,) + (1,) * (values.ndim - 1))
            columns[name] = np.where(kept, values, np.zeros((), values.dtype))
        preferences = None
        if self.preferences is not None:
            preferences = np.where(real[:, None, None], self.preferences[indices], np.float32(0.5))
        return Segments(
            observations=_stretched(self.observations[indices], room),  # pyright: ignore[reportArgumentType]
            actions=_stretched(self.actions[indices], room),  # pyright: ignore[reportArgumentType]
            step_mask=mask,  # pyright: ignore[reportArgumentType]
            preferences=preferences,  # pyright: ignore[reportArgumentType]
            columns=columns,  # pyright: ignore[reportArgumentType]
            column_axes=declared_axes(self.metadata),
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> "SegmentRecords":
        """The rows at `indices` (or where a bool array is True), in that order."""
        indices = np.asarray(indices)
        return dataclasses.replace(
            self,
            observations=self.observations[indices],
            actions=self.actions[indices],
            step_lengths=self.step_lengths[indices],
            preferences=None if self.preferences is None else self.preferences[indices],
            group=self.group[indices],
            columns=MappingProxyType({name: values[indices] for name, values in self.columns.items()}),
        )

    def flat(self) -> "SegmentRecords":
        """Makes each segment a row of its own (`k = 1`), to imitate all of them."""
        return self._single(self.step_lengths > 0)

    def preferred(self, threshold: float = 0.5) -> "SegmentRecords":
        """Segments of pairs preferred with probability `threshold` or more, one a row; of a tie, both."""
        if self.k != 2 or self.preferences is None:
            raise ValueError(f"preferred: expected pairs, got {self.k} segments a row")
        kept = np.stack([self.preferences[:, 0, 1], self.preferences[:, 1, 0]], 1) >= threshold
        return self._single(kept & (self.step_lengths > 0))

    def _single(self, kept: np.ndarray) -> "SegmentRecords":
        """The segments where `kept`, bool [n, k], is True, row by row, one a row."""
        return SegmentRecords(
            self.observations[kept][:, None],
            self.actions[kept][:, None],
            self.step_lengths[kept][:, None],
            group=np.broadcast_to(self.group[:, None], kept.shape)[kept],
            metadata=self.metadata,
        )

    def split(self, held_out: float, *, seed: int = 0) -> tuple["SegmentRecords", "SegmentRecords"]:
        """`(train, held_out)`; no group is on both sides (see `Records.split`)."""
        away = held_out_rows(self.group, held_out, seed=seed)
        if away.all() or not away.any():
            raise ValueError(
                f"split: held_out={held_out} leaves {int(away.sum())} of {len(self)} rows held out; use "
                "another share, seed or more data"
            )
        return self.take(~away), self.take(away)

    def with_column(self, name: str, values: np.ndarray, *, axes: str | None = None) -> "SegmentRecords":
        """A copy with one more (or replaced) column; `axes` as in `Records.with_column`, steps are `r`."""
        values, metadata = fitting(name, values, axes, self.metadata, {"b": len(self), "k": self.k})
        columns = MappingProxyType({**self.columns, name: values})
        return dataclasses.replace(self, columns=columns, metadata=metadata)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes one compressed .npz file under another name, then renames it."""
        path = pathlib.Path(path)
        arrays = {f"columns/{name}": values for name, values in self.columns.items()}
        arrays |= {f"axes/{name}": np.array(axes) for name, axes in declared_axes(self.metadata)}
        for field in ("observations", "actions", "step_lengths", "preferences", "group"):
            if getattr(self, field) is not None:
                arrays[field] = getattr(self, field)
        partial = path.with_name(path.name + ".partial.npz")
        np.savez_compressed(partial, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(path)

    @staticmethod
    def load(path: str | pathlib.Path) -> "SegmentRecords":
        """Reads what `save` wrote; raises ValueError for a file that is missing or damaged."""
        try:
            with open(path, "rb") as file, np.load(file) as archive:
                arrays = dict(archive)
            fields = {name: values for name, values in arrays.items() if "/" not in name}
            columns = {n.removeprefix("columns/"): v for n, v in arrays.items() if n.startswith("columns/")}
            axes = {n.removeprefix("axes/"): str(v) for n, v in arrays.items() if n.startswith("axes/")}
            metadata = {"column_axes": axes} if axes else {}
            return SegmentRecords(**fields, columns=columns, metadata=metadata).checked()
        except (OSError, EOFError, TypeError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: no segments could be read ({error}); write it again") from error


def _stretched(values: np.ndarray, room: int) -> np.ndarray:
    """Cut or padded with zeros to `room` steps, in a 32-bit type."""
    kind = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.int32}[values.dtype.kind]
    missing = max(room - values.shape[2], 0)
    padding = [(0, 0), (0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 3)
    return np.pad(values[:, :, :room], padding).astype(kind)
