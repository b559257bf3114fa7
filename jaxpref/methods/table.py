"""The table of methods, as text and as Markdown: `jaxpref methods`, and what README.md, METHODS.md and the
README of the losses show of it."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxpref.methods.base import Method

__all__ = ["details", "evidence", "family_list", "markdown", "summary"]


def _differences(method: Method) -> str:
    return f"identity test: {method.stops}" if method.stops else "yes"


def _extremes(method: Method) -> str:
    return "yes"


EVIDENCE: dict[str, Callable[[Method], str]] = {
    "finite differences": _differences,
    "extremes": _extremes,
    "identities": lambda m: m.identities,
    "outside parity": lambda m: m.parity,
    "real data": lambda m: m.real,
}


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return getattr(value, "__name__", str(value))


def _defaults(method: Method) -> str:
    given = ", ".join(f"{name}={_number(value)}" for name, value in method.hyper_parameters.items())
    return f"{given} ({method.defaults})" if given else "-"


def _sources(method: Method) -> str:
    return ", ".join(method.sources)


def evidence(methods: Iterable[Method]) -> str:
    """Method by kind of evidence, one block a method: what a terminal shows."""
    lines = []
    for method in methods:
        lines.append(f"{method.name}  ({method.title}; {_sources(method)})")
        lines += [f"    {kind:19s} {cell(method)}" for kind, cell in EVIDENCE.items()]
    return "\n".join(lines)


def details(method: Method) -> str:
    """One method in full."""
    rows = {
        "title": method.title,
        "source": _sources(method),
        "formula": method.formula,
        "compares": method.score,
        "reference": "yes" if method.reference else "no",
        "inputs": ", ".join(method.inputs),
        "defaults": _defaults(method),
        "coupled": method.coupled or "no: every example stands for itself",
        "state": "yes: set loss_state" if method.state else "no",
        **{kind: cell(method) for kind, cell in EVIDENCE.items()},
    }
    return "\n".join([method.name, *(f"    {name:19s} {text}" for name, text in rows.items())])


def markdown(families: Mapping[str, Iterable[Method]]) -> str:
    """Tables by family in full, for `losses/README.md`."""
    columns = (
        "loss",
        "method, paper",
        "formula",
        "of",
        "ref.",
        "defaults",
        "identities",
        "outside parity",
        "real data",
    )
    return _tables(families, columns, _row)


def _tables(
    families: Mapping[str, Iterable[Method]], columns: tuple[str, ...], row: Callable[[Method], Iterable[str]]
) -> str:
    """A heading and a table for each family, a row for each method."""
    parts = []
    for family, methods in families.items():
        lines = [f"### {family}", "", _line(columns), "|---" * len(columns) + "|"]
        lines += [_line(map(_escaped, row(m))) for m in methods]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _row(m: Method) -> tuple[str, ...]:
    stops = f"; gradient stops: {m.stops}" if m.stops else ""
    return (
        f"`{m.name}`",
        f"{m.title}, {_sources(m)}",
        m.formula,
        m.score,
        "yes" if m.reference else "no",
        _defaults(m),
        m.identities + stops,
        m.parity,
        m.real,
    )


def family_list(families: Mapping[str, Iterable[Method]]) -> str:
    """Tables by family in short, for METHODS.md: title, paper, name, evidence in a few words."""

    def row(m: Method) -> tuple[str, ...]:
        return m.title, _sources(m), f"`losses.{m.name}`", _short(m)

    return _tables(families, ("method", "paper", "loss", "evidence"), row)


def summary(families: Mapping[str, Iterable[Method]]) -> str:
    """How many methods there are and of what, for README.md."""
    counts = {family: len(tuple(methods)) for family, methods in families.items()}
    each = ", ".join(f"{family[0].lower()}{family[1:]} ({n})" for family, n in counts.items())
    return textwrap.fill(f"**{sum(counts.values())} losses**, by what they learn from: {each}.", width=118)


def _short(method: Method) -> str:
    cells = ["identities", method.parity, method.real]
    return ", ".join(cell for cell in cells if not cell.startswith("none"))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
