"""Plays a tournament between finished runs."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import jax

from jaxpref.evals.intervals import recorded
from jaxpref.evals.sampling import prompts_of
from jaxpref.evals.tournament import WinRates, answers, judged, win_rates
from jaxpref.experiment import Experiment, Tournament
from jaxpref.paths import AnyPath, write_whole
from jaxpref.training.context import RunContext
from jaxpref.training.evaluation import context_of
from jaxpref.training.params import stage_checkpoints, trained_params
from jaxpref.training.run import open_run

__all__ = ["play", "write_tournament"]


def play(
    tournament: Tournament,
    runs: Sequence[tuple[str, Experiment, AnyPath]],
    *,
    log: Callable[[str], None] = print,
) -> WinRates:
    """Win rates between the runs (name, experiment, directory), and the policy that the first one's last
    stage started from (or `Tournament.base`). Params are on the devices one policy at a time.

    Raises:
      ValueError: a run is missing or not finished, or the base is no stage of the first run.
    """
    for name, _, directory in runs:
        if not (directory / "experiment.json").is_file():
            raise ValueError(f"tournament: no run {name} in {directory}; `jaxpref sweep` trains it")
    opened = [open_run(experiment, directory, log=log) for _, experiment, directory in runs]
    try:
        for run in opened:
            _check_finished(run)
        return _play(tournament, [name for name, _, _ in runs], opened, log)
    finally:
        for run in opened:
            run.files.close()


def _play(
    tournament: Tournament, names: Sequence[str], opened: Sequence[RunContext], log: Callable[[str], None]
) -> WinRates:
    table = prompts_of(tournament.records, tournament.num_prompts)
    base = tournament.base or "initial"
    players = []
    for stream, run in enumerate(opened, start=1):
        stage = run.experiment.stages[-1]
        params = trained_params(run, stage=stage.name)
        context = context_of(run, params, stage=stage, step=stage.num_steps)
        players.append(answers(context, tournament, table, stream=stream))
        log(f"tournament: {names[stream - 1]} answered {len(table)} prompts")
    first = context_of(opened[0], None, stage=opened[0].experiment.stages[-1])
    start = first.member(base)
    players.insert(0, answers(dataclasses.replace(first, params=start), tournament, table, stream=0))
    policies = {"initial": start}
    if tournament.judge_params is not None:
        policies["judge"] = tournament.judge_params()
    return win_rates([base, *names], judged(first, tournament, players, policies), table.group)


def _check_finished(run: RunContext) -> None:
    stage = run.experiment.stages[-1]
    with stage_checkpoints(run, stage.name) as checkpoints:
        latest = checkpoints.latest or 0
    if latest < stage.num_steps:
        raise ValueError(
            f"tournament: {run.files.directory} is at step {latest} of {stage.num_steps} of stage "
            f"{stage.name}; finish it with the same `jaxpref sweep` command"
        )


def write_tournament(win_rates: WinRates, directories: Sequence[AnyPath], root: AnyPath) -> None:
    """`root/tournament.json`, for the report: names, folders of the runs (none for the base), estimates."""
    if jax.process_index() == 0:
        content = {
            "names": win_rates.names,
            "matrix": [[recorded(e) for e in row] for row in win_rates.matrix],
            "overall": [recorded(e) for e in win_rates.overall],
            "differences": [[recorded(e) for e in row] for row in win_rates.differences],
            "runs": [None, *(d.name for d in directories)],
        }
        write_whole(root / "tournament.json", json.dumps(content, indent=1) + "\n")
