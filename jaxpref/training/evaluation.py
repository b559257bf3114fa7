"""Evaluates a state: one pass over held-out records, and the evaluators of a stage."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxpref.algorithms import Algorithm
from jaxpref.data.loader import Loader
from jaxpref.evals.base import Context, Evaluation, TextSample
from jaxpref.experiment import Stage
from jaxpref.metrics import Metrics, merge, to_floats
from jaxpref.training import sharding
from jaxpref.training.setting import Setting

__all__ = ["evaluate_stage", "evaluations", "held_out_loader", "held_out_pass", "summary"]


def held_out_loader(setting: Setting, stage: Stage) -> Loader | None:
    """Batches of the stage's held-out records, this process's rows; None where it has none."""
    if stage.evaluation is None:
        return None
    records = stage.evaluation()
    records.check_vocab(setting.policy.vocab_size)
    return Loader(
        records,
        batch_size=stage.batch_size,
        seed=0,
        shuffle=False,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def held_out_pass(
    evaluate: Callable[[Any, Any, int], Metrics], state: Any, loader: Loader, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """The algorithm's metrics over all held-out records."""
    total = None
    for index, batch in enumerate(loader.evaluation_batches()):
        metrics = evaluate(state, sharding.put_batch(batch, mesh), index)
        total = metrics if total is None else merge(total, metrics)
    return to_floats(jax.device_get(total)) if total else {}


def evaluations(
    setting: Setting, stage: Stage, step: int, algorithm: Algorithm, state: Any
) -> list[Evaluation]:
    """Runs the stage's evaluators. The baseline of one is what it sampled last before this step."""
    mesh = setting.mesh
    earlier = [
        row for row in setting.files.read("samples.jsonl") if row["stage"] != stage.name or row["step"] < step
    ]
    rewards = sharding.OnMesh(jax.jit(algorithm.rewards), mesh)

    def baseline(name: str) -> list[TextSample]:
        rows = [row for row in earlier if row["evaluator"] == name]
        fields = [field.name for field in dataclasses.fields(TextSample)]
        last = [row for row in rows if (row["stage"], row["step"]) == (rows[-1]["stage"], rows[-1]["step"])]
        return [TextSample(**{field: row[field] for field in fields}) for row in last]

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
    return [evaluator(context) for evaluator in stage.evaluators]


def evaluate_stage(setting: Setting, stage: Stage, step: int, algorithm: Algorithm, state: Any) -> None:
    """Runs the evaluators and files what they say."""
    files = setting.files
    for evaluation in evaluations(setting, stage, step, algorithm, state):
        at = {"stage": stage.name, "step": step, "evaluator": evaluation.name}
        metrics = {name: dataclasses.asdict(e) for name, e in evaluation.metrics.items()}
        files.append("evaluations.jsonl", [at | {"metrics": metrics}])
        files.append("samples.jsonl", [at | dataclasses.asdict(s) for s in evaluation.samples])
        files.points(stage.name, "evaluations", step, {n: e.mean for n, e in evaluation.metrics.items()})
        files.log(f"{stage.name}  {step}/{stage.num_steps} {summary(evaluation)}")


def summary(evaluation: Evaluation) -> str:
    """`checker: accuracy 0.612 [0.543, 0.677]`: means with their 95 % intervals."""
    shown = "  ".join(f"{n} {e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" for n, e in evaluation.metrics.items())
    return f"{evaluation.name}: {shown}"
