"""Reads run directories. A run that was killed, or has not begun, still gives what it has."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from jaxpref.paths import AnyPath, absolute, as_path, reachable, read_text
from jaxpref.report.markup import items

__all__ = ["Evaluation", "Picture", "Run", "Sample", "read_run", "read_runs"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One metric of one evaluator at one step; `low` and `high` bound its confidence interval."""

    stage: str
    step: int
    evaluator: str
    metric: str
    mean: float
    low: float  # NaN where the evaluator gave no interval
    high: float
    count: int | None
    better: str  # "higher", "lower" or "" (neither)
    clusters: int | None = None  # independent groups that the `count` items come in; None: each is one
    share: bool = False  # cannot leave [0, 1]
    values: tuple[float, ...] = ()  # of each seed, NaN where one has none; empty: this is of one run

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def is_range(self) -> bool:
        """Whether `low` and `high` are the values of two seeds, which is no interval to decide by."""
        return sum(map(math.isfinite, self.values)) == 2

    @property
    def size(self) -> str:
        """What the mean is over: `240 in 120 groups`, `3 seeds of 240`; empty where it was not recorded."""
        size = items(self.count, self.clusters)
        if not self.values:
            return size
        seeds = sum(map(math.isfinite, self.values))
        return f"{seeds} seed{'s' * (seeds != 1)}" + f" of {size}" * bool(size)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One response to one prompt, as an evaluator saw it."""

    stage: str
    step: int
    evaluator: str
    id: str
    prompt: str
    response: str
    score: float | None
    note: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that an evaluator asks for, from its last evaluation."""

    stage: str
    step: int
    evaluator: str
    title: str
    kind: str
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory holds. `problems` are plain sentences on what is missing or unreadable."""

    label: str
    directory: str  # its name
    experiment: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    evaluations: tuple[Evaluation, ...]
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]
    pictures: tuple[Picture, ...] = ()
    spikes: tuple[dict[str, Any], ...] = ()  # steps whose loss jumped or was not finite
    seeds: tuple["Run", ...] = ()  # the runs that this line of a report is the mean of (`report.seeds`)
    data: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # stage -> what it trained on

    @property
    def name(self) -> str:
        return str(self.experiment.get("name") or self.label)

    @property
    def stages(self) -> list[str]:
        """In the order in which they ran."""
        names = [row["stage"] for row in self.metrics] + [e.stage for e in self.evaluations]
        return list(dict.fromkeys(names))


def read_run(directory: AnyPath, label: str | None = None) -> Run:
    """One run directory.

    Raises:
      ValueError: the directory does not exist, or has no readable experiment.json (so it is not a run).
    """
    if not reachable(directory).is_dir():
        raise ValueError(f"{directory}: expected a run directory, got {_kind(directory)}")
    file = directory / "experiment.json"
    if not file.is_file():
        entries = ", ".join(sorted(p.name for p in directory.iterdir())[:6]) or "nothing"
        raise ValueError(
            f"{directory} is not a run directory: it has no experiment.json (found {entries}); "
            "give the workdir of `jaxpref train`"
        )
    try:
        experiment = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(experiment, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(experiment).__name__}")

    problems: list[str] = []
    metrics = tuple(_latest(_entries(directory / "metrics.jsonl", ("stage", "step"), problems)))
    evaluation_entries = _entries(
        directory / "evaluations.jsonl", ("stage", "step", "evaluator", "metrics"), problems
    )
    samples = _entries(
        directory / "samples.jsonl",
        ("stage", "step", "evaluator", "prompt", "response"),
        problems,
        needed=not evaluation_entries,  # evaluators need not write any
    )
    drawn = directory / "pictures.jsonl"
    pictures = (
        _entries(drawn, ("stage", "step", "title", "kind", "data"), problems) if drawn.is_file() else []
    )
    noted = directory / "spikes.jsonl"
    spikes = _entries(noted, ("stage", "step"), problems, needed=False) if noted.is_file() else []
    data = _data(directory / "data.json", problems)
    return Run(
        label=label or absolute(directory).name,
        directory=absolute(directory).name,
        experiment=experiment,
        metrics=metrics,
        evaluations=tuple(_evaluations(evaluation_entries)),
        samples=tuple(_samples(samples)),
        problems=tuple(problems),
        pictures=tuple(_pictures(pictures)),
        spikes=tuple(spikes),
        data=data,
    )


def _data(path: AnyPath, problems: list[str]) -> dict[str, list[str]]:
    if not path.is_file():
        return {}
    try:
        return {
            str(stage): [str(line) for line in lines] for stage, lines in json.loads(read_text(path)).items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        problems.append(f"data.json is not readable ({error}).")
        return {}


def read_runs(directories: Sequence[AnyPath]) -> list[Run]:
    """Several runs, each with a label of its own: its experiment's name where that tells them apart."""
    if not directories:
        raise ValueError("expected at least one run directory, got none")
    runs = [read_run(as_path(directory)) for directory in directories]
    paths = [absolute(as_path(directory)) for directory in directories]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"the run directory {twice} was given twice; name each once")
    names = [run.name for run in runs]
    labels = [path.name for path in paths]
    depth = 1
    while len(set(labels)) < len(labels):
        depth += 1
        labels = ["/".join(path.parts[-depth:]) for path in paths]
    if len(set(names)) == len(names):
        labels = names
    return [dataclasses.replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _kind(path: AnyPath) -> str:
    return "a file" if path.is_file() else "nothing: the path does not exist"


def _entries(
    file: AnyPath, keys: tuple[str, ...], problems: list[str], *, needed: bool = True
) -> list[dict[str, Any]]:
    """The readable entries of a JSON-lines file; what is not readable becomes a problem, not an error."""
    if not file.is_file():
        problems.append(f"{file.name} is missing, so what it would show is left out.")
        return []
    lines = read_text(file).split("\n")
    entries, bad = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):  # no newline after it: the writer was stopped in mid-line
                problems.append(f"{file.name} ends in the middle of a line (the run was killed?).")
            else:
                bad.append(number)
            continue
        well_formed = isinstance(entry, dict) and all(key in entry for key in keys)
        if well_formed and isinstance(entry["step"], int) and isinstance(entry["stage"], str):
            entries.append(entry)
        else:
            bad.append(number)
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        noun = "line" if len(bad) == 1 else "lines"
        problems.append(f"{file.name}: {len(bad)} {noun} could not be read and left out (line {shown}).")
    if not entries and needed:
        problems.append(f"{file.name} has no complete line yet.")
    return entries


