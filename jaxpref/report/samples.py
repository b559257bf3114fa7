"""Samples side by side: the same prompt before and after the last stage, or across runs."""

from collections.abc import Sequence

from jaxpref.report.markup import text, value
from jaxpref.report.runs import Run, Sample

__all__ = ["samples_section"]

_OPEN = 6  # prompts shown at once; more are folded
_MAX = 40  # prompts in the page
_SHORT_PROMPT = 300  # characters: fits in a narrow column beside the responses
_CHARACTERS = 1_500  # of a prompt or a response

Column = tuple[str, dict[str, Sample]]  # heading, sample by id


def samples_section(runs: Sequence[Run]) -> str:
    """One block per evaluator that left samples; empty if none did."""
    evaluators = list(dict.fromkeys(s.evaluator for run in runs for s in run.samples))
    return "".join(_evaluator(runs, evaluator) for evaluator in evaluators)


def _evaluator(runs: Sequence[Run], evaluator: str) -> str:
    columns = _columns(runs, evaluator)
    # Scores of a checker are marks; any other scores are shown as numbers.
    scores = {s.score for _, by_id in columns for s in by_id.values()} - {None}
    marks = scores <= {0.0, 1.0}
    ids = list(dict.fromkeys(key for _, by_id in columns for key in by_id))
    blocks = [_block(columns, key, marks) for key in ids[:_MAX]]
    folded = ""
    if len(blocks) > _OPEN:
        summary = f"<summary>{len(blocks) - _OPEN} more prompts</summary>"
        folded = f"<details>{summary}{''.join(blocks[_OPEN:])}</details>"
    shown = f"The first {min(len(ids), _MAX)} of {len(ids)} recorded prompts, in their order, not selected."
    counts = _transitions(columns, ids) if marks and scores else ""
    return f'<h3>{text(evaluator)}</h3><p class="note">{shown} {counts}</p>{"".join(blocks[:_OPEN])}{folded}'


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


def _block(columns: list[Column], key: str, marks: bool) -> str:
    prompt = next(by_id[key].prompt for _, by_id in columns if key in by_id)
    cells = []
    for heading, by_id in columns:
        sample = by_id.get(key)
        if sample is None:
            cells.append(
                f'<div class="response"><h4>{text(heading)}</h4><p class="empty">not sampled</p></div>'
            )
        elif sample.prompt != prompt:
            # Runs may number their prompts differently: never put answers to other questions side by side.
            cells.append(
                f'<div class="response"><h4>{text(heading)}</h4><p class="empty">another prompt</p></div>'
            )
        else:
            note = f'<p class="meta">{text(sample.note)}</p>' if sample.note else ""
            cells.append(
                f'<div class="response"><h4>{text(heading)} {_score(sample.score, marks)}</h4>'
                f"{_passage(sample.response)}{note}</div>"
            )
    beside = len(columns) <= 2 and len(prompt) <= _SHORT_PROMPT
    layout = "beside" if beside else "above" if len(columns) <= 4 else "stacked"
    return (
        f'<article class="sample {layout}">'
        f'<div class="prompt"><h4>Prompt {text(key)}</h4>{_passage(prompt, keep_end=True)}</div>'
        f'<div class="responses">{"".join(cells)}</div></article>'
    )


def _score(score: float | None, marks: bool) -> str:
    if score is None:
        return ""
    if not marks:
        return f'<span class="score">{value(score)}</span>'
    return '<span class="mark good">✓ right</span>' if score else '<span class="mark bad">✗ wrong</span>'


def _passage(content: str, keep_end: bool = False) -> str:
    if not content:
        return '<p class="empty">empty</p>'
    shown = content.strip()
    if not shown:
        return f'<p class="empty">only white space, {len(content):,} characters</p>'
    rest = len(shown) - _CHARACTERS
    before = after = ""
    if rest > 0 and keep_end:  # of a long dialogue, the last turns matter
        before, shown = f'<span class="meta">{rest:,} characters before this … </span>', shown[rest:]
    elif rest > 0:
        shown, after = shown[:_CHARACTERS], f'<span class="meta"> … {rest:,} more characters</span>'
    return f'<div class="passage" dir="auto">{before}{text(shown)}{after}</div>'


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
