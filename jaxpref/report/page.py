"""Puts the sections together into one self-contained file."""

import base64
import hashlib
import importlib.resources
import re
import shlex
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.paths import AnyPath, absolute, as_path, write_whole
from jaxpref.report.cards import cards
from jaxpref.report.configuration import configuration_section
from jaxpref.report.curves import curves_section, progress_section
from jaxpref.report.data import data_section
from jaxpref.report.frontier import frontier_section
from jaxpref.report.pictures import pictures_section
from jaxpref.report.results import evaluation_table, final_figures, held_out_table
from jaxpref.report.runs import Run, read_runs
from jaxpref.report.samples import samples_section
from jaxpref.report.template import render
from jaxpref.report.timing import timing_section
from jaxpref.report.tournament import Table, read_tournament, tournament_section

__all__ = ["write_report"]

_ARXIV = re.compile(r"(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?")
# Browsers that do not know the CSS for it open folded parts for the printer by this.
_SCRIPT = (
    'addEventListener("beforeprint",()=>document.querySelectorAll("details").forEach(d=>{d.open=true}));'
)
_BRACKETS = (
    "Square brackets: confidence intervals as the evaluators recorded them; that of a change takes its two "
    "sides as independent, which makes it wide rather than narrow."
)
_MISSING = {
    "curves": "No training metrics were logged.",
    "results": "No evaluation was recorded, so there is no before and after.",
    "samples": "No samples were recorded.",
    "data": "No account of the data was recorded.",
    "timing": "No training step was logged, so there is nothing to time.",
}


def write_report(run_directories: Sequence[AnyPath], output: AnyPath) -> AnyPath:
    """Writes the report of one run, or of several side by side, and the figures as PNGs.

    The page makes no request to anywhere: styles and figures are inside it. The PNGs go to the folder
    `report` next to it, replacing those of an earlier report. The same input gives the same bytes. A
    `tournament.json` next to the page is shown if it is of these runs.

    Args:
      run_directories: as `jaxpref train` leaves them, finished or not.
      output: the HTML file; its folder is made if need be.

    Returns:
      `output`.

    Raises:
      ValueError: something given is not a run directory, or is given twice.
    """
    runs = read_runs([as_path(directory) for directory in run_directories])
    output = as_path(output)
    folder = output.parent / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    labels = {absolute(as_path(d)).name: run.label for d, run in zip(run_directories, runs, strict=True)}
    tournament = read_tournament(output.parent / "tournament.json", labels)
    write_whole(output, _page(runs, folder, tournament))
    return output


def _page(runs: Sequence[Run], folder: AnyPath, tournament: Table | None) -> str:
    style = importlib.resources.files("jaxpref.report").joinpath("style.css").read_text(encoding="utf-8")
    summaries, notes = _docstrings(runs)
    one = len(runs) == 1
    return render(
        "page",
        title=runs[0].name if one else f"{len(runs)} runs: " + ", ".join(run.label for run in runs),
        digest=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        style=Markup(style),
        script=Markup(_SCRIPT),
        summaries=summaries,
        notes=notes,
        device=str(runs[0].experiment.get("device") or "") if one else "",
        command=_command(runs[0]) if one else "",
        problems=[p if one else f"{run.label}: {p}" for run in runs for p in run.problems],
        sections=_sections(runs, folder, tournament),
    )


def _sections(runs: Sequence[Run], folder: AnyPath, tournament: Table | None) -> list[dict[str, Any]]:
    results = [
        ("", cards(runs)),
        ("All evaluations" if len(runs) == 1 else "Final table", evaluation_table(runs)),
        ("", final_figures(runs, folder)),
        ("", pictures_section(runs, folder)),
        ("Win rates", tournament_section(tournament, folder) if tournament else ""),
        ("What is gained for the KL spent", frontier_section(runs, folder)),
        ("Over the stages", progress_section(runs, folder)),
        ("Held-out metrics at the last step", held_out_table(runs)),
    ]
    sections = [
        ("results", "Results", results),
        ("curves", "Curves", [("", curves_section(runs, folder))]),
        ("samples", "Samples", [("", samples_section(runs))]),
        ("timing", "Time and throughput", [("", timing_section(runs))]),
        ("data", "Data", [("", data_section(runs))]),
        ("configuration", "Configuration", [("", configuration_section(runs))]),
        ("sources", "Sources and versions", [("", _sources(runs))]),
    ]
    note = _BRACKETS if any(run.evaluations for run in runs) else ""
    return [
        {
            "key": key,
            "title": title,
            "parts": parts,
            "empty": _MISSING.get(key, "Nothing was recorded."),
            "note": note if key == "results" else "",
        }
        for key, title, parts in sections
    ]


def _docstrings(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, str]]]:
    """First paragraphs of the experiments' docstrings, and (of which run, the rest) of each."""
    summaries: list[str] = []
    notes: list[tuple[str, str]] = []
    for run in {run.name: run for run in reversed(runs)}.values():
        docstring = str(run.experiment.get("docstring") or "").strip()
        first, _, rest = docstring.partition("\n\n")
        if first and first not in summaries:
            summaries.insert(0, first)
        if rest.strip():
            notes.insert(0, (f" of {run.name}" if len(runs) > 1 else "", rest.strip()))
    return summaries, notes


def _command(run: Run) -> str:
    command = run.experiment.get("command") or ""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def _sources(runs: Sequence[Run]) -> Markup:
    papers = dict.fromkeys(str(i) for run in runs for i in (run.experiment.get("arxiv") or []))
    several = [[r.label, str(r.experiment.get("device", "")), _command(r)] for r in runs]
    versions = [run.experiment.get("versions") for run in runs]
    known = [v if isinstance(v, dict) else {} for v in versions]
    return render(
        "sources",
        papers=[_arxiv(i) for i in papers],
        runs=several if len(runs) > 1 else [],
        header=["Package", *([run.label for run in runs] if len(runs) > 1 else ["Version"])],
        versions=[
            [str(name), *(str(v.get(name, "")) for v in known)]
            for name in dict.fromkeys(n for v in known for n in v)
        ],
    )


def _arxiv(identifier: str) -> tuple[str, bool]:
    """The id without a prefix, and whether it is one that arXiv can have; if not, what was given."""
    bare = re.sub(r"^arxiv:\s*", "", identifier.strip(), flags=re.IGNORECASE)
    known = _ARXIV.fullmatch(bare) is not None
    return (bare if known else identifier), known
