"""Steps whose loss jumped or was not finite, as the run noted them (spikes.jsonl)."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.report.markup import Cell, value
from jaxpref.report.runs import Run, number
from jaxpref.report.template import render

__all__ = ["spikes_section"]

_MOST = 50  # rows of the table
_NOTE = (
    "spikes.jsonl has the rows of the records that each of these steps trained on; `jaxpref replay` with "
    "--stage and --step does a step again and says which of them have the largest losses."
)


def spikes_section(runs: Sequence[Run]) -> Markup:
    """A table with one row for each such step; empty if there was none."""
    found = [(run.label, entry) for run in runs for entry in run.spikes]
    if not found:
        return Markup("")
    several = len(runs) > 1
    rows: list[list[str | Cell]] = [
        [
            *([label] if several else []),
            entry["stage"],
            str(entry.get("kind", "")),
            _furthest(entry),
            f"{entry['step']:,}",
            _number(entry.get("loss")),
            _number(entry.get("threshold")) if entry.get("kind") == "spike" else "–",
            _number(entry.get("grad_norm")),
        ]
        for label, entry in found[:_MOST]
    ]
    header = [*(["Run"] if several else []), "Stage", "What", "Furthest from usual", "Step", "Loss", "Above"]
    more = f" {len(found) - _MOST} more are not shown." if len(found) > _MOST else ""
    return render("tables", header=[*header, "Gradient norm"], rows=rows, text=3 + several, note=_NOTE + more)


def _number(given: Any) -> str:
    """As text: what is not finite is one in the file already."""
    return given if isinstance(given, str) else value(number(given))


def _furthest(entry: dict[str, Any]) -> str:
    largest = entry.get("largest")
    terms = [term for term in largest if isinstance(term, dict)] if isinstance(largest, list) else []
    return ", ".join(f"{term.get('name')} {_number(term.get('value'))}" for term in terms[:2]) or "–"
