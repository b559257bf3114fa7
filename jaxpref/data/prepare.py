"""From a data set to records: SeqIO reads and encodes it once, and training reads the result.

Experiments name the functions that return `Records`. Each makes its records on first use, in a cache
directory (`$JAXPREF_CACHE`, default `~/.cache/jaxpref`) under a key of all its arguments, the tokenizer
and the source's checksum; after that it loads them, without TensorFlow.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpref.data.cache import cached_records
from jaxpref.data.lazy import tensorflow_stack
from jaxpref.data.progress import Progress
from jaxpref.data.records import Example, Records, concatenate
from jaxpref.data.records_io import load_records, write_records
from jaxpref.data.references import reference_of
from jaxpref.data.remote import local_records
from jaxpref.data.sources import SourceFile
from jaxpref.data.text.dialogue import Template
from jaxpref.data.text.encoding import Encoding, fingerprint
from jaxpref.data.text.hh_files import hh_source
from jaxpref.data.text.jsonl import jsonl_labelled, jsonl_lists, jsonl_messages, jsonl_pairs
from jaxpref.data.text.recognise import recognised
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = [
    "chosen_only",
    "head",
    "hh_pairs",
    "jsonl_labelled",
    "jsonl_lists",
    "jsonl_messages",
    "jsonl_pairs",
    "mixture_pairs",
    "prepare",
    "prepared",
    "recognised",
    "split",
]


def prepare(
    source: str | Sequence[str],
    directory: str | Path,
    *,
    split: str = "train",
    num_examples: int | None = None,
    seed: int = 0,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Records:
    """Writes the records of SeqIO tasks (one after the other) or of a mixture, and loads them.

    Args:
      source: Names from `jaxpref.data.text.tasks`.
      num_examples: Rows to take; needed for a mixture, which has no end.
      seed: Of the mixture's draws.
      metadata: Further entries of the manifest.

    Prints progress to stderr. Drops (by reason) and truncations go into the manifest; of a mixture they are
    those of the rows read, which are a few more than the rows taken. Raises as `records_io.write_records`.
    """
    from jaxpref.data.text import tasks

    names = [source] if isinstance(source, str) else list(source)
    parts = [task for name in names for task in tasks.details(name)]
    for task in parts:
        task.reset()
    tokenizer, encoding = parts[0].tokenizer, parts[0].encoding
    examples: list[Example] = []
    for name in names:
        examples.extend(_examples(name, split, num_examples, seed))
    drops: Counter[str] = Counter()
    for task in parts:
        drops.update(task.drops)
        drops.update(task.unread_drops.get(split, {}))
    records = Records.from_examples(
        examples,
        {
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
            "encoding": encoding.description(),
            "rows_kept": len(examples),
            "responses_kept": sum(len(example.responses) for example in examples),
            "rows_read": len(examples) + sum(drops.values()),
            "drops": dict(drops),
            "truncated": dict(sum((task.truncated for task in parts), Counter())),
            "notes": dict(sum((task.notes for task in parts), Counter())),
            **(metadata or {}),
        },
    )
    write_records(records, directory, overwrite=overwrite)
    return load_records(directory)


def hh_pairs(
    *,
    data_root: str | None,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    subsets: Sequence[str] = ("helpful-base", "helpful-rejection-sampled"),
    split: str = "test",
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Anthropic HH pairs (arXiv:2204.05862), chosen first; rows are grouped by their first human turn.

    `data_root=None` downloads the public files; otherwise see `hh_files.hh_source`, also for the errors.
    Lengths in tokens, see `boundary.encode_example` and `encoding.Encoding`; `template=None` keeps HH's own
    form."""
    encoding = Encoding(
        prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
    )
    sources = [hh_source(data_root, subset, split) for subset in subsets]
    loaded = tokenizer()

    def names() -> list[str]:
        from jaxpref.data.text import tasks

        return [
            tasks.hh_task(data_root=data_root, subset=s, split=split, tokenizer=loaded, encoding=encoding)
            for s in subsets
        ]

    return _cached("anthropic_hh", names, split, sources, loaded, encoding)


def prepared(*, directory: str, reference: str | None = None) -> Records:
    """Records that `jaxpref prepare` (or `write_records`) wrote; those of an object store (`gs://...`) are
    copied to a local disk first, where they can be memory-mapped (`data.remote`).

    reference: the stage whose starting params the column `reference_logps` is of; None: no such column.
    """
    return reference_of(load_records(local_records(directory)), reference)


