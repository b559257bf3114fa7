"""The data sources of a stage, and a stage that reads others in their place."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref.experiment import Stage

__all__ = ["Source", "map_sources", "sources_of"]

Source = Callable[[], Any]  # -> data.Records, or another table


def map_sources(stage: Stage, change: Callable[[str, Source], Source]) -> Stage:
    """The stage with `change(role, source)` in the place of each of its data sources."""

    def evaluator(index: int, given: Callable[..., Any]) -> Callable[..., Any]:
        keywords = given.keywords if isinstance(given, partial) else {}
        if "records" not in keywords:
            return given
        return partial(given, records=change(f"evaluator {index}", keywords["records"]))

    return dataclasses.replace(
        stage,
        train=change("train", stage.train),
        evaluation=None if stage.evaluation is None else change("evaluation", stage.evaluation),
        evaluators=tuple(evaluator(i, e) for i, e in enumerate(stage.evaluators)),
    )


def sources_of(stage: Stage) -> dict[str, Source]:
    """The data sources of a stage by what they are for: train, evaluation, evaluator 0, ..."""
    found: dict[str, Source] = {}

    def note(role: str, source: Source) -> Source:
        found[role] = source
        return source

    map_sources(stage, note)
    return found
