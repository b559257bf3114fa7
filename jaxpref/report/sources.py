"""Where results come from: papers, commits, dates, hardware, commands and versions."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from jaxpref.report.runs import Run
from jaxpref.report.template import render

__all__ = ["command", "facts", "sources_section"]

_ARXIV = re.compile(r"(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?")
_DIGITS = 12  # of a commit


def facts(runs: Sequence[Run]) -> list[str]:
    """When the runs were started, of which commits, and on what; what was not recorded is left out."""
    dates = sorted(date for run in runs for date in _dates(run))
    commits = dict.fromkeys(commit for run in runs for commit in _commits(run))
    machines = dict.fromkeys(machine for run in runs for machine in _machines(run))
    said = []
    if dates:
        said.append(dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}")
    if commits:
        said.append(f"commit {', '.join(commits)}")
    if machines:
        said.append(f"on {'; '.join(machines)}")
    return said


def command(run: Run) -> str:
    given = run.experiment.get("command") or ""
    return shlex.join(map(str, given)) if isinstance(given, list) else str(given)


def sources_section(runs: Sequence[Run]) -> Markup:
    papers = dict.fromkeys(str(i) for run in runs for i in (run.experiment.get("arxiv") or []))
    versions = [run.experiment.get("versions") for run in runs]
    known = [v if isinstance(v, dict) else {} for v in versions]
    alike = all(v == known[0] for v in known)
    columns = ["Version"] if alike else [run.label for run in runs]
    return render(
        "sources",
        papers=[_arxiv(i) for i in papers],
        runs=[_row(run) for run in runs] if len(runs) > 1 else [],
        header=["Package", *columns],
        versions=[
            [str(name), *(str(v.get(name, "")) for v in known[: len(columns)])]
            for name in dict.fromkeys(n for v in known for n in v)
        ],
    )


def _row(run: Run) -> list[str]:
    told = (_dates(run), _commits(run), _machines(run))
    return [run.label, *("; ".join(items) or "–" for items in told), command(run)]


def _sessions(run: Run) -> list[dict[str, Any]]:
    """One for each time that the run was started or resumed; none of runs from before they were recorded."""
    given = run.experiment.get("sessions")
    return [s for s in given if isinstance(s, dict)] if isinstance(given, list) else []


def _dates(run: Run) -> list[str]:
    """`2026-11-30 20:10 UTC`."""
    return [str(s["started"])[:16].replace("T", " ") + " UTC" for s in _sessions(run) if s.get("started")]


def _commits(run: Run) -> list[str]:
    return list(
        dict.fromkeys(
            name + str(s[key])[:_DIGITS] + " with uncommitted changes" * bool(s.get(changed))
            for s in _sessions(run)
            for name, key, changed in (("", "commit", "uncommitted"), ("jaxpref ", "library_commit", ""))
            if s.get(key) and (not name or s[key] != s.get("commit"))
        )
    )


def _machines(run: Run) -> list[str]:
    """Devices as the last session saw them, with the mesh, and each host's processor."""
    device = str(run.experiment.get("device") or "")
    hosts = dict.fromkeys(
        f"{s['host_cpu']}, {s.get('host_cores')} cores" for s in _sessions(run) if s.get("host_cpu")
    )
    return [", host ".join([device, *hosts])] if device else []


def _arxiv(identifier: str) -> tuple[str, bool]:
    """The id without a prefix, and whether it is one that arXiv can have; if not, what was given."""
    bare = re.sub(r"^arxiv:\s*", "", identifier.strip(), flags=re.IGNORECASE)
    known = _ARXIV.fullmatch(bare) is not None
    return (bare if known else identifier), known
