"""The headline: one card per metric, before -> after, with intervals and a verdict."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.report.intervals import change
from jaxpref.report.markup import interval, signed, value
from jaxpref.report.results import Key, ends, history, keys
from jaxpref.report.runs import Evaluation, Run
from jaxpref.report.template import render

__all__ = ["cards"]

_MAX_CARDS = 12
_WORDS = {
    "better": ("▲ better", "good"),
    "worse": ("▼ worse", "bad"),
    "changed": ("changed", "plain"),
    "unclear": ("no clear change", "plain"),
    "": ("", "plain"),
}


def cards(runs: Sequence[Run]) -> Markup:
    """One card per evaluator's metric; with several runs a row for each in every card."""
    names = keys(runs)
    if not names:
        return Markup("")
    drawn = [_card(runs, key) for key in names[:_MAX_CARDS]]
    return render("cards", cards=drawn, many=len(runs) > 1, more=len(names) - _MAX_CARDS)


def _card(runs: Sequence[Run], key: Key) -> dict[str, Any]:
    evaluator, metric = key
    last = next(e for run in runs for e in run.evaluations if (e.evaluator, e.metric) == key)
    card = {"metric": metric, "evaluator": evaluator, "better": last.better}
    if len(runs) == 1:
        return card | {"single": _single(runs[0], key)}
    return card | {"rows": [_row(run, key) for run in runs]}


def _single(run: Run, key: Key) -> dict[str, Any] | None:
    before, after = ends(run, key)
    if after is None:
        return None
    count = f", n = {after.size}" if after.size else ""
    if before is None:
        moved = {"css": "", "shown": interval(after.low, after.high), "words": None}
        where = f"{after.stage} step {after.step:,}; no earlier value"
    else:
        moved = _moved(before, after)
        same = before.step == 0 and before.stage == after.stage
        start = "start" if same else f"{before.stage} {before.step:,}"
        where = f"{start} → {after.stage} step {after.step:,}"
    earlier = {}
    for e in history(run, key):
        if e.stage != after.stage:
            earlier.setdefault(e.stage, []).append(value(e.mean))
    return {
        "before": before and value(before.mean),
        "after": value(after.mean),
        "bars": before and _bars(before, after),
        "change": moved,
        "meta": where + count,
        "earlier": [(stage, path[:1] + path[1:][-1:]) for stage, path in earlier.items()],
    }


def _moved(before: Evaluation, after: Evaluation) -> dict[str, str]:
    moved = change(before, after)
    words, css = _WORDS[moved.verdict]
    limits = interval(moved.low, moved.high, sign=True)
    return {"css": css, "shown": f"{signed(moved.difference)} {limits}", "words": words}


def _bars(before: Evaluation, after: Evaluation) -> dict[str, Any] | None:
    points = [x for e in (before, after) for x in (e.mean, e.low, e.high) if math.isfinite(x)]
    low, high = (min(points), max(points)) if points else (0.0, 0.0)
    if high <= low:
        return None
    if low >= 0 and high <= 1 and high - low > 0.15:  # a proportion: show where it lies between 0 and 1
        low, high = 0.0, 1.0

    def x(number: float) -> str:
        return f"{4 + 232 * (number - low) / (high - low):.1f}"

    rows = [
        {
            "y": y,
            "css": css,
            "span": (x(e.low), x(e.high)) if e.has_interval else None,
            "mean": x(e.mean) if math.isfinite(e.mean) else None,
        }
        for y, css, e in ((7, "before", before), (19, "after", after))
    ]
    label = f"before {interval(before.low, before.high)}, after {interval(after.low, after.high)}"
    return {"rows": rows, "label": label, "low": value(low), "high": value(high)}


def _row(run: Run, key: Key) -> dict[str, Any]:
    before, after = ends(run, key)
    row = {"label": run.label, "before": before and value(before.mean), "after": after and value(after.mean)}
    if after is None:
        return row | {"words": "", "css": "", "size": ""}
    row["size"] = after.size
    if before is None:
        return row | {"words": interval(after.low, after.high), "css": "ci"}
    moved = change(before, after)
    verdict, css = _WORDS[moved.verdict]
    short = "unclear" if moved.verdict == "unclear" else verdict
    return row | {"words": f"{signed(moved.difference)} {short}", "css": f"change {css}"}
