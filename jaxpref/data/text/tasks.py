"""SeqIO tasks and mixtures of preference pairs. Imports TensorFlow when a function here is called.

A task consists of a TFDS builder (or any SeqIO source of the same fields) and the one preprocessor that
encodes its examples. Registering the same task twice is harmless: its name has a hash of source, tokenizer
and encoding in it.
"""

import contextlib
import dataclasses
import json
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpref.data.cache import cache_root
from jaxpref.data.lazy import tensorflow_stack
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.encoding import RULES, Encoding, encode_texts, fingerprint
from jaxpref.data.text.hh_files import hh_source
from jaxpref.data.text.messages import reply
from jaxpref.data.text.prompts import Prompt
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["Task", "details", "hh_task", "mixture", "register"]


@dataclasses.dataclass
class Task:
    """What this package knows about a SeqIO task, and what the task's preprocessor counts."""

    name: str
    tokenizer: Tokenizer
    encoding: Encoding
    k: int = 2
    drops: Counter[str] = dataclasses.field(default_factory=Counter)
    truncated: Counter[str] = dataclasses.field(default_factory=Counter)
    notes: Counter[str] = dataclasses.field(default_factory=Counter)
    unread_drops: dict[str, dict[str, int]] = dataclasses.field(
        default_factory=dict
    )  # the builder's, by split
    error: Exception | None = None  # the first one raised inside TensorFlow, which would bury it
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Sets the counts of a pass to zero."""
        self.drops.clear()
        self.truncated.clear()
        self.notes.clear()
        self.error = None


_TASKS: dict[str, Task] = {}
_MIXTURES: dict[str, tuple[tuple[str, float], ...]] = {}


def details(name: str) -> tuple[Task, ...]:
    """The tasks behind a task's or mixture's name; raises ValueError for one not registered here."""
    names = [task for task, _ in _MIXTURES[name]] if name in _MIXTURES else [name]
    unknown = [n for n in names if n not in _TASKS]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is not a preference task; register it with jaxpref.data.text.tasks.register. "
            f"Known: {sorted(_TASKS) + sorted(_MIXTURES) or 'none'}"
        )
    return tuple(_TASKS[n] for n in names)


def register(
    name: str,
    source: Any,
    *,
    tokenizer: Tokenizer,
    encoding: Encoding,
    preprocessors: Sequence[Any] = (),
    unread_drops: dict[str, dict[str, int]] | None = None,
) -> str:
    """Registers a SeqIO task and returns its name; one already registered alike is left as it is.

    `source` is a `seqio.DataSource` whose rows, after `preprocessors`, have the texts `prompt`, `chosen` and
    `rejected`, and may have `group` (int64) and `turns` (JSON).
    """
    _, seqio, _ = tensorflow_stack()
    from jaxpref.data.text.features import task_features

    if name in seqio.TaskRegistry.names() and name in _TASKS:
        known = _TASKS[name]
        described = known.encoding.description(), encoding.description()
        if known.tokenizer.fingerprint != tokenizer.fingerprint or described[0] != described[1]:
            raise ValueError(
                f"task {name!r} is registered already, with another tokenizer or encoding; use another name"
            )
        return name
    task = Task(name, tokenizer, encoding, unread_drops=dict(unread_drops or {}))

    def encode(dataset: Any) -> Any:
        return _encode(dataset, task)

    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*preprocessors, encode],
        output_features=task_features(tokenizer.vocab_size),
    )
    _TASKS[name] = task
    return name


def hh_task(
    *, data_root: str | None, subset: str, split: str, tokenizer: Tokenizer, encoding: Encoding
) -> str:
    """The SeqIO task of one subset of Anthropic HH (one TFDS split); builds the TFDS data set if needed.

    `data_root=None` downloads. Raises as `hh_files.hh_source`.
    """
    source = hh_source(data_root, subset, split)
    stack = tensorflow_stack()
    from jaxpref.data.text.anthropic_hh import AnthropicHH

    # TFDS adds subset and version to the folder. Its texts are made by rules of this package, too, and a file
    # that serves as two splits makes two data sets.
    key = fingerprint(source=source.sha256, subset=subset, split=split, rules=RULES)
    data_dir = str(cache_root() / "tfds" / key[:16])
    builder = AnthropicHH(config=subset, data_root=data_root, splits=(split,), data_dir=data_dir)
    _build(builder, download=source.path is None)
    return _builder_task(stack, builder, split, tokenizer, encoding)


def mixture(name: str, tasks: Sequence[str], rates: Sequence[float]) -> str:
    """A SeqIO mixture of registered tasks, drawn in proportion to `rates`; returns its name.

    Raises ValueError unless the tasks share one tokenizer, budget and number of responses.
    """
    _, seqio, _ = tensorflow_stack()
    if len(tasks) != len(rates) or not tasks or min(rates) <= 0:
        raise ValueError(f"mixture: expected one positive rate per task, got {list(tasks)} and {list(rates)}")
    parts = [details(task)[0] for task in tasks]
    kinds = {
        (p.tokenizer.fingerprint, p.encoding.prompt_length, p.encoding.response_length, p.k) for p in parts
    }
    if len(kinds) > 1:
        raise ValueError(
            f"mixture: the tasks {list(tasks)} differ in tokenizer, budget or number of responses"
        )
    rated = tuple((task, float(rate)) for task, rate in zip(tasks, rates, strict=True))
    if _MIXTURES.setdefault(name, rated) != rated:
        raise ValueError(f"mixture: {name!r} is registered already, of {_MIXTURES[name]}; use another name")
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(rated))
    return name


def _build(builder: Any, *, download: bool = False) -> None:
    if not Path(builder.data_dir).exists():
        import tensorflow_datasets as tfds

        # The bars of a local build, which takes a second, are noise; a download is worth watching.
        (tfds.enable_progress_bar if download else tfds.disable_progress_bar)()
        with contextlib.redirect_stdout(sys.stderr):  # TFDS announces itself on stdout
            builder.download_and_prepare()


def _builder_task(stack: Any, builder: Any, split: str, tokenizer: Tokenizer, encoding: Encoding) -> str:
    # The data directory's name is a hash of all that it was built from.
    data_dir = str(builder.data_dir)
    key = fingerprint(data_dir=data_dir, tokenizer=tokenizer.fingerprint, **encoding.description())
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    tfds_name = f"{builder.name}{config}:{builder.version}"
    kind = f"{builder.name}{config}".replace("/", "_").replace("-", "_")
    return register(
        f"{kind}_{split}_{key[:12]}",
        stack.seqio.TfdsDataSource(
            tfds_name=tfds_name, tfds_data_dir=builder._data_dir_root, splits=(split,)
        ),
        tokenizer=tokenizer,
        encoding=encoding,
        unread_drops=dict(builder.info.metadata["drops"]),
    )


def _encode(dataset: Any, task: Task) -> Any:
    """The preprocessor: rows of text to ragged tokens; rows that cannot be used are counted and left out."""
    tf = tensorflow_stack().tf
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32), *[np.zeros(task.k, np.int32)] * 3, False)

    def encode(prompt: bytes, chosen: bytes, rejected: bytes, turns: bytes, group: np.int64) -> tuple:
        try:
            dialogue = [{"role": role, "content": content} for role, content in json.loads(turns)]
            asked = Prompt(prompt.decode(), tuple(dialogue), int(group))
            replies = [reply(text.decode()) for text in (chosen, rejected)]
            example = encode_texts(task.tokenizer, task.encoding, asked, replies)
        except Exception as error:
            task.error = task.error or error
            raise
        with task.lock:
            if isinstance(example, Drop):
                task.drops[example.reason] += 1
                return nothing
            task.truncated["prompts"] += example.prompt_truncated
            task.truncated["responses"] += example.responses_truncated
            task.notes.update(example.notes)
        return (
            np.asarray(example.prompt, np.int32),
            np.concatenate([np.asarray(response, np.int32) for response in example.responses]),
            np.array([len(response) for response in example.responses], np.int32),
            np.array(example.full_lengths, np.int32),
            np.full(task.k, example.unscored, np.int32),
            True,
        )

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        group = row["group"] if "group" in row else tf.strings.to_hash_bucket_fast(row["prompt"], 2**62)
        inputs = [row["prompt"], row["chosen"], row["rejected"], row.get("turns", "[]"), group]
        types = (*[tf.int32] * 5, tf.bool)
        *values, kept = tf.numpy_function(encode, inputs, types)
        for value in values:
            value.set_shape([None])
        kept.set_shape([])
        names = ("prompt_tokens", "response_tokens", "response_lengths", "full_lengths", "unscored")
        return dict(zip(names, values, strict=True)) | {"group": tf.reshape(group, [1]), "kept": kept}

    # One call at a time: tokenizing holds Python's lock anyway, and the counts and the order stay exact.
    encoded = dataset.map(convert, num_parallel_calls=1, deterministic=True).filter(lambda row: row["kept"])
    return encoded.map(lambda row: {name: value for name, value in row.items() if name != "kept"})
