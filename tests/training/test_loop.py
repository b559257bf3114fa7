"""The loop in this process: exactness at step 0, meshes, recompiles, bad input, nothing lost."""

import dataclasses
import errno
import os
import shutil
from functools import partial

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from launch import devices, rows
from tiny import experiment, weights_of_another_vocabulary

from jaxpref.config import override
from jaxpref.data.text.synthetic import arithmetic_demonstrations
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.params import stage_checkpoints, trained_params
from jaxpref.training.progress import NonFiniteError
from jaxpref.training.run import open_run, train


def _quiet(text: str) -> None:
    pass


SETTINGS = experiment(steps=6, evaluators=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    with devices(1):
        return train(SETTINGS, tmp_path_factory.mktemp("whole"), log=_quiet)


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_step_zero_of_dpo_is_exactly_log_two(one_device, tmp_path):
    train(experiment(steps=2), tmp_path, log=_quiet)
    first = [r for r in rows(tmp_path) if r["stage"] == "dpo" and r["step"] == 0]
    assert {r["split"] for r in first} == {"train", "eval"}
    for row in first:
        assert np.float32(row["loss"]) == np.float32(np.log(2))
        assert row["rewards/chosen"] == row["rewards/rejected"] == row["rewards/margins"] == 0
        assert row["rewards/accuracies"] == 0.5
    evaluations = rows(tmp_path, "evaluations.jsonl")
    accuracy = next(e for e in evaluations if e["evaluator"] == "held-out pairs")
    assert accuracy["metrics"]["reward accuracy"]["mean"] == 0.5
    names = {(e["stage"], e["step"], e["evaluator"]) for e in evaluations}
    assert ("sft", 0, "generation") in names
    assert ("dpo", 2, "generation") in names
    last = [e for e in evaluations if e["evaluator"] == "generation"][-1]
    assert "win rate" in last["metrics"]


def test_eight_devices_agree_with_one(tmp_path):
    kept = {"evaluators": False, "steps": 5, "learning_rate": 1e-3, "checkpoint_every": 5}
    eight = train(experiment(**kept, data=2, fsdp=2, tensor=2), tmp_path / "eight", log=_quiet)
    specs = jax.tree.leaves(jax.tree.map(lambda x: x.sharding.spec, eight.params))
    assert any("tensor" in str(s) for s in specs)
    assert any("fsdp" in str(s) for s in specs)
    with devices(1):
        one = train(experiment(**kept), tmp_path / "one", log=_quiet)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, eight.params)
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "eight"), strict=True):
        names = [n for n in a if n not in ("stage", "split")]
        np.testing.assert_allclose([a[n] for n in names], [b[n] for n in names], rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_one_compile_for_each_bucket_that_occurs(one_device, tmp_path):
    result = train(
        experiment(steps=12, batch_size=2, buckets=True, evaluators=False, checkpoint_every=12),
        tmp_path,
        log=_quiet,
    )
    assert result.compiles["sft"] == 1
    assert result.compiles["dpo"] == 2, "responses fall into two buckets, and nothing compiles again"


@pytest.mark.exhaustive  # tests/algorithms/test_offline.py and test_supervised.py have the rule by itself
def test_microbatches_equal_the_full_batch_through_the_loop(one_device, tmp_path):
    whole = train(experiment(steps=3, evaluators=False), tmp_path / "whole", log=_quiet)
    edits = {"stages.dpo.algorithm.microbatches": "4", "stages.sft.algorithm.microbatches": "2"}
    parts = train(override(experiment(steps=3, evaluators=False), edits), tmp_path / "parts", log=_quiet)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), whole.params, parts.params)


def exploding(steps):
    """DPO alone, which turns NaN on the way."""
    settings = experiment(steps=steps, explode_at=0.5, evaluators=False, checkpoint_every=20)
    return dataclasses.replace(settings, stages=settings.stages[1:])


def test_non_finite_stops_with_the_step_and_keeps_the_last_finite_state(one_device, tmp_path):
    with pytest.raises(NonFiniteError, match=r"dpo: loss .*nan.* at step \d+") as caught:
        train(exploding(steps=60), tmp_path, log=_quiet)
    step = caught.value.step
    assert step > 0
    last = rows(tmp_path)[-1]
    assert last["step"] == step
    assert "nan" in (last["loss"], last["grad_norm"])
    finite = Checkpoints(tmp_path / "checkpoints" / "dpo")
    with finite:
        assert finite.latest == step
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(tmp_path / "checkpoints" / "dpo" / str(step) / "state")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state["params"]))


