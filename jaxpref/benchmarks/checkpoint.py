"""What a checkpoint costs a run: steps with and without a save among them, through the run's own manager.

The state is as large as asked for, changes in every step and is donated, and the loop waits for a step's
result one step late, as that of a run does. Two kinds of step: where the host only waits, as beside an
accelerator, and where it computes, so that writing takes cores from it. Turns with a save alternate with
turns without one; a turn goes on until the save is on disk, so all that it costs is in it.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpref.algorithms.base import TrainState
from jaxpref.benchmarks.machine import facts
from jaxpref.training.checkpoint import Checkpoints

__all__ = ["measure", "table"]

_WIDTH = 512  # of the matmuls
_ARRAYS = 12  # of the state
IDLE, BUSY = "host waits for a device", "host computes"


def measure(
    *,
    megabytes: float = 500.0,
    step_seconds: float = 0.5,
    every: int = 500,
    steps: int = 20,
    rounds: int = 5,
    directory: str = "",
) -> dict[str, Any]:
    """Seconds that a save adds to `steps` steps, and those for which `save` itself does not return.

    Args:
      megabytes: of the state. step_seconds: of a step, about. every: steps from one save to the next, for the
        share that saves take. steps: of a turn, which is longer where a save takes longer. directory: where
        checkpoints go; "": where temporary files lie.
    """
    variants = {}
    with tempfile.TemporaryDirectory(dir=directory or None) as folder:
        for index, (name, step) in enumerate(_steps(step_seconds).items()):
            with Checkpoints(pathlib.Path(folder) / str(index), keep=1) as checkpoints:
                variants[name] = _measured(step, checkpoints, _state(megabytes), steps, rounds, every)
    return {
        "benchmark": "checkpoint",
        **facts(),
        "megabytes": megabytes,
        "every": every,
        "variants": variants,
    }


Step = Callable[[TrainState], tuple[TrainState, jax.Array]]


def _measured(
    step: Step, checkpoints: Checkpoints, state: TrainState, steps: int, rounds: int, every: int
) -> dict[str, Any]:
    added, plain, blocked = [], [], []
    for turn in range(rounds + 1):  # the first opens files and starts threads: left out
        without, state, _ = _turn(step, state, lambda state: None, lambda: None, steps)
        with_save, state, held = _turn(
            step, state, lambda state, turn=turn: checkpoints.save(turn, state, {}), checkpoints.wait, steps
        )
        if turn:
            plain.append(without / steps)
            added.append(with_save - without)
            blocked.append(held)
    cost, seconds = statistics.median(added), statistics.median(plain)
    return {
        "step_seconds": seconds,
        "save_seconds": cost,
        "save_seconds_all": added,
        "blocked_seconds": statistics.median(blocked),
        "blocked_seconds_all": blocked,
        "share": cost / (every * seconds),
    }


def _turn(
    step: Step, state: TrainState, save: Callable[[TrainState], None], wait: Callable[[], None], steps: int
) -> tuple[float, TrainState, float]:
    """Seconds of so many steps with a save after the first and the wait for it after the last, the state, and
    the seconds for which `save` did not return."""
    state, before = step(state)
    jax.block_until_ready(state)
    start, held = time.perf_counter(), 0.0
    for index in range(steps):
        state, result = step(state)
        jax.block_until_ready(before)
        before = result
        if index == 0:
            jax.block_until_ready(result)  # a run reads the step's metrics before it saves
            begun = time.perf_counter()
            save(state)
            held = time.perf_counter() - begun
    jax.block_until_ready(state)
    wait()
    return time.perf_counter() - start, state, held


def _state(megabytes: float) -> TrainState:
    rows = max(1, round(megabytes * 1e6 / 4 / _ARRAYS / 1024))
    arrays = {f"array_{i}": jnp.full((rows, 1024), 1.0 + i, jnp.float32) for i in range(_ARRAYS)}
    return TrainState(jnp.int32(0), arrays, ())


def _steps(seconds: float) -> dict[str, Step]:
    """Steps of about so many seconds, beside the update of the state."""
    idle = jax.jit(_updated, donate_argnums=0)

    def waiting(state: TrainState) -> tuple[TrainState, jax.Array]:
        state, result = idle(state)
        time.sleep(seconds)
        return state, result

    x = jnp.full((_WIDTH, _WIDTH), 1 / _WIDTH)
    multiplied = jax.jit(lambda count: jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)[0, 0])
    multiplied(10).block_until_ready()
    start = time.perf_counter()
    multiplied(100).block_until_ready()
    count = max(1, round(100 * seconds / (time.perf_counter() - start)))

    def computing(state: TrainState) -> tuple[TrainState, jax.Array]:
        state, result = idle(state)
        return state, result + multiplied(count)

    return {IDLE: waiting, BUSY: computing}


def _updated(state: TrainState) -> tuple[TrainState, jax.Array]:
    params = jax.tree.map(lambda x: x * 0.999, state.params)
    new = TrainState(state.step + 1, params, state.opt_state)
    return new, params["array_0"][0, 0]


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"A state of {figures['megabytes']:g} MB, saved every {figures['every']} steps, on "
        f"{figures['device']}, {figures['cores']} cores, load {figures['load_average']:.1f}",
        f"{'':24s} {'step s':>7s} {'save blocks s':>14s} {'save costs s':>13s} {'of step time':>13s} "
        f"{'2 % where one each':>19s}",
    ]
    lines += [
        f"{name:24s} {v['step_seconds']:7.3f} {v['blocked_seconds']:14.3f} {v['save_seconds']:13.3f} "
        f"{v['share']:13.2%} {v['save_seconds'] / 0.02:17.0f} s"
        for name, v in figures["variants"].items()
    ]
    lines.append(
        "Medians over the rounds. Costs: what a save adds to the time of the steps beside it until it is on "
        "disk, what it blocks included; less than nothing where other work does more to the times."
    )
    return "\n".join(lines)
