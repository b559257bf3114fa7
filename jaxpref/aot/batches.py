"""The batch of a stage as shapes: from its records, or where those are not at hand from its settings."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.algorithms import Algorithm
from jaxpref.data.loader import Loader
from jaxpref.experiment import Stage
from jaxpref.types import Completions

__all__ = ["NOTHING", "Lengths", "Shaped", "shaped_batch"]

_MOST_RESPONSES = 4  # that are tried where nothing says how many a row has


class Lengths(NamedTuple):
    """What the user says of a batch; None: found out."""

    prompt: int | None = None  # tokens
    response: int | None = None  # tokens
    responses: int | None = None  # recorded ones of a prompt


NOTHING = Lengths()


class Shaped(NamedTuple):
    batch: Any  # of jax.ShapeDtypeStruct
    said: str  # in words, and where it comes from


def shaped_batch(
    stage: Stage, algorithm: Algorithm, traces: Callable[[Any], Any], lengths: Lengths = NOTHING
) -> Shaped:
    """The largest batch that the stage learns from.

    Lengths are those given, else the stage's largest buckets, else `prompt_length=` and `response_length=` of
    what reads its records, and the number of responses is the smallest with which the algorithm can be traced
    (`traces(batch)`). What none of these say is read from the records.

    Raises:
      ValueError: the records are needed and cannot be read.
    """
    said = _said_lengths(stage)
    p = lengths.prompt or max(stage.prompt_buckets, default=None) or said.get("prompt_length")
    r = lengths.response or max(stage.response_buckets, default=None) or said.get("response_length")
    why: Exception | None = None
    if p and r:
        counts = [lengths.responses] if lengths.responses else range(1, _MOST_RESPONSES + 1)
        for k in counts:
            batch = _completions(stage.batch_size, k, p, r, algorithm.recorded_reference)
            try:
                traces(batch)
            except Exception as error:  # of other kinds in each loss; the records say it better
                why = error
                continue
            origin = "given" if lengths.responses else "assumed: the fewest that its objective takes"
            return Shaped(batch, f"{stage.batch_size} rows of {p} + {k} x {r} tokens ({k}: {origin})")
    return _recorded(stage, why)


def _said_lengths(stage: Stage) -> dict[str, int]:
    """`prompt_length=` and `response_length=` of the functions that read the records: bound, or defaults."""
    found: dict[str, int] = {}
    for function in _readers(stage.train):
        names = inspect.signature(function).parameters
        for name in ("prompt_length", "response_length"):
            default = names[name].default if name in names else None
            if isinstance(default, int):
                found.setdefault(name, default)
    return found


def _readers(source: Any) -> Iterator[Callable[..., Any]]:
    if isinstance(source, partial):
        yield source
        for value in source.keywords.values():
            yield from _readers(value)


def _completions(b: int, k: int, p: int, r: int, reference: bool) -> Completions:
    shape: Any = jax.ShapeDtypeStruct
    return Completions(
        shape((b, p), jnp.int32),
        shape((b, p), jnp.bool_),
        shape((b, k, r), jnp.int32),
        shape((b, k, r), jnp.bool_),
        reference_logps=shape((b, k), jnp.float32) if reference else None,
        columns={"example_ids": shape((b,), jnp.int32)},
    )


def _recorded(stage: Stage, why: Exception | None) -> Shaped:
    try:
        records = stage.train()
        loader = Loader(
            records,
            batch_size=stage.batch_size,
            seed=0,
            prompt_buckets=stage.prompt_buckets or None,
            response_buckets=stage.response_buckets or None,
        )
        p, r = loader.shapes()[-1]
        rows = np.resize(np.arange(len(records)), stage.batch_size)
        batch = records.rows(rows, prompt_length=p, response_length=r, pad_id=0)
    except (ValueError, OSError, ImportError) as error:
        reason = "" if why is None else f" (and with shapes alone: {str(why).splitlines()[0][:200]})"
        raise ValueError(
            f"stage {stage.name}: the shape of its batches is not known without its records{reason}, and "
            f"these cannot be read: {error}; prepare them and give records=DIR, or give "
            "--lengths PROMPT+RESPONSE and --responses K"
        ) from error
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), batch)
    return Shaped(shapes, f"{stage.batch_size} rows of {p} + {records.k} x {r} (the records')")
