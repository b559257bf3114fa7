"""Runs a stage's evaluators and files what they say."""

import dataclasses
from typing import Any

import jax

from jaxpref.algorithms import Algorithm
from jaxpref.evals.base import Context, TextSample
from jaxpref.experiment import Stage
from jaxpref.training import sharding
from jaxpref.training.setting import Setting

__all__ = ["evaluate_stage"]


def evaluate_stage(setting: Setting, stage: Stage, step: int, algorithm: Algorithm, state: Any) -> None:
    """Evaluations and samples at `step`. A baseline is what the same evaluator wrote last before."""
    files, mesh = setting.files, setting.mesh
    earlier = files.read("samples.jsonl")
    rewards = jax.jit(algorithm.rewards)

    def baseline(name: str) -> list[TextSample]:
        rows = [row for row in earlier if row["evaluator"] == name]
        if not rows:
            return []
        last = (rows[-1]["stage"], rows[-1]["step"])
        fields = ("id", "prompt", "response", "score", "note")
        return [
            TextSample(**{f: row[f] for f in fields}) for row in rows if (row["stage"], row["step"]) == last
        ]

    context = Context(
        policy=setting.policy,
        params=state.params,
        tokenizer=setting.tokenizer,
        seed=setting.experiment.seed,
        rewards=lambda batch: rewards(state, batch),
        put=lambda batch: sharding.put_whole(batch, mesh),
        fetch=sharding.fetch,
        rows_multiple=sharding.batch_shards(mesh),
        baseline=baseline,
    )
    for evaluator in stage.evaluators:
        evaluation = evaluator(context)
        at = {"stage": stage.name, "step": step, "evaluator": evaluation.name}
        metrics = {name: dataclasses.asdict(e) for name, e in evaluation.metrics.items()}
        files.append("evaluations.jsonl", [at | {"metrics": metrics}])
        files.append("samples.jsonl", [at | dataclasses.asdict(s) for s in evaluation.samples])
        files.points(stage.name, "evaluations", step, {n: e.mean for n, e in evaluation.metrics.items()})
        shown = "  ".join(
            f"{n} {e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" for n, e in evaluation.metrics.items()
        )
        files.log(f"{stage.name}  {step}/{stage.num_steps} {evaluation.name}: {shown}")
