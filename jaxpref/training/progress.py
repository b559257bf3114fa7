"""Step metrics on their way from the device to files and stdout, with throughput, where the time went, memory
and time left."""

import dataclasses
import math
import time

import jax

from jaxpref.metrics import Metrics, to_floats
from jaxpref.training import memory
from jaxpref.training.clock import Clock, Lap
from jaxpref.training.files import RunFiles
from jaxpref.training.spikes import SpikeWatch

__all__ = ["NonFiniteError", "StepLog"]

SHOWN = (
    "loss",
    "objective/scores",
    "objective/win_rate",
    "objective/kl",
    "rewards/accuracies",
    "rewards/margins",
    "grad_norm",
)


class NonFiniteError(Exception):
    """A loss or gradient was not finite at `step`."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclasses.dataclass
class StepLog:
    """Metrics of a stage's steps.

    A step's metrics are read one step late, so that the device never waits for the host. Writers that want
    every step get it; every `log_every` steps the others get means, and stdout a line. A line says where the
    time since the one before went; the split "resources" has the seconds by kind (`clock`) and the memory of
    the same intervals, each with what was done after its last step (evaluation, checkpoint): `settle`.
    """

    files: RunFiles
    stage: str
    first: int
    num_steps: int
    log_every: int
    peak: float  # FLOP/s of all devices
    peak_source: str = "data sheet"  # see `training.peak`
    clock: Clock = dataclasses.field(default_factory=Clock)
    watch: SpikeWatch | None = None
    _pending: tuple[int, Metrics, float] | None = None
    _recent: list[dict[str, float]] = dataclasses.field(default_factory=list)
    _flops: float = 0.0
    _seconds: float = 0.0  # of training since the last line on stdout
    _total: float = 0.0  # of training since the start; evaluation and checkpoints do not count
    _last: float = dataclasses.field(default_factory=time.monotonic)
    _told: bool = False  # that a utilisation could not be
    _owed: int | None = None  # steps done at the line whose resources are not written yet

    def __post_init__(self) -> None:
        self._line_lap, self._row_lap = Lap(self.clock), Lap(self.clock)

    def push(self, step: int, metrics: Metrics, flops: float) -> None:
        """Takes the metrics of the step just dispatched, and writes those of the step before."""
        self.flush()
        self._pending = (step, metrics, flops)

    def flush(self) -> None:
        """Writes the metrics of the step in flight, waiting for it.

        Raises:
          NonFiniteError: its loss or gradient norm is not finite and the step did not skip such updates.
        """
        if self._pending is None:
            return
        (step, metrics, flops), self._pending = self._pending, None
        with self.clock.spent("step"):
            values = to_floats(jax.device_get(metrics))
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        self._seconds += elapsed
        self._total += elapsed
        self._flops += flops
        self._recent.append(values)
        finite = math.isfinite(values["loss"]) and math.isfinite(values.get("grad_norm", 0.0))
        if (step + 1) % self.log_every == 0 or step + 1 == self.num_steps or not finite:
            means, rates = self._line(step)
            self.files.write(self.stage, "train", step, values | rates, means | rates)
        else:
            self.files.write(self.stage, "train", step, values, {})
        if self.watch is not None:
            self.watch.seen(step, values)
        if not finite:
            summary = f"loss {values['loss']}, grad_norm {values.get('grad_norm')} at step {step}"
            if "skipped" not in values:
                raise NonFiniteError(f"{self.stage}: {summary}", step)
            self.files.log(f"{self.stage}: {summary}: update skipped")

    def settle(self, done: int | None = None) -> None:
        """Writes the resources of an interval that has been logged; with `done`, of all so far, after so many
        steps."""
        self._owed = self._owed if done is None else done
        if self._owed is None:
            return
        seconds = {f"seconds/{kind}": x for kind, x in self._row_lap.taken().items()}
        self.files.write(self.stage, "resources", self._owed, seconds | memory.in_use())
        self._owed = None

    def resume_clock(self) -> None:
        """Restarts the clock; call it when training goes on after something else took time."""
        self._last = time.monotonic()

    def _line(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Reports the interval that ends with `step`; returns the means over it, and its throughput."""
        means = {k: math.fsum(r[k] for r in self._recent) / len(self._recent) for k in self._recent[0]}
        rates = {"tokens_per_second": means["num_tokens"] * len(self._recent) / self._seconds}
        if self._flops:  # a policy that counts none (a table) has no utilisation, and 0 would read as idle
            rates |= self._utilisation(self._flops / self._seconds / self.peak)
        left = self._total / (step + 1 - self.first) * (self.num_steps - step - 1)
        guess = "measured" in self.peak_source
        used = (_shares(self._line_lap.taken()), memory.shown(memory.in_use()))
        line = _text(self.stage, step + 1, self.num_steps, means | rates, left, guess=guess)
        self.files.log("  ".join(filter(None, (line, *used))))
        self._owed = step + 1
        self._recent, self._flops, self._seconds = [], 0.0, 0.0
        return means, rates

    def _utilisation(self, share: float) -> dict[str, float]:
        """Nothing where it is more than all: then the peak is wrong, or the count of operations."""
        if share <= 1:
            return {"mfu": share}
        if not self._told:
            self.files.log(
                f"{self.stage}: no mfu: {share:.0%} of {self.peak / 1e12:.3g} TFLOP/s ({self.peak_source}) "
                "cannot be; that peak is too low for this machine"
            )
        self._told = True
        return {}


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds + 0.5), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _shares(seconds: dict[str, float]) -> str:
    """`time: step 93%, evaluation 5%`: kinds that took a hundredth or more, the longest first."""
    total = sum(seconds.values())
    kinds = sorted(seconds, key=lambda kind: -seconds[kind])
    shown = [f"{kind} {seconds[kind] / total:.0%}" for kind in kinds if seconds[kind] >= 0.01 * total > 0]
    return f"time: {', '.join(shown)}" if shown else ""


def _text(
    stage: str, done: int, num_steps: int, values: dict[str, float], seconds_left: float, *, guess: bool
) -> str:
    """`dpo  120/400 30%  loss 0.6123  ...  5.2k tok/s  mfu 31%  eta 0:42`; with a guessed peak `mfu ~31%`."""
    shown = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
    rate = values["tokens_per_second"]
    speed = f"{rate / 1000:.1f}k tok/s" if rate >= 1000 else f"{rate:.0f} tok/s"
    mfu = f"mfu {'~' * guess}{values['mfu']:.0%}  " if "mfu" in values else ""
    return (
        f"{stage}  {done:>{len(str(num_steps))}}/{num_steps} {done / num_steps:4.0%}  {shown}  {speed}  "
        f"{mfu}eta {_duration(seconds_left)}"
    )