def _latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per stage, split and step: a resumed run repeats the steps after its checkpoint."""
    latest = {(row["stage"], row.get("split", "train"), row["step"]): row for row in rows}
    return list(latest.values())


def number(value: Any) -> float:
    """A JSON value as a float; NaN if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def _evaluations(entries: list[dict[str, Any]]) -> list[Evaluation]:
    latest: dict[tuple[str, int, str, str], Evaluation] = {}
    for entry in entries:
        metrics = entry["metrics"] if isinstance(entry["metrics"], dict) else {}
        for metric, value in metrics.items():
            fields = value if isinstance(value, dict) else {"mean": value}
            count, clusters = number(fields.get("count")), number(fields.get("clusters"))
            low, high = number(fields.get("low")), number(fields.get("high"))
            if low == high and "clusters" not in fields:
                low = high = math.nan  # runs that recorded none also gave one cluster an interval of no width
            evaluation = Evaluation(
                stage=entry["stage"],
                step=entry["step"],
                evaluator=str(entry["evaluator"]),
                metric=str(metric),
                mean=number(fields.get("mean")),
                low=low,
                high=high,
                count=int(count) if math.isfinite(count) else None,
                better=str(fields.get("better") or ""),
                clusters=int(clusters) if math.isfinite(clusters) else None,
                share=fields.get("share") is True,
            )
            latest[entry["stage"], entry["step"], evaluation.evaluator, evaluation.metric] = evaluation
    return list(latest.values())


def _samples(entries: list[dict[str, Any]]) -> list[Sample]:
    samples: dict[tuple[str, int, str, str], Sample] = {}
    for index, entry in enumerate(entries):
        score = number(entry.get("score"))
        sample = Sample(
            stage=entry["stage"],
            step=entry["step"],
            evaluator=str(entry["evaluator"]),
            id=str(entry.get("id", index)),
            prompt=str(entry["prompt"]),
            response=str(entry["response"]),
            score=score if math.isfinite(score) else None,
            note=str(entry.get("note") or ""),
        )
        samples[sample.stage, sample.step, sample.evaluator, sample.id] = sample
    return list(samples.values())


def _pictures(entries: list[dict[str, Any]]) -> list[Picture]:
    """The last of each title in each stage."""
    latest: dict[tuple[str, str, str], Picture] = {}
    for entry in entries:
        if isinstance(entry["data"], dict):
            picture = Picture(
                stage=entry["stage"],
                step=entry["step"],
                evaluator=str(entry.get("evaluator", "")),
                title=str(entry["title"]),
                kind=str(entry["kind"]),
                data=entry["data"],
            )
            latest[picture.stage, picture.evaluator, picture.title] = picture
    return list(latest.values())
