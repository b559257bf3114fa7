"""Steps whose loss jumped or was not finite: what they were of is kept, so that they can be done again.

A loss spikes where it is above the median of the last `WINDOW` steps by more than `FACTOR` of their standard
deviations (as the median of absolute deviations says it) and by more than `LEAST` of that median. Nothing
spikes before `WARM_UP` steps, nor in the `QUIET` steps after one that did: a run that diverges says so once.
"""

import collections
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxpref.training.files import RunFiles

__all__ = ["FACTOR", "FILE", "LEAST", "QUIET", "WARM_UP", "WINDOW", "SpikeWatch", "threshold"]

FILE = "spikes.jsonl"
WINDOW, WARM_UP, QUIET = 100, 20, 20  # steps
FACTOR, LEAST = 10.0, 0.1
_NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
_SHOWN = 5  # metrics beside the loss


def threshold(losses: Iterable[float]) -> float:
    """What a loss after these spikes above; infinite before there are `WARM_UP`.

    Example:
      >>> threshold([1.0, 1.1] * 10)  # median 1.05, deviations of .05: ten of .074 above it
      1.7913
    """
    known = [loss for loss in losses if math.isfinite(loss)][-WINDOW:]
    if len(known) < WARM_UP:
        return math.inf
    middle, width = _spread(known)
    return round(middle + max(FACTOR * width, LEAST * abs(middle)), 6)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and the standard deviation by the median of absolute deviations from it."""
    middle = statistics.median(values)
    return middle, _NORMAL * statistics.median(abs(value - middle) for value in values)


class SpikeWatch:
    """Looks at each step's metrics in turn. What it finds goes to spikes.jsonl and is one line of the log.

    Args:
      ids: the rows of the records that a step trained on.
      nearest: the last checkpoint that is not after a step; None: there is none.
    """

    def __init__(
        self,
        files: RunFiles,
        stage: str,
        *,
        ids: Callable[[int], Iterable[Any]],
        nearest: Callable[[int], int | None],
    ) -> None:
        self._files, self._stage = files, stage
        self._ids, self._nearest = ids, nearest
        self._recent: collections.deque[Mapping[str, float]] = collections.deque(maxlen=WINDOW)
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW)  # finite ones
        self._quiet_until = {"spike": 0, "not finite": 0}

    def go_on(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes what the metrics file has of the steps before, so that a resumed run finds the same steps."""
        before = [row for row in rows if row["stage"] == self._stage and row.get("split") == "train"]
        for row in before[-2 * WINDOW :]:  # the window, and those in which its steps were looked at
            values = {name: _float(x) for name, x in row.items() if name not in ("stage", "split", "time")}
            self._look(row["step"], values)

    def seen(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""
        entry = self._look(step, values)
        if entry is None:
            return
        ids = [int(i) for i in self._ids(step)]
        self._files.append(FILE, [entry | {"example_ids": ids}])
        at = self._nearest(step)
        begin = "the beginning of the stage" if at is None else f"the checkpoint of step {at}"
        spike = entry["kind"] == "spike"
        more = f" (above {entry['threshold']:.4g})" if spike else f", grad_norm {values.get('grad_norm')}"
        self._files.log(
            f"{self._stage}: loss {values['loss']:.4g}{more} at step {step}: its {len(ids)} example ids are "
            f"in {FILE}; `jaxpref replay` with --stage {self._stage} --step {step} does it again from {begin}"
        )

    def _look(self, step: int, values: Mapping[str, float]) -> dict[str, Any] | None:
        # Half of all steps are below their median, and need no more than that.
        usual = bool(self._losses) and values["loss"] <= sorted(self._losses)[len(self._losses) // 2]
        limit = math.inf if usual else threshold(self._losses)
        finite = math.isfinite(values["loss"]) and math.isfinite(values.get("grad_norm", 0.0))
        kind = "not finite" if not finite else "spike" if values["loss"] > limit else None
        entry = None
        if kind is not None and step >= self._quiet_until[kind]:
            self._quiet_until[kind] = step + 1 + QUIET
            entry = {
                "stage": self._stage,
                "step": step,
                "split": "train",
                "kind": kind,
                "loss": values["loss"],
                "grad_norm": values.get("grad_norm"),
                "threshold": limit,
                "largest": self._largest(values),
            }
        self._recent.append(values)
        if math.isfinite(values["loss"]):
            self._losses.append(values["loss"])
        return entry

    def _largest(self, values: Mapping[str, float]) -> list[dict[str, Any]]:
        """The metrics that are furthest from their medians, in their own standard deviations."""
        found = []
        for name, value in values.items():
            before = [row[name] for row in self._recent if math.isfinite(row.get(name, math.nan))]
            if name == "loss" or len(before) < 2:
                continue
            middle, width = _spread(before)
            away = abs(value - middle) / width if width else math.inf if value != middle else 0.0
            found.append({"name": name, "value": value, "median": middle, "deviations": away})
        # What is not a number is furthest of all.
        found.sort(key=lambda m: -m["deviations"] if math.isfinite(m["value"]) else -math.inf)
        return found[:_SHOWN]


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float | str) else math.nan
