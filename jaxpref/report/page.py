"""Puts the sections together into one self-contained file."""

import base64
import hashlib
import importlib.resources
import re
import shlex
from collections.abc import Sequence

from jaxpref.paths import AnyPath, absolute, as_path, write_whole
from jaxpref.report.cards import cards
from jaxpref.report.configuration import configuration_section
from jaxpref.report.curves import curves_section, progress_section
from jaxpref.report.frontier import frontier_section
from jaxpref.report.markup import table, text
from jaxpref.report.pictures import pictures_section
from jaxpref.report.results import evaluation_table, final_figures, held_out_table
from jaxpref.report.runs import Run, read_runs
from jaxpref.report.samples import samples_section
from jaxpref.report.timing import timing_section
from jaxpref.report.tournament import Table, read_tournament, tournament_section

__all__ = ["write_report"]

_ARXIV = re.compile(r"(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?")
# Browsers that do not know the CSS for it open folded parts for the printer by this.
_SCRIPT = (
    'addEventListener("beforeprint",()=>document.querySelectorAll("details").forEach(d=>{d.open=true}));'
)
_MISSING = {
    "curves": "No training metrics were logged.",
    "results": "No evaluation was recorded, so there is no before and after.",
    "samples": "No samples were recorded.",
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
    results = [
        cards(runs) or _nothing("results"),
        _titled("All evaluations" if len(runs) == 1 else "Final table", evaluation_table(runs)),
        final_figures(runs, folder),
        pictures_section(runs, folder),
        _titled("Win rates", tournament_section(tournament, folder) if tournament else ""),
        _titled("What is gained for the KL spent", frontier_section(runs, folder)),
        _titled("Over the stages", progress_section(runs, folder)),
        _titled("Held-out metrics at the last step", held_out_table(runs)),
    ]
    note = '<p class="note">Square brackets: confidence intervals as the evaluators recorded them; that of a '
    note += "change takes its two sides as independent, which makes it wide rather than narrow.</p>"
    if any(run.evaluations for run in runs):
        results.append(note)
    sections = [
        ("results", "Results", "".join(results)),
        ("curves", "Curves", curves_section(runs, folder)),
        ("samples", "Samples", samples_section(runs)),
        ("timing", "Time and throughput", timing_section(runs)),
        ("configuration", "Configuration", configuration_section(runs)),
        ("sources", "Sources and versions", _sources(runs)),
    ]
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{html or _nothing(key)}</section>\n'
        for key, title, html in sections
    )
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: " + ", ".join(run.label for run in runs)
    style = importlib.resources.files("jaxpref.report").joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
{_header(runs, title)}
<nav>{links}</nav>
{_problems(runs)}{body}<script>{_SCRIPT}</script>
</body>
</html>
"""


def _titled(title: str, html: str) -> str:
    return f"<h3>{title}</h3>{html}" if html else ""


def _nothing(key: str) -> str:
    return f'<p class="empty">{_MISSING.get(key, "Nothing was recorded.")}</p>'


def _header(runs: Sequence[Run], title: str) -> str:
    paragraphs, notes = [], []
    for run in {run.name: run for run in reversed(runs)}.values():
        docstring = str(run.experiment.get("docstring") or "").strip()
        first, _, rest = docstring.partition("\n\n")
        if first and f'<p class="summary">{text(first)}</p>' not in paragraphs:
            paragraphs.insert(0, f'<p class="summary">{text(first)}</p>')
        if rest.strip():
            of = f" of {text(run.name)}" if len(runs) > 1 else ""
            notes.insert(0, f"<details><summary>Notes{of}</summary><pre>{text(rest.strip())}</pre></details>")
    facts = []
    if len(runs) == 1:
        device = runs[0].experiment.get("device")
        command = _command(runs[0])
        facts = [f"on {text(device)}"] if device else []
        facts += [f"<code>{text(command)}</code>"] if command else []
    line = f'<p class="facts">{" · ".join(facts)}</p>' if facts else ""
    return f"<header><h1>{text(title)}</h1>{''.join(paragraphs)}{line}{''.join(notes)}</header>"


def _command(run: Run) -> str:
    command = run.experiment.get("command") or ""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def _problems(runs: Sequence[Run]) -> str:
    items = [
        f"<li>{text(f'{run.label}: ' if len(runs) > 1 else '')}{text(problem)}</li>"
        for run in runs
        for problem in run.problems
    ]
    return f'<ul class="problems">{"".join(items)}</ul>\n' if items else ""


def _sources(runs: Sequence[Run]) -> str:
    ids = dict.fromkeys(str(i) for run in runs for i in (run.experiment.get("arxiv") or []))
    items = "".join(f"<li>{_arxiv(i)}</li>" for i in ids)
    html = f'<p>Papers whose methods or data were used:</p><ul class="links">{items}</ul>' if items else ""
    if len(runs) > 1:
        cells = [
            [text(r.label), text(r.experiment.get("device", "")), f"<code>{text(_command(r))}</code>"]
            for r in runs
        ]
        html += table(["Run", "Device", "Command"], cells, first_is_text=3)
    versions = [run.experiment.get("versions") for run in runs]
    known = [v if isinstance(v, dict) else {} for v in versions]
    rows = [
        [text(name), *(text(v.get(name, "")) for v in known)]
        for name in dict.fromkeys(n for v in known for n in v)
    ]
    if rows:
        header = ["Package", *([text(run.label) for run in runs] if len(runs) > 1 else ["Version"])]
        html += table(header, rows, first_is_text=len(header))
    return html


def _arxiv(identifier: str) -> str:
    bare = re.sub(r"^arxiv:\s*", "", identifier.strip(), flags=re.IGNORECASE)
    if not _ARXIV.fullmatch(bare):
        return text(identifier)
    return f'<a href="https://arxiv.org/abs/{text(bare)}">arXiv:{text(bare)}</a>'
