"""`profile=FIRST:COUNT`: a trace of some steps, by jax's profiler, on every process."""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxpref.experiment import Experiment
from jaxpref.paths import AnyPath, write_whole

__all__ = ["Profiler", "Window", "check_window", "window_of"]


class Window(NamedTuple):
    """Steps `first` to `first + count - 1`, as metrics.jsonl counts them, of one stage or (None) of each."""

    stage: str | None
    first: int
    count: int


def window_of(text: str) -> Window:
    """What `profile=` says.

    Raises:
      ValueError: it is not FIRST:COUNT or STAGE:FIRST:COUNT.

    Example:
      >>> window_of("dpo:100:3")
      Window(stage='dpo', first=100, count=3)
    """
    found = re.fullmatch(r"(?:(\w[\w.+-]*):)?(\d+):(\d+)", text)
    if found is None or int(found[3]) < 1:
        raise ValueError(
            f"profile={text}: expected FIRST:COUNT or STAGE:FIRST:COUNT, such as profile=100:3 for steps "
            "100, 101 and 102 of each stage (the first step is 0, and COUNT is 1 or more)"
        )
    return Window(found[1], int(found[2]), int(found[3]))


def check_window(window: Window, experiment: Experiment) -> None:
    """Raises ValueError where no stage has these steps."""
    lengths = {stage.name: stage.num_steps for stage in experiment.stages}
    if window.stage is not None and window.stage not in lengths:
        raise ValueError(f"profile=: there is no stage {window.stage!r}; there are {', '.join(lengths)}")
    stages = [window.stage] if window.stage is not None else list(lengths)
    end = window.first + window.count
    if all(end > lengths[stage] for stage in stages):
        steps = ", ".join(f"{stage} has {lengths[stage]}" for stage in stages)
        raise ValueError(
            f"profile=: steps {window.first} to {end - 1} are in no stage ({steps}; the first step is 0); "
            "choose others"
        )


class Profiler:
    """Traces the window of one stage. Without a window it does nothing.

    Args:
      directory: of the run. wait: returns once the device has done what it was given.
    """

    def __init__(
        self,
        window: Window | None,
        stage: str,
        *,
        start: int,
        num_steps: int,
        directory: AnyPath,
        wait: Callable[[], Any],
        log: Callable[[str], None],
    ) -> None:
        self._window, self._stage, self._directory = window, stage, directory
        self._wait, self._log = wait, log
        self._local: pathlib.Path | None = None  # where a trace is being written
        if window is None or window.stage not in (None, stage):
            self._window = None
        elif window.first < start or window.first + window.count > num_steps:
            self._log(
                f"{stage}: profile: no trace of steps {window.first} to {window.first + window.count - 1}: "
                f"this session does steps {start} to {num_steps - 1}"
            )
            self._window = None

    @contextlib.contextmanager
    def step(self, index: int) -> Iterator[None]:
        """What is done inside is of this step."""
        window = self._window
        if window is None or not window.first <= index < window.first + window.count:
            yield
            return
        if index == window.first:
            self._begin(window)
        with jax.profiler.StepTraceAnnotation(self._stage, step_num=index):
            yield
        if index == window.first + window.count - 1:
            self._end(window)

    def close(self) -> None:
        """Ends a trace that an interruption left open; what it has is kept."""
        if self._local is not None and self._window is not None:
            self._end(self._window)

    def _begin(self, window: Window) -> None:
        self._wait()  # for the steps before
        target = self._target(window)
        if isinstance(target, pathlib.Path):
            self._local = target
            self._local.mkdir(parents=True, exist_ok=True)
        else:
            self._local = pathlib.Path(tempfile.mkdtemp(prefix="jaxpref-profile-"))
        jax.profiler.start_trace(str(self._local))

    def _end(self, window: Window) -> None:
        assert self._local is not None
        self._wait()
        jax.profiler.stop_trace()
        local, target, self._local = self._local, self._target(window), None
        if local != target:
            for file in sorted(path for path in local.rglob("*") if path.is_file()):
                write_whole(target / file.relative_to(local).as_posix(), file.read_bytes())
        self._log(
            f"{self._stage}: profile of steps {window.first} to {window.first + window.count - 1} in "
            f"{target.parent}; open it with `tensorboard --logdir` (and the package xprof), or a "
            "*.trace.json.gz of it at ui.perfetto.dev"
        )

    def _target(self, window: Window) -> AnyPath:
        folder = self._directory / "profile" / f"{self._stage}-{window.first}"
        return folder / f"process-{jax.process_index()}"
