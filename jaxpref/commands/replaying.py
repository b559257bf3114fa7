"""The command that does a step again."""

import math
from typing import Any

import numpy as np

from jaxpref.commands.opening import Options, load, ready, say_changes
from jaxpref.experiment import Stage
from jaxpref.training import distributed
from jaxpref.training.context import RunContext
from jaxpref.training.params import has_checkpoints
from jaxpref.training.replay import Replayed
from jaxpref.training.replay import replay as replay_step
from jaxpref.training.run import open_run
from jaxpref.types import Completions

__all__ = ["replay", "summary"]

_LONGEST = 300  # characters of a text


def replay(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, own = load(options)
    experiment = ready(experiment, own, options)
    run = open_run(experiment, workdir)
    say_changes(run)
    done = replay_step(run, _stage(run, options.stage), options.step)
    for line in summary(done):
        run.files.log(line)
    for line in _table(done, run.tokenizer, options.rows):
        run.files.log(line)
    return 0


def _stage(run: RunContext, name: str | None) -> Stage:
    stages = {stage.name: stage for stage in run.experiment.stages}
    if name is None:
        begun = [stage for stage in stages.values() if has_checkpoints(run, stage.name)]
        return begun[-1] if begun else next(iter(stages.values()))
    if name not in stages:
        raise ValueError(f"unknown stage {name!r}; this experiment has {', '.join(stages)}")
    return stages[name]


def summary(done: Replayed) -> list[str]:
    """What the step gave, and whether it is what the run has of it."""
    where = f"from the checkpoint of step {done.began}" if done.began else "from the beginning of the stage"
    shown = ("loss", "grad_norm")
    values = "  ".join(f"{name} {done.metrics[name]!r}" for name in shown if name in done.metrics)
    line = f"{done.stage} step {done.step}, done again {where}: {values}"
    if not done.recorded:
        return [line, "metrics.jsonl has no line of this step to compare with"]
    if not done.differing:
        return [line, f"bit-equal to the run: all {len(done.recorded)} metrics of the line in metrics.jsonl"]
    differences = [
        f"{name} was {done.recorded[name]!r}, is {done.metrics[name]!r}" for name in done.differing
    ]
    return [
        line,
        f"not the step of the run: {'; '.join(differences[:5])}; other devices, versions, data or code give "
        "other roundings or another step",
    ]


def _table(done: Replayed, tokenizer: Any, count: int) -> list[str]:
    """The rows with the largest losses, not finite ones first, with texts where there are some."""
    losses = [row["loss"] for row in done.rows]
    order = sorted(range(len(losses)), key=lambda i: -losses[i] if math.isfinite(losses[i]) else -math.inf)
    ids = np.asarray(done.batch.columns["example_ids"])
    lines = [f"losses of its {len(losses)} rows, each by itself before the update, the largest first:"]
    for row in order[:count]:
        more = "  ".join(f"{k} {v:.4g}" for k, v in done.rows[row].items() if k not in ("loss", "num_tokens"))
        lines.append(f"  example {int(ids[row])}: loss {losses[row]:.6g}  {more}".rstrip())
        lines += [f"    {line}" for line in _texts(done.batch, row, tokenizer)]
    rest = order[count:]
    if rest:
        lines.append("  " + "  ".join(f"{int(ids[row])}: {losses[row]:.4g}" for row in rest))
    return lines


def _texts(batch: Any, row: int, tokenizer: Any) -> list[str]:
    if tokenizer is None or not isinstance(batch, Completions):
        return []
    parts = [("prompt", batch.prompt_tokens[row][batch.prompt_mask[row]])]
    for index, response in enumerate(batch.response_tokens[row]):
        parts.append((f"response {index}", response[batch.response_mask[row, index]]))
    return [f"{name}: {_short(tokenizer.decode(ids.tolist()))}" for name, ids in parts]


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}... ({len(text)} characters)"
