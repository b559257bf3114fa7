"""Plays a tournament between finished runs."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import jax

from jaxpref.evals.sampling import prompts_of
from jaxpref.evals.tournament import WinRates, answers, judged, win_rates
from jaxpref.experiment import Experiment, Tournament
from jaxpref.paths import AnyPath, write_whole
from jaxpref.training.evaluation import context_of
from jaxpref.training.params import stage_checkpoints, trained_params
from jaxpref.training.run import setting_of
from jaxpref.training.setting import Setting

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
    settings = [setting_of(experiment, directory, log=log) for _, experiment, directory in runs]
    try:
        for setting in settings:
            _check_finished(setting)
        return _play(tournament, [name for name, _, _ in runs], settings, log)
    finally:
        for setting in settings:
            setting.files.close()


def _play(
    tournament: Tournament, names: Sequence[str], settings: Sequence[Setting], log: Callable[[str], None]
) -> WinRates:
    table = prompts_of(tournament.records, tournament.num_prompts)
    base = tournament.base or "initial"
    players = []
    for stream, setting in enumerate(settings, start=1):
        stage = setting.experiment.stages[-1]
        params = trained_params(setting, stage=stage.name)
        context = context_of(setting, params, stage=stage, step=stage.num_steps)
        players.append(answers(context, tournament, table, stream=stream))
        log(f"tournament: {names[stream - 1]} answered {len(table)} prompts")
    first = context_of(settings[0], None, stage=settings[0].experiment.stages[-1])
    start = first.member(base)
    players.insert(0, answers(dataclasses.replace(first, params=start), tournament, table, stream=0))
    bank = {"initial": start}
    if tournament.judge_params is not None:
        bank["judge"] = tournament.judge_params()
    return win_rates([base, *names], judged(first, tournament, players, bank))


def _check_finished(setting: Setting) -> None:
    stage = setting.experiment.stages[-1]
    with stage_checkpoints(setting, stage.name) as checkpoints:
        latest = checkpoints.latest or 0
    if latest < stage.num_steps:
        raise ValueError(
            f"tournament: {setting.files.directory} is at step {latest} of {stage.num_steps} of stage "
            f"{stage.name}; finish it with the same `jaxpref sweep` command"
        )


def write_tournament(found: WinRates, directories: Sequence[AnyPath], root: AnyPath) -> None:
    """`root/tournament.json`, for the report: names, folders of the runs (none for the base), estimates."""
    if jax.process_index() == 0:
        content = dataclasses.asdict(found) | {"runs": [None, *(d.name for d in directories)]}
        write_whole(root / "tournament.json", json.dumps(content, indent=1) + "\n")
