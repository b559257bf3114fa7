"""The complete configuration as a tree, and the leaves in which runs differ."""

import json
from collections.abc import Sequence
from typing import Any

from jaxpref.config import leaves
from jaxpref.report.markup import table, text
from jaxpref.report.runs import Run

__all__ = ["configuration_section", "differences"]

_ABSENT = object()
_OPEN_DEPTH = 1


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Dotted path and each run's value, for the leaves that are not the same in all runs."""
    flat = [leaves(run.experiment.get("config", {})) for run in runs]
    paths = dict.fromkeys(path for leaf in flat for path in leaf)
    rows = []
    for path in paths:
        values = [leaf.get(path, _ABSENT) for leaf in flat]
        shown = ["(not there)" if value is _ABSENT else _literal(value) for value in values]
        if len(set(shown)) > 1:
            rows.append((path, shown))
    return rows


def configuration_section(runs: Sequence[Run]) -> str:
    """With several runs the differences come first, then each run's tree, folded."""
    html = []
    if len(runs) > 1:
        rows = differences(runs)
        if rows:
            cells = [
                [f"<code>{text(path)}</code>", *(f"<code>{text(v)}</code>" for v in shown)]
                for path, shown in rows
            ]
            header = ["Setting", *(text(run.label) for run in runs)]
            html.append(f"<h3>Where the runs differ</h3>{table(header, cells, 'settings', len(header))}")
        else:
            html.append("<p>All runs have the same configuration.</p>")
    for run in runs:
        config = run.experiment.get("config")
        if not config:
            html.append(f"<p>{text(run.label)}: no configuration was recorded.</p>")
            continue
        count = len(leaves(config))
        html.append(
            f"<details><summary>Complete configuration of {text(run.label)} ({count} values)</summary>"
            f'<div class="tree">{_tree(config, 0)}</div></details>'
        )
    return "".join(html)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_branch(value: Any) -> bool:
    if isinstance(value, dict):
        return any(key != "function" for key in value)
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def _tree(node: Any, depth: int) -> str:
    if isinstance(node, dict):
        items = [(key, value) for key, value in node.items() if key != "function"]
    else:
        items = [(item.get("name", i) if isinstance(item, dict) else i, item) for i, item in enumerate(node)]
    return f"<ul>{''.join(_item(str(key), value, depth) for key, value in items)}</ul>"


def _item(key: str, value: Any, depth: int) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    named = f' <span class="function">{text(function)}</span>' if function else ""
    if not _is_branch(value):
        shown = named or f" <code>{text(_literal(value))}</code>"
        return f'<li><span class="key">{text(key)}</span>{shown}</li>'
    is_open = " open" if depth < _OPEN_DEPTH else ""
    return (
        f'<li><details{is_open}><summary><span class="key">{text(key)}</span>{named}</summary>'
        f"{_tree(value, depth + 1)}</details></li>"
    )