def mixture_pairs(
    *, parts: Sequence[Callable[[], Records]], rates: Sequence[float], num_examples: int, seed: int = 0
) -> Records:
    """`num_examples` rows of several tables, each in proportion to its rate, without TensorFlow.

    Rows of a table are taken in a shuffled order, and in further shuffled orders where its share is larger
    than the table. Numbers of rows are the shares, rounded so that they sum to `num_examples`. Raises
    ValueError for rates that do not fit, and as `concatenate`.
    """
    if len(parts) != len(rates) or not parts or min(rates) <= 0 or num_examples < 1:
        raise ValueError(
            f"mixture_pairs: expected one positive rate per part, got {len(parts)} and {list(rates)}"
        )
    tables = [part() for part in parts]
    edges = np.rint(np.cumsum([0.0, *rates]) / sum(rates) * num_examples).astype(int)
    taken = []
    for index, (table, count) in enumerate(zip(tables, np.diff(edges), strict=True)):
        generator = np.random.default_rng([seed, index])
        rounds = -(-int(count) // len(table))
        order = np.concatenate(
            [generator.permutation(len(table)) for _ in range(rounds)] or [np.zeros(0, int)]
        )
        taken.append(table.take(order[:count]))
    return concatenate(taken)


def split(
    *,
    records: Callable[[], Records],
    part: Literal["train", "held_out"] = "train",
    held_out: float = 0.1,
    seed: int = 0,
) -> Records:
    """One side of `Records.split` by prompt; the two sides share no group."""
    if part not in ("train", "held_out"):
        raise ValueError(f'split: part must be "train" or "held_out", got {part!r}')
    return records().split(held_out, seed=seed)[("train", "held_out").index(part)]


def chosen_only(*, records: Callable[[], Records]) -> Records:
    """The first response of each row (`k = 1`): what supervised fine-tuning imitates."""
    return records().only(0)


def head(*, records: Callable[[], Records], num_prompts: int) -> Records:
    """The first `num_prompts` rows of a table, or all if there are fewer."""
    table = records()
    return table.take(np.arange(min(num_prompts, len(table))))


def _cached(
    kind: str,
    names: Callable[[], list[str]],
    split: str,
    sources: Sequence[SourceFile],
    tokenizer: Tokenizer,
    encoding: Encoding,
) -> Records:
    key = fingerprint(
        kind=kind,
        split=split,
        sources=[source.sha256 for source in sources],
        tokenizer=tokenizer.fingerprint,
        **encoding.description(),
    )
    source = {"kind": kind, "split": split, "files": {s.name: s.sha256 for s in sources}}

    def make(directory: Path) -> None:
        prepare(names(), directory, split=split, metadata={"fingerprint": key, "source": source})

    return cached_records(kind, key, make)


def _examples(name: str, split: str, num_examples: int | None, seed: int) -> Iterator[Example]:
    tf, seqio, _ = tensorflow_stack()
    from jaxpref.data.text import features, tasks

    parts = tasks.details(name)
    first = parts[0]
    dataset = seqio.get_dataset(
        name,
        features.task_lengths(
            prompt_length=first.encoding.prompt_length,
            response_length=first.encoding.response_length,
            k=first.k,
        ),
        features.PreferenceFeatureConverter(pad_id=first.tokenizer.pad_id),
        dataset_split=split,
        shuffle=False,
        num_epochs=1 if num_examples is None else None,
        seed=seed,
        trim_output_features=False,  # it would cut the ends of prompts; the encoding has cut what it should
    )
    total = num_examples
    if total is None:
        total = sum(seqio.get_mixture_or_task(part.name).num_input_examples(split) or 0 for part in parts)
    progress = Progress(name, total)
    try:
        # Leaving TensorFlow row by row costs more than the row.
        taken = dataset.take(-1 if num_examples is None else num_examples).batch(64)
        for row in (
            {field: values[i] for field, values in batch.items()}
            for batch in taken.as_numpy_iterator()
            for i in range(len(batch["group"]))
        ):
            lengths = row["response_lengths"]
            yield Example(
                prompt=row["prompt_tokens"][row["prompt_mask"]],
                responses=[
                    tokens[:length] for tokens, length in zip(row["response_tokens"], lengths, strict=True)
                ],
                group=int(row["group"][0]),
                unscored=int(lengths[0] - row["response_mask"][0].sum()),
                full_lengths=row["full_lengths"],
            )
            progress.step(sum(sum(part.drops.values()) for part in parts))
    except tf.errors.OpError as error:
        cause = next((part.error for part in parts if part.error is not None), None)
        raise cause if cause is not None else error from None
    progress.close(sum(sum(part.drops.values()) for part in parts))
