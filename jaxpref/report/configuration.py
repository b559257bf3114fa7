"""The complete configuration as a tree, and the leaves in which runs differ."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.config import leaves
from jaxpref.labels import differing, literal
from jaxpref.report.runs import Run
from jaxpref.report.template import render

__all__ = ["configuration_section", "differences"]

_OPEN_DEPTH = 1


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Dotted path and each run's value, for the leaves that are not the same in all runs."""
    return list(differing([leaves(run.experiment.get("config", {})) for run in runs]).items())


def configuration_section(runs: Sequence[Run]) -> Markup:
    """With several runs the differences come first, then each run's tree, folded."""
    shown = []
    for run in runs:
        config = run.experiment.get("config")
        tree = _tree(config, 0) if config else None
        shown.append({"label": run.label, "tree": tree, "count": len(leaves(config)) if config else 0})
    return render(
        "configuration",
        many=len(runs) > 1,
        header=["Setting", *(run.label for run in runs)],
        differing=[[path, *values] for path, values in differences(runs)],
        runs=shown,
    )


def _is_branch(value: Any) -> bool:
    if isinstance(value, dict):
        return any(key != "function" for key in value)
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def _tree(node: Any, depth: int) -> list[dict[str, Any]]:
    """What is below a branch, as the template shows it."""
    if isinstance(node, dict):
        items = [(key, value) for key, value in node.items() if key != "function"]
    else:
        items = [(item.get("name", i) if isinstance(item, dict) else i, item) for i, item in enumerate(node)]
    return [_item(str(key), value, depth) for key, value in items]


def _item(key: str, value: Any, depth: int) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    branch = _is_branch(value)
    return {
        "key": key,
        "function": None if function is None else str(function),
        "literal": None if branch or function else literal(value),
        "below": _tree(value, depth + 1) if branch else None,
        "open": depth < _OPEN_DEPTH,
    }
