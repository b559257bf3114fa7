"""Runs that differ only in their seed, drawn and tabled as one line: their mean, and how far they spread.

Of three seeds or more the spread is Student's t interval of the mean, of two the lower and the higher one.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpref.config import leaves
from jaxpref.evals.intervals import standard_error, student_quantile
from jaxpref.labels import labels
from jaxpref.report.runs import Evaluation, Run

__all__ = ["examples", "lines", "members", "spread"]


def lines(runs: Sequence[Run]) -> list[Run]:
    """The lines of a report in the order of their first runs. A line of several seeds is a run whose
    evaluations are their means and whose `seeds` are the runs; its samples and pictures are those of the
    first."""
    groups: dict[str, list[Run]] = {}
    for index, run in enumerate(runs):
        same = groups.setdefault(_apart_from_seed(run) or f"run {index}", [])
        if _seed(run) in [_seed(other) for other in same]:  # the same run again is no other seed
            same = groups.setdefault(f"run {index}", [])
        same.append(run)
    together = list(groups.values())
    names = _names(together)
    return [_line(group, name) for group, name in zip(together, names, strict=True)]


def members(lines: Sequence[Run]) -> list[Run]:
    """The runs that lines are made of."""
    return [run for line in lines for run in (line.seeds or (line,))]


def examples(lines: Sequence[Run]) -> list[Run]:
    """One run of each line, the first, for what has no mean."""
    return [line.seeds[0] if line.seeds else line for line in lines]


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and both ends of the spread over the first axis, seeds; what is not finite is left out. Of one
    seed, and of seeds that do not differ, the ends are NaN."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    known = np.where(finite, values, 0.0)
    mean = np.where(count > 0, known.sum(0) / np.maximum(count, 1), np.nan)
    squares = (np.where(finite, values - mean, 0.0) ** 2).sum(0)
    several = np.maximum(count, 2)
    half = student_quantile(several) * standard_error(squares, several, several)
    lowest = np.where(finite, values, np.inf).min(0)
    highest = np.where(finite, values, -np.inf).max(0)
    low = np.where(count > 2, mean - half, lowest)
    high = np.where(count > 2, mean + half, highest)
    some = (count > 1) & (lowest < highest)
    return mean, np.where(some, low, np.nan), np.where(some, high, np.nan)


def _flat(run: Run) -> dict[str, Any]:
    config = run.experiment.get("config")
    return {path: value for path, value in leaves(config).items() if path != "name"} if config else {}


def _is_seed(path: str) -> bool:
    return path.rpartition(".")[2] == "seed"


def _apart_from_seed(run: Run) -> str:
    """What runs of one line have in common: configuration, code of functions outside of the package, and
    tokenizer. Empty where no configuration was recorded."""
    rest = {path: value for path, value in _flat(run).items() if not _is_seed(path)}
    behind = [run.experiment.get("code") or {}, run.experiment.get("tokenizer")]
    return json.dumps([rest, *behind], sort_keys=True) if rest else ""


def _seed(run: Run) -> str:
    return json.dumps([value for path, value in sorted(_flat(run).items()) if _is_seed(path)])


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The experiments' names where they tell lines apart, else the settings that differ, else the paths."""
    names = [group[0].name for group in groups]
    if len(set(names)) == len(names):
        return names
    settings = labels(
        [{p: v for p, v in _flat(g[0]).items() if not _is_seed(p) or len(g) == 1} for g in groups]
    )
    return settings if len(set(settings)) == len(settings) else [group[0].label for group in groups]


def _line(group: Sequence[Run], name: str) -> Run:
    if len(group) == 1:
        return dataclasses.replace(group[0], label=name)
    told = labels([_flat(run) for run in group])
    seeds = tuple(
        dataclasses.replace(run, label=f"{name}, {own}") for run, own in zip(group, told, strict=True)
    )
    return dataclasses.replace(
        seeds[0],
        label=f"{name} ({len(group)} seeds)",
        metrics=tuple(row for run in seeds for row in run.metrics),
        evaluations=_evaluations(seeds),
        seeds=seeds,
    )


def _evaluations(seeds: Sequence[Run]) -> tuple[Evaluation, ...]:
    """Of each evaluation that any of the runs has, the mean over those that do."""
    found: dict[tuple[str, int, str, str], dict[int, Evaluation]] = {}
    for index, run in enumerate(seeds):
        for e in run.evaluations:
            found.setdefault((e.stage, e.step, e.evaluator, e.metric), {})[index] = e
    return tuple(_mean(of, len(seeds)) for of in found.values())


def _mean(of: dict[int, Evaluation], count: int) -> Evaluation:
    first = next(iter(of.values()))
    values = np.array([of[i].mean if i in of else math.nan for i in range(count)])
    mean, low, high = map(float, spread(values))
    if first.share:
        low, high = max(low, 0.0), min(high, 1.0)  # of NaN, NaN
    sizes = {(e.count, e.clusters) for e in of.values()}
    size, clusters = sizes.pop() if len(sizes) == 1 else (None, None)
    return dataclasses.replace(
        first, mean=mean, low=low, high=high, count=size, clusters=clusters, values=tuple(values.tolist())
    )
