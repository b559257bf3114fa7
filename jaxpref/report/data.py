"""What each stage trained on: rows read, left out and cut, and the columns."""

from collections.abc import Sequence

from markupsafe import Markup

from jaxpref.report.runs import Run
from jaxpref.report.template import render

__all__ = ["data_section"]


def data_section(runs: Sequence[Run]) -> Markup:
    """A list for each stage; runs that say the same share it. Empty where no run recorded its data."""
    shared: dict[str, list[tuple[str, list[str]]]] = {}
    for run in runs:
        for stage, lines in run.data.items():
            found = shared.setdefault(stage, [])
            labels = next((i for i, (_, known) in enumerate(found) if known == lines), None)
            if labels is None:
                found.append((run.label, lines))
            else:
                found[labels] = (f"{found[labels][0]}, {run.label}", lines)
    stages = [
        {
            "name": stage,
            "kinds": [{"runs": labels if len(kinds) > 1 else "", "lines": lines} for labels, lines in kinds],
        }
        for stage, kinds in shared.items()
    ]
    return render("data", stages=stages) if stages else Markup("")
