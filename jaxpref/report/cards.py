"""The headline: one card per metric, before -> after, with intervals and a verdict."""

import math
from collections.abc import Sequence

from jaxpref.report import figures
from jaxpref.report.intervals import change
from jaxpref.report.markup import interval, signed, text, value
from jaxpref.report.results import Key, ends, history, keys
from jaxpref.report.runs import Evaluation, Run

__all__ = ["cards"]

_MAX_CARDS = 12
_WORDS = {
    "better": ("▲ better", "good"),
    "worse": ("▼ worse", "bad"),
    "changed": ("changed", "plain"),
    "unclear": ("no clear change", "plain"),
    "": ("", "plain"),
}


def cards(runs: Sequence[Run]) -> str:
    """One card per evaluator's metric; with several runs a row for each in every card."""
    names = keys(runs)
    if not names:
        return ""
    html = "".join(_card(runs, key) for key in names[:_MAX_CARDS])
    several = " several" if len(runs) > 1 else ""
    more = len(names) - _MAX_CARDS
    note = f'<p class="note">{more} more metrics are in the table below.</p>' if more > 0 else ""
    return f'<div class="cards{several}">{html}</div>{note}'


def _card(runs: Sequence[Run], key: Key) -> str:
    evaluator, metric = key
    last = next(e for run in runs for e in run.evaluations if (e.evaluator, e.metric) == key)
    direction = (
        f'<span class="hint">{last.better} is better</span>' if last.better in ("higher", "lower") else ""
    )
    title = f"<h3>{text(metric)} <small>{text(evaluator)}</small></h3>{direction}"
    body = _single(runs[0], key) if len(runs) == 1 else _several(runs, key)
    return f'<article class="card">{title}{body}</article>'


def _single(run: Run, key: Key) -> str:
    before, after = ends(run, key)
    if after is None:
        return ""
    lines = []
    if before is not None:
        start_value = f'<span class="before">{value(before.mean)}</span>'
        lines.append(f'<p class="move">{start_value} → <b>{value(after.mean)}</b></p>')
        lines.append(_bars(before, after))
        lines.append(_change_line(before, after))
        start = (
            "start" if before.step == 0 and before.stage == after.stage else f"{before.stage} {before.step:,}"
        )
        lines.append(_meta(f"{start} → {after.stage} step {after.step:,}", after))
    else:
        lines.append(f'<p class="move"><b>{value(after.mean)}</b></p>')
        lines.append(f'<p class="change">{interval(after.low, after.high)}</p>')
        lines.append(_meta(f"{after.stage} step {after.step:,}; no earlier value", after))
    earlier = [e for e in history(run, key) if e.stage != after.stage]
    for stage in dict.fromkeys(e.stage for e in earlier):
        rows = [e for e in earlier if e.stage == stage]
        path = " → ".join(value(e.mean) for e in (rows if len(rows) == 1 else (rows[0], rows[-1])))
        lines.append(f'<p class="meta">before that, {text(stage)}: {path}</p>')
    return "".join(lines)


def _change_line(before: Evaluation, after: Evaluation) -> str:
    moved = change(before, after)
    words, css = _WORDS[moved.verdict]
    limits = interval(moved.low, moved.high, sign=True)
    return f'<p class="change {css}">{signed(moved.difference)} {limits}<span>{words}</span></p>'


def _meta(where: str, after: Evaluation) -> str:
    count = f", n = {after.count:,}" if after.count is not None else ""
    return f'<p class="meta">{text(where)}{count}</p>'


def _bars(before: Evaluation, after: Evaluation) -> str:
    """Both intervals on one scale, so that overlap is seen and not computed by the reader."""
    points = [x for e in (before, after) for x in (e.mean, e.low, e.high) if math.isfinite(x)]
    low, high = (min(points), max(points)) if points else (0.0, 0.0)
    if high <= low:
        return ""
    if low >= 0 and high <= 1 and high - low > 0.15:  # a proportion: show where it lies between 0 and 1
        low, high = 0.0, 1.0

    def x(number: float) -> float:
        return 4 + 232 * (number - low) / (high - low)

    rows = []
    for y, css, e in ((7, "before", before), (19, "after", after)):
        if e.has_interval:
            rows.append(f'<line class="{css}" x1="{x(e.low):.1f}" x2="{x(e.high):.1f}" y1="{y}" y2="{y}"/>')
        if math.isfinite(e.mean):
            rows.append(f'<circle class="{css}" cx="{x(e.mean):.1f}" cy="{y}" r="4"/>')
    label = f"before {interval(before.low, before.high)}, after {interval(after.low, after.high)}"
    return (
        f'<svg class="bars" viewBox="0 0 240 36" role="img" aria-label="{label}">'
        f'<line class="axis" x1="4" x2="236" y1="26" y2="26"/>{"".join(rows)}'
        f'<text x="4" y="35">{value(low)}</text>'
        f'<text x="236" y="35" text-anchor="end">{value(high)}</text></svg>'
    )


def _several(runs: Sequence[Run], key: Key) -> str:
    rows = []
    for index, run in enumerate(runs):
        before, after = ends(run, key)
        swatch = f'<span class="swatch" style="background:{figures.color(index)}"></span>'
        if after is None:
            moved, words = "not evaluated", ""
        elif before is None:
            limits = interval(after.low, after.high)
            moved, words = f"<b>{value(after.mean)}</b>", f'<span class="ci">{limits}</span>'
        else:
            difference = change(before, after)
            moved = f"{value(before.mean)} → <b>{value(after.mean)}</b>"
            verdict, css = _WORDS[difference.verdict]
            short = "unclear" if difference.verdict == "unclear" else verdict
            moves = f"{signed(difference.difference)} {short}"
            words = f'<span class="change {css}">{moves}</span>'
        label = f'<td title="{text(run.label)}">{swatch}{text(run.label)}</td>'
        rows.append(f"<tr>{label}<td>{moved}</td><td>{words}</td></tr>")
    return f'<table class="rows">{"".join(rows)}</table>'
