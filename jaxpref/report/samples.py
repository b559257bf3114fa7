"""Samples side by side: the same prompt before and after the last stage, or across runs."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.report.runs import Run, Sample
from jaxpref.report.template import render

__all__ = ["samples_section"]

_OPEN = 6  # prompts shown at once; more are folded
_MAX = 40  # prompts in the page
_SHORT_PROMPT = 300  # characters: fits in a narrow column beside the responses
_CHARACTERS = 1_500  # of a prompt or a response

Column = tuple[str, dict[str, Sample]]  # heading, sample by id


def samples_section(runs: Sequence[Run]) -> Markup:
    """One block per evaluator that left samples; empty if none did."""
    names = list(dict.fromkeys(s.evaluator for run in runs for s in run.samples))
    return render("samples", evaluators=[_evaluator(runs, name) for name in names], opened=_OPEN)


def _evaluator(runs: Sequence[Run], evaluator: str) -> dict[str, Any]:
    columns = _columns(runs, evaluator)
    # Scores of a checker are marks; any other scores are shown as numbers.
    scores = {s.score for _, by_id in columns for s in by_id.values()} - {None}
    marks = scores <= {0.0, 1.0}
    ids = list(dict.fromkeys(key for _, by_id in columns for key in by_id))
    shown = f"The first {min(len(ids), _MAX)} of {len(ids)} recorded prompts, in their order, not selected."
    counts = _transitions(columns, ids) if marks and scores else ""
    blocks = [_block(columns, key) for key in ids[:_MAX]]
    return {"name": evaluator, "note": f"{shown} {counts}", "marks": marks, "blocks": blocks}


def _columns(runs: Sequence[Run], evaluator: str) -> list[Column]:
    if len(runs) == 1:
        return _stage_columns(runs[0], evaluator)
    columns = []
    for run in runs:
        last = _stage_columns(run, evaluator)[-1:]
        columns += [(f"{run.label} ({heading})", by_id) for heading, by_id in last]
    return columns


def _stage_columns(run: Run, evaluator: str) -> list[Column]:
    """First and last step of the last stage; the stage before stands in for a missing first step."""
    points = dict.fromkeys((s.stage, s.step) for s in run.samples if s.evaluator == evaluator)
    order = {
        stage: index for index, stage in enumerate(dict.fromkeys([*run.stages, *(p[0] for p in points)]))
    }
    ordered = sorted(points, key=lambda p: (order[p[0]], p[1]))
    if not ordered:
        return []
    in_last = [p for p in ordered if p[0] == ordered[-1][0]]
    first = in_last[0] if len(in_last) > 1 else ordered[max(len(ordered) - 2, 0)]
    columns = []
    for stage, step in dict.fromkeys([first, ordered[-1]]):
        samples = [s for s in run.samples if (s.evaluator, s.stage, s.step) == (evaluator, stage, step)]
        columns.append((f"{stage}, step {step:,}", {s.id: s for s in samples}))
    return columns


def _block(columns: list[Column], key: str) -> dict[str, Any]:
    prompt = next(by_id[key].prompt for _, by_id in columns if key in by_id)
    cells = []
    for heading, by_id in columns:
        sample = by_id.get(key)
        if sample is None:
            cells.append({"heading": heading, "missing": "not sampled"})
        elif sample.prompt != prompt:
            # Runs may number their prompts differently: never put answers to other questions side by side.
            cells.append({"heading": heading, "missing": "another prompt"})
        else:
            answer = {"response": _passage(sample.response), "score": sample.score, "note": sample.note}
            cells.append({"heading": heading, "missing": ""} | answer)
    beside = len(columns) <= 2 and len(prompt) <= _SHORT_PROMPT
    layout = "beside" if beside else "above" if len(columns) <= 4 else "stacked"
    return {"layout": layout, "id": key, "prompt": _passage(prompt, keep_end=True), "cells": cells}


def _passage(content: str, keep_end: bool = False) -> dict[str, str]:
    shown = content.strip()
    if not shown:
        blank = f"only white space, {len(content):,} characters" if content else "empty"
        return {"empty": blank}
    rest = len(shown) - _CHARACTERS
    passage = {"empty": "", "before": "", "text": shown, "after": ""}
    if rest > 0 and keep_end:  # of a long dialogue, the last turns matter
        passage |= {"before": f"{rest:,}", "text": shown[rest:]}
    elif rest > 0:
        passage |= {"text": shown[:_CHARACTERS], "after": f"{rest:,}"}
    return passage


def _transitions(columns: list[Column], ids: Sequence[str]) -> str:
    """How many became right and how many became wrong, over all recorded prompts."""
    if len(columns) != 2:
        return ""
    (_, before), (_, after) = columns
    pairs = [
        (before[key].score, after[key].score)
        for key in ids
        if key in before and key in after and before[key].prompt == after[key].prompt
    ]
    scored = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not scored:
        return ""
    names = {(0.0, 1.0): "wrong, then right", (1.0, 0.0): "right, then wrong"}
    names |= {(1.0, 1.0): "right in both", (0.0, 0.0): "wrong in both"}
    counts = ", ".join(f"{scored.count(pair)} {name}" for pair, name in names.items())
    return f"Left to right, of {len(scored)} with two scores: {counts}."
