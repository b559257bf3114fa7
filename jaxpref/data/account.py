"""What became of the rows of a source, in plain lines: nothing is left out, cut or ignored in silence."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpref.data.loader import Table

__all__ = ["account"]


def account(records: Table) -> list[str]:
    """Lines that say how many rows the source had, which were left out, cut and changed, and what was not
    read.

    Counts are of the whole source that the records were made from, whatever part of it a split took. Records
    whose manifest counts nothing (made data, behaviour) give none."""
    metadata = records.metadata
    lines = []
    if "rows_read" in metadata:
        drops = {reason: count for reason, count in metadata.get("drops", {}).items() if count}
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in drops.items()) or "none"
        lines.append(f"{metadata['rows_read']:,} rows read; left out: {left_out}")
    if metadata.get("responses_left_out"):
        counts = metadata["responses_left_out"].items()
        lines.append(f"responses left out: {', '.join(f'{count:,} {reason}' for reason, count in counts)}")
    lines += _cuts(metadata)
    for note, count in metadata.get("notes", {}).items():
        lines.append(f"{count:,} row{'s' * (count != 1)}: {note}")
    columns = getattr(records, "columns", {})
    if columns:
        lines.append(f"columns: {', '.join(name + _said(name, columns[name]) for name in sorted(columns))}")
    if metadata.get("unread_columns"):
        unread = ", ".join(f"{name} ({why})" for name, why in metadata["unread_columns"].items())
        lines.append(f"columns not used: {unread}")
    if metadata.get("first_row"):
        first = metadata["first_row"]
        responses = " | ".join(_short(response, 60) for response in first["responses"])
        lines.append(f"first row: {_end(first['prompt'])} + {responses}")
    return lines


def _said(name: str, values: np.ndarray) -> str:
    """What a column does by its name alone."""
    if name == "labels":
        return f" ({int(np.sum(values)):,} desirable, {int(np.sum(np.asarray(values) == 0)):,} undesirable)"
    if name == "scores":
        return f" (higher is better; from {np.min(values):g} to {np.max(values):g})"
    if name == "full_lengths":
        return " (tokens before any were cut)"
    return " (of each row in every mean)" if name == "weights" else ""


def _cuts(metadata: Mapping[str, Any]) -> list[str]:
    cut, encoding = metadata.get("truncated", {}), metadata.get("encoding", {})
    lines = []
    for what, kept, name in (("prompts", "rows_kept", "prompt"), ("responses", "responses_kept", "response")):
        if cut.get(what):
            of = f" of {metadata[kept]:,}" if kept in metadata else ""
            lines.append(
                f"{cut[what]:,}{of} {what} were longer than {name}_length={encoding.get(f'{name}_length')} "
                f"tokens and were cut (truncate_{name}={encoding.get(f'truncate_{name}')!r})"
            )
    return lines


def _short(text: str, length: int) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")


def _end(text: str) -> str:
    return repr(text if len(text) <= 60 else "..." + text[-57:])
