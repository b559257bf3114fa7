"""Tokenised preference records: a ragged table of `n` prompts with `k` responses each.

In memory a table is flat token arrays and the place and length of each row in them, so that `take`, `only`
and `split` copy no token and a table larger than memory stays on disk (memory-mapped .npy files). Nothing
here needs TensorFlow. `records_io.py` reads and writes the files.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxpref.data.columns import FIELDS, axes_in, declared_axes, fitting, with_tokens
from jaxpref.data.content import content_of
from jaxpref.types import COLUMNS, Completions

__all__ = ["Example", "Records", "concatenate", "held_out_rows"]


@dataclasses.dataclass(frozen=True)
class Example:
    """One encoded prompt and its responses."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]  # EOS included where the response was not cut
    group: int = 0  # rows of one group stay on one side of a split
    unscored: int = 0  # leading response tokens that are not scored: 1 where nothing predicts the first one
    prompt_truncated: bool = False
    responses_truncated: int = 0  # how many of the responses were cut
    full_lengths: Sequence[int] = ()  # tokens of each response before any was cut; (): as they are
    notes: Sequence[str] = ()  # what was noticed in the texts


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """`n` prompts, `k` responses to each (a pair is `k = 2`, chosen first).

    prompt_tokens    int32 [t], the tokens of every prompt; response_tokens int32 [t'] likewise
    prompt_starts    int64 [n], prompt_lengths int64 [n]: prompt `i` is `tokens[start : start + length]`
    response_starts  int64 [n, k], response_lengths int64 [n, k], EOS included; 0 for an absent response of a
                     list that is shorter than others
    unscored         int64 [n, k]: how many leading tokens of each response are not scored
    group            int64 [n]: rows of one group are never parted by `split`
    columns          arrays whose first axis is `n`: `reference_logps` [n, k] (nats), `preferences`
                     [n, k, k], those of `types.COLUMNS`, or any of your own; losses name them
    metadata         what the manifest says (vocab_size, tokenizer, drops, source, ...)
    """

    prompt_tokens: np.ndarray
    prompt_starts: np.ndarray
    prompt_lengths: np.ndarray
    response_tokens: np.ndarray
    response_starts: np.ndarray
    response_lengths: np.ndarray
    unscored: np.ndarray
    group: np.ndarray
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_starts)

    @property
    def k(self) -> int:
        """Responses to each prompt."""
        return self.response_starts.shape[1]

    @property
    def scored_lengths(self) -> np.ndarray:
        """Scored tokens of each response, int64 [n, k]; 0 for an absent one."""
        return np.maximum(self.response_lengths - self.unscored, 0)

    @property
    def full_lengths(self) -> np.ndarray:
        """Tokens of each response before any was cut, EOS included, int [n, k]; 0 for an absent one."""
        return np.asarray(self.columns.get("full_lengths", self.response_lengths))

    def prompt(self, row: int) -> np.ndarray:
        """Prompt tokens of a row, int32 [p]."""
        start = self.prompt_starts[row]
        return np.asarray(self.prompt_tokens[start : start + self.prompt_lengths[row]])

    def response(self, row: int, index: int) -> np.ndarray:
        """Tokens of one response, int32 [r], EOS included where it was not cut off."""
        start = self.response_starts[row, index]
        return np.asarray(self.response_tokens[start : start + self.response_lengths[row, index]])

    def rows(
        self,
        indices: Sequence[int] | np.ndarray,
        *,
        prompt_length: int | None = None,
        response_length: int | None = None,
        pad_id: int = 0,
    ) -> Completions:
        """The rows as right-padded numpy arrays; lengths default to the longest row asked for.

        An index of -1 gives a row of padding: every mask False. Raises ValueError where a row is longer
        than the length given (nothing is ever cut here; that was decided when the records were made).
        """
        indices = np.asarray(indices, np.int64)
        b, k, real = len(indices), self.k, indices >= 0
        prompt_lengths = np.where(real, self.prompt_lengths[indices], 0)
        lengths = np.where(real[:, None], self.response_lengths[indices], 0)
        p = _room("prompt_length", prompt_length, prompt_lengths)
        r = _room("response_length", response_length, lengths)
        prompts, responses = np.full((b, p), pad_id, np.int32), np.full((b, k, r), pad_id, np.int32)
        for row, index in enumerate(indices):
            if index < 0:
                continue
            prompts[row, : prompt_lengths[row]] = self.prompt(index)
            for j in range(k):
                responses[row, j, : lengths[row, j]] = self.response(index, j)
        at = np.arange(r)
        unscored = self.unscored[indices][..., None]
        columns: dict[str, np.ndarray] = {"example_ids": np.where(real, indices, 0).astype(np.int32)}
        for name in sorted(self.columns):
            values = _narrowed(np.asarray(self.columns[name][indices]))
            values = with_tokens(values, self.axes_of(name), r)
            neutral = np.asarray(0.5 if name == "preferences" else 0, values.dtype)
            columns[name] = np.where(real.reshape((b,) + (1,) * (values.ndim - 1)), values, neutral)
        fields = {name: columns.pop(name) for name in FIELDS if name in columns}
        return Completions(  # pyright: ignore[reportCallIssue]
            prompt_tokens=prompts,  # pyright: ignore[reportArgumentType]
            prompt_mask=np.arange(p) < prompt_lengths[:, None],  # pyright: ignore[reportArgumentType]
            response_tokens=responses,  # pyright: ignore[reportArgumentType]
            response_mask=(at < lengths[..., None]) & (at >= unscored),  # pyright: ignore[reportArgumentType]
            columns=columns,  # pyright: ignore[reportArgumentType]
            column_axes=declared_axes(self.metadata),
            **fields,  # pyright: ignore[reportArgumentType]
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> "Records":
        """The rows at `indices` (or where a bool array is True), in that order; no token is copied."""
        indices = np.asarray(indices)
        rows = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        per_row = (
            "prompt_starts",
            "prompt_lengths",
            "response_starts",
            "response_lengths",
            "unscored",
            "group",
        )
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[rows] for name in per_row},
            columns=MappingProxyType({name: values[rows] for name, values in self.columns.items()}),
        )

    def only(self, response_index: int) -> "Records":
        """One response of each prompt (`k = 1`): `only(0)` of pairs is SFT data on the chosen side.

        Columns of responses keep the entry of this response; `preferences` compares responses and is dropped.
        """
        if not 0 <= response_index < self.k:
            raise ValueError(f"only: expected a response index in [0, {self.k}), got {response_index}")
        pick = slice(response_index, response_index + 1)
        columns = {
            n: v[:, pick] if "k" in self.axes_of(n) else v
            for n, v in self.columns.items()
            if n != "preferences"
        }
        return dataclasses.replace(
            self,
            response_starts=self.response_starts[:, pick],
            response_lengths=self.response_lengths[:, pick],
            unscored=self.unscored[:, pick],
            columns=MappingProxyType(columns),
        )

    def split(self, held_out: float, *, seed: int = 0, by: str = "group") -> tuple["Records", "Records"]:
        """`(train, held_out)`; with `by="group"` no group (prompt) is on both sides.

        A group's side depends on its hash and `seed` alone: it stays there when rows are added, reordered
        or mixed with other data, and the share held out is `held_out` only in expectation. `by="row"`
        parts rows regardless of their prompts. Raises ValueError where a side would be empty.
        """
        if by not in ("group", "row"):
            raise ValueError(f'split: by must be "group" or "row", got {by!r}')
        keys = self.group if by == "group" else np.arange(len(self))
        away = held_out_rows(keys, held_out, seed=seed)
        if away.all() or not away.any():
            raise ValueError(
                f"split: held_out={held_out} of {len(np.unique(keys))} groups leaves "
                f"{int(away.sum())} of {len(self)} rows held out; use another share, seed or more data"
            )
        return self.take(~away), self.take(away)

    def axes_of(self, name: str) -> tuple[str, ...]:
        """The axes of a column, such as `("b", "k")`."""
        return axes_in(name, self.columns[name], self.metadata)

    def with_column(self, name: str, values: np.ndarray, *, axes: str | None = None) -> "Records":
        """A copy with one more (or replaced) column.

        Args:
          axes: what the axes of a column that `types.COLUMNS` lacks are: `b` rows, `k` responses, `r` tokens,
            or a letter of your own, such as "b k" or "b d". A column of one axis is of rows.

        Raises:
          ValueError: the shape does not fit, or `axes` are not said or contradict what is known.
        """
        values, metadata = fitting(name, values, axes, self.metadata, {"b": len(self), "k": self.k})
        columns = MappingProxyType({**self.columns, name: values})
        return dataclasses.replace(self, columns=columns, metadata=metadata)

    def check_vocab(self, vocab_size: int) -> None:
        """Raises ValueError unless every token is an id of a model with `vocab_size` ids (or fewer used)."""
        largest = max((int(t.max()) for t in (self.prompt_tokens, self.response_tokens) if len(t)), default=0)
        needed = max(int(self.metadata.get("vocab_size", 0)), largest + 1)
        if needed > vocab_size:
            raise ValueError(
                f"vocabulary mismatch: the records were made with a tokenizer of {needed} ids and the model "
                f"has {vocab_size}; prepare them with the model's tokenizer or build the model with "
                f"vocab_size={needed}"
            )

    def check_tokenizer(self, fingerprint: str) -> None:
        """Raises ValueError unless the records were made by the tokenizer with this fingerprint."""
        made_by = self.metadata.get("tokenizer")
        if made_by != fingerprint:
            raise ValueError(
                f"tokenizer mismatch: the records were made by {str(made_by)[:12]}..., this one is "
                f"{fingerprint[:12]}...; prepare the records again with this tokenizer"
            )

    @staticmethod
    def from_examples(examples: Sequence[Example], metadata: Mapping[str, Any] | None = None) -> "Records":
        """Packs encoded examples; raises ValueError for none, or for unequal numbers of responses."""
        if not examples:
            drops = dict((metadata or {}).get("drops", {}))
            raise ValueError(f"no example is left to make records of; dropped: {drops or 'none'}")
        k = len(examples[0].responses)
        odd = next((i for i, e in enumerate(examples) if len(e.responses) != k), None)
        if odd is not None:
            raise ValueError(
                f"example {odd} has {len(examples[odd].responses)} responses, the first one has {k}"
            )
        prompt_lengths = np.array([len(e.prompt) for e in examples], np.int64)
        lengths = np.array([[len(r) for r in e.responses] for e in examples], np.int64)
        records = Records(
            prompt_tokens=_flat([e.prompt for e in examples]),
            prompt_starts=starts(prompt_lengths),
            prompt_lengths=prompt_lengths,
            response_tokens=_flat([r for e in examples for r in e.responses]),
            response_starts=starts(lengths.ravel()).reshape(lengths.shape),
            response_lengths=lengths,
            unscored=np.repeat(np.array([[e.unscored] for e in examples], np.int64), k, axis=1),
            group=np.array([e.group for e in examples], np.int64),
            metadata=MappingProxyType(dict(metadata or {})),
        )
        full = lengths.copy()
        for row, example in zip(full, examples, strict=True):
            row[: len(example.full_lengths)] = example.full_lengths
        return records if (full == lengths).all() else records.with_column("full_lengths", full)


def starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of a run of rows of these lengths begins, int64 [n]."""
    return np.cumsum(lengths) - lengths


def _narrowed(values: np.ndarray) -> np.ndarray:
    """In 32 bits, the width that devices use."""
    return values.astype({"f": np.float32, "i": np.int32, "u": np.int32, "b": bool}[values.dtype.kind])


def _flat(parts: Sequence[Sequence[int]]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *(np.asarray(part, np.int32) for part in parts)])


def _room(name: str, given: int | None, lengths: np.ndarray) -> int:
    longest = int(lengths.max(initial=0))
    if given is not None and longest > given:
        raise ValueError(f"{name}={given}, but a row has {longest} tokens; use a larger bucket")
    return max(longest, 1) if given is None else given


def held_out_rows(keys: np.ndarray, share: float, *, seed: int = 0) -> np.ndarray:
    """True for the keys held out, bool [n]: a hash of (key, seed) below `share` (splitmix64's mixer)."""
    if not 0 < share < 1:
        raise ValueError(f"held_out: expected a share strictly between 0 and 1, got {share}")
    with np.errstate(over="ignore"):  # a hash wraps around on purpose
        z = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * seed + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2**53 < share


def concatenate(parts: Sequence[Records], metadata: Mapping[str, Any] | None = None) -> Records:
    """Joins tables, one after the other, with the columns that all of them have. Copies tokens into memory.

    Raises ValueError where the parts differ in `k`, in their tokenizer or in what made their reference_logps.
    """
    if not parts:
        raise ValueError("concatenate: no records given")
    for what, values in (
        ("responses to a prompt", {part.k for part in parts}),
        ("tokenizers", {part.metadata.get("tokenizer") for part in parts}),
    ):
        if len(values) > 1:
            raise ValueError(f"concatenate: the parts have different {what}: {sorted(map(str, values))}")

    def joined(name: str, shift: str | None = None) -> np.ndarray:
        sizes = [len(getattr(part, shift)) if shift else 0 for part in parts]
        offsets = starts(np.array(sizes))
        return np.concatenate(
            [getattr(p, name) + o if shift else getattr(p, name) for p, o in zip(parts, offsets, strict=True)]
        )

    if any("full_lengths" in part.columns for part in parts):
        parts = [part.with_column("full_lengths", part.full_lengths) for part in parts]
    shared = set.intersection(*(set(part.columns) for part in parts))
    given = dict(parts[0].metadata if metadata is None else metadata)
    given.pop("column_axes", None)
    axes = {name: {part.axes_of(name) for part in parts} for name in shared}
    differing = sorted(name for name, known in axes.items() if len(known) > 1)
    if differing:
        raise ValueError(f"concatenate: the parts say different axes of column {differing[0]}")
    declared = {name: " ".join(*known) for name, known in axes.items() if name not in COLUMNS | FIELDS}
    given |= {"column_axes": declared} if declared else {}
    table = Records(
        prompt_tokens=joined("prompt_tokens"),
        prompt_starts=joined("prompt_starts", "prompt_tokens"),
        prompt_lengths=joined("prompt_lengths"),
        response_tokens=joined("response_tokens"),
        response_starts=joined("response_starts", "response_tokens"),
        response_lengths=joined("response_lengths"),
        unscored=joined("unscored"),
        group=joined("group"),
        columns=MappingProxyType({n: np.concatenate([p.columns[n] for p in parts]) for n in sorted(shared)}),
        metadata=MappingProxyType(given),
    )
    return dataclasses.replace(table, metadata=MappingProxyType(given | _joined_references(table, parts)))


def _joined_references(table: Records, parts: Sequence[Records]) -> dict[str, Any]:
    """What made the reference log-probs of a joined table, for each of its columns of such.

    Raises ValueError where the parts have those of different params; the rows are others in each part.
    """

    def same(name: str, made: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
        params = [one and {key: value for key, value in one.items() if key != "data"} for one in made]
        if any(one != params[0] for one in params):
            raise ValueError(f"concatenate: the parts have {name} of different params")
        if made[0] is None:
            return None
        return {**made[0], **({"data": content_of(table, columns=False)} if "data" in made[0] else {})}

    said: dict[str, Any] = {}
    if "reference_logps" in table.columns:
        made = same("reference_logps", [part.metadata.get("reference_logps") for part in parts])
        said |= {"reference_logps": made} if made is not None else {}
    by_stage = [part.metadata.get("references", {}) for part in parts]
    stages = [stage for stage in by_stage[0] if f"reference_logps.{stage}" in table.columns]
    if any(by_stage):
        names = {stage: f"reference_logps.{stage}" for stage in stages}
        said["references"] = {s: same(names[s], [one.get(s) for one in by_stage]) for s in stages}
    return said