def test_non_finite_updates_can_be_skipped(one_device, tmp_path):
    settings = dataclasses.replace(exploding(steps=30), non_finite="skip")
    result = train(settings, tmp_path, log=_quiet)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(result.params)))
    assert sum(r.get("skipped", 0) for r in rows(tmp_path)) > 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"data": 3}, "does not fit 8 devices"),
        ({"data": 4, "fsdp": 2, "batch_size": 12}, "batch_size=12 does not divide"),
        ({"data": 8, "microbatches": 2}, r"dpo: batch_size=8 .* 8 devices in 2 parts .* a multiple of 16"),
        ({"vocab": 10, "data": 8}, "vocabulary mismatch: the tokenizer has 19 ids"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(knobs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(experiment(steps=2, evaluators=False, **knobs), tmp_path, log=_quiet)


def test_weights_of_another_vocabulary_are_refused(one_device, tmp_path):
    settings = dataclasses.replace(
        experiment(steps=2, evaluators=False), weights=weights_of_another_vocabulary
    )
    with pytest.raises(ValueError, match=r"weights do not fit the model: .*embedding.* is \(36, 16\)"):
        train(settings, tmp_path, log=_quiet)


def test_another_configuration_in_the_same_workdir_is_refused(whole, one_device, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"another configuration .*learning_rate|another configuration .*value"
    ):
        train(experiment(steps=6, evaluators=False, learning_rate=0.5), tmp_path / "run", log=_quiet)


def test_truncated_checkpoint_is_one_clear_error_and_the_one_before_still_resumes(
    whole, one_device, tmp_path
):
    shutil.copytree(whole.directory, tmp_path / "cut")
    last = tmp_path / "cut" / "checkpoints" / "dpo" / "6"
    for file in (last / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 64:
            os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"checkpoint .*dpo/6 cannot be read .*delete that folder"):
        train(SETTINGS, tmp_path / "cut", log=_quiet)
    shutil.rmtree(last)
    again = train(SETTINGS, tmp_path / "cut", log=_quiet)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole.params), jax.device_get(again.params))


def test_full_disk_while_saving_is_one_clear_error_and_loses_nothing(
    whole, one_device, tmp_path, monkeypatch
):
    save = Checkpoints.__init__.__globals__["ocp"].CheckpointManager.save

    def full(self, step, *args, **kwargs):
        if step >= 4 and "dpo" in str(self.directory):
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", full)
        with pytest.raises(ValueError, match=r"No space left on device.*resumes from step 2"):
            train(SETTINGS, tmp_path / "full", log=_quiet)
    resumed = train(SETTINGS, tmp_path / "full", log=_quiet)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole.params), jax.device_get(resumed.params))


def test_resume_with_other_data_is_refused(whole, one_device, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "dpo" / "6")
    changed = override(SETTINGS, {"stages.dpo.train.num_examples": "65"})
    with pytest.raises(ValueError, match=r"written with other data .*rows"):
        train(changed, tmp_path / "run", allow_changes=True, log=_quiet)


def test_best_checkpoint_by_metric_is_kept(one_device, tmp_path):
    """By a metric that falls, so that its highest value is not that of the last step, kept in any case."""
    settings = dataclasses.replace(experiment(steps=8, evaluators=False), best_metric="loss")
    settings = override(settings, {"keep_checkpoints": "1"})
    settings = dataclasses.replace(settings, stages=settings.stages[1:])
    train(settings, tmp_path, log=_quiet)
    evaluated = {r["step"]: r["loss"] for r in rows(tmp_path) if r["split"] == "eval"}
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints" / "dpo").iterdir() if p.name.isdigit())
    best = max((2, 4, 6, 8), key=lambda step: evaluated[step])
    assert best < 8
    assert saved == [best, 8]


def test_a_stage_without_the_best_metric_keeps_its_last_checkpoint(one_device, tmp_path):
    """Supervised fine-tuning has a held-out loss and no accuracy, and its best step is then its last."""
    settings = experiment(steps=4, evaluators=False)
    sft, dpo = settings.stages
    sft = dataclasses.replace(sft, evaluation=partial(arithmetic_demonstrations, num_examples=8))
    settings = dataclasses.replace(settings, stages=(sft, dpo), best_metric="rewards/accuracies")
    lines = []
    train(settings, tmp_path, log=lines.append)
    assert any("sft: no best_metric rewards/accuracies" in line for line in lines)
    run = open_run(settings, tmp_path, log=lines.append)
    for stage in ("sft", "dpo"):
        with stage_checkpoints(run, stage) as checkpoints:
            assert checkpoints.latest == 4
            best = checkpoints.best
        assert best is not None
        trained_params(run, stage=stage)
        assert f"params of stage {stage} at step {best}" in lines[-1]
    assert "sft at step 4" in next(line for line in lines if "params of stage sft" in line)


def test_a_best_metric_that_no_stage_has_is_refused_before_training(one_device, tmp_path):
    settings = dataclasses.replace(experiment(steps=4, evaluators=False), best_metric="accuracy")
    with pytest.raises(ValueError, match=r"accuracy: no stage reports it: sft has no.*dpo has.*loss"):
        train(settings, tmp_path / "run", log=_quiet)
    assert not (tmp_path / "run").exists()


def test_an_untrained_model_has_nothing_to_say(one_device, tmp_path):
    settings = experiment(steps=2, evaluators=False)
    with pytest.raises(ValueError, match=r"has no checkpoint.*train it first"):
        trained_params(open_run(settings, tmp_path, log=_quiet))
    # Weights from elsewhere have: they are used, which is said.
    lines = []
    weights = partial(_own_weights, settings.policy)
    pretrained = dataclasses.replace(settings, weights=weights)
    trained_params(open_run(pretrained, tmp_path, log=lines.append))
    assert "pretrained weights, untrained here" in lines[-1]
    assert not list(tmp_path.iterdir()), "a command that reads leaves nothing"


def _own_weights(policy):
    return jax.device_get(policy().init(jax.random.key(0)))
