"""Puts the sections together into one self-contained file."""

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.paths import AnyPath, as_path, write_whole
from jaxpref.report.cards import cards
from jaxpref.report.configuration import configuration_section
from jaxpref.report.curves import curves_section, progress_section
from jaxpref.report.data import data_section
from jaxpref.report.frontier import frontier_section
from jaxpref.report.pictures import pictures_section
from jaxpref.report.results import evaluation_table, final_figures, held_out_table
from jaxpref.report.runs import Run, read_runs
from jaxpref.report.samples import samples_section
from jaxpref.report.seeds import examples, lines, members
from jaxpref.report.sources import command, facts, sources_section
from jaxpref.report.spending import spending_section
from jaxpref.report.spikes import spikes_section
from jaxpref.report.template import render
from jaxpref.report.timing import timing_section
from jaxpref.report.tournament import Table, read_tournament, tournament_section

__all__ = ["write_report"]

# Browsers that do not know the CSS for it open folded parts for the printer by this.
_SCRIPT = (
    'addEventListener("beforeprint",()=>document.querySelectorAll("details").forEach(d=>{d.open=true}));'
)
_BRACKETS = (
    "Square brackets: confidence intervals as the evaluators recorded them; that of a change takes its two "
    "sides as independent, which makes it wide rather than narrow."
)
_SEEDS = (
    "Runs that differ only in their seed are one line: the mean over seeds. Brackets, bands and bars of such "
    "a line: the t interval (95 %) of that mean over seeds where there are three or more, from the lower to "
    "the higher where there are two; how few prompts were evaluated is not in them. A change is that of each "
    "seed. Samples and pictures are those of the first seed."
)
_MISSING = {
    "curves": "No training metrics were logged.",
    "results": "No evaluation was recorded, so there is no before and after.",
    "samples": "No samples were recorded.",
    "data": "No account of the data was recorded.",
    "spikes": "No step's loss jumped or was not finite.",
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
    drawn = lines(read_runs([as_path(directory) for directory in run_directories]))
    output = as_path(output)
    folder = output.parent / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    labels = {run.directory: run.label for run in members(drawn)}
    tournament = read_tournament(output.parent / "tournament.json", labels)
    write_whole(output, _page(drawn, folder, tournament))
    return output


def _page(drawn: Sequence[Run], folder: AnyPath, tournament: Table | None) -> str:
    """`drawn`: the lines, each one run or several seeds (`report.seeds`)."""
    style = importlib.resources.files("jaxpref.report").joinpath("style.css").read_text(encoding="utf-8")
    runs = members(drawn)
    summaries, notes = _docstrings(runs)
    one = len(runs) == 1
    labels = ", ".join(line.label for line in drawn)
    return render(
        "page",
        title=runs[0].name if one else f"{len(runs)} runs: {labels}",
        digest=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        style=Markup(style),
        script=Markup(_SCRIPT),
        summaries=summaries,
        notes=notes,
        facts=facts(runs),
        command=command(runs[0]) if one else "",
        problems=[p if one else f"{run.label}: {p}" for run in runs for p in run.problems],
        sections=_sections(drawn, folder, tournament),
    )


def _sections(drawn: Sequence[Run], folder: AnyPath, tournament: Table | None) -> list[dict[str, Any]]:
    results = [
        ("", cards(drawn)),
        ("All evaluations" if len(drawn) == 1 else "Final table", evaluation_table(drawn)),
        ("", final_figures(drawn, folder)),
        ("", pictures_section(examples(drawn), folder)),
        ("Win rates", tournament_section(tournament, folder) if tournament else ""),
        ("What is gained for the KL spent", frontier_section(drawn, folder)),
        ("Over the stages", progress_section(drawn, folder)),
        ("Held-out metrics at the last step", held_out_table(drawn)),
    ]
    timing = [
        ("", timing_section(members(drawn))),
        ("Where the time went", spending_section(members(drawn), folder)),
    ]
    sections = [
        ("results", "Results", results),
        ("curves", "Curves", [("", curves_section(drawn, folder))]),
        ("samples", "Samples", [("", samples_section(examples(drawn)))]),
        ("spikes", "Spikes", [("", spikes_section(members(drawn)))]),
        ("timing", "Time and throughput", timing),
        ("data", "Data", [("", data_section(members(drawn)))]),
        ("configuration", "Configuration", [("", configuration_section(drawn))]),
        ("sources", "Sources and versions", [("", sources_section(members(drawn)))]),
    ]
    notes = [_BRACKETS] * any(line.evaluations for line in drawn) + [_SEEDS] * any(
        line.seeds for line in drawn
    )
    return [
        {
            "key": key,
            "title": title,
            "parts": parts,
            "empty": _MISSING.get(key, "Nothing was recorded."),
            "notes": notes if key == "results" else [],
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
