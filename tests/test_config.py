"""Overrides are checked, descriptions are complete."""

import json
from functools import partial

import pytest
from launch import TINY

from jaxpref import config
from jaxpref.experiment import smoke


def _described(*assignments: str):
    return config.leaves(config.describe(config.load(TINY, assignments)))


def test_knobs_and_dotted_paths():
    leaves = _described("steps=9", "stages.dpo.algorithm.loss.beta=0.25", "mesh.fsdp=2", "seed=3")
    assert leaves["stages.sft.num_steps"] == leaves["stages.dpo.num_steps"] == 9
    assert leaves["stages.dpo.algorithm.loss.beta"] == 0.25
    assert leaves["mesh.fsdp"] == 2
    assert leaves["seed"] == 3


def test_a_path_reaches_arguments_that_the_file_does_not_set():
    assert _described("stages.sft.algorithm.optimizer.b2=0.95")["stages.sft.algorithm.optimizer.b2"] == 0.95
    assert _described("stages.dpo.algorithm.loss.beta=inf")["stages.dpo.algorithm.loss.beta"] == float("inf")
    assert _described("policy.compute_dtype=bfloat16")["policy.compute_dtype"] == "bfloat16"
    assert _described("stages.dpo.algorithm.reference=none")["stages.dpo.algorithm.reference"] is None
    assert _described("stages.dpo.prompt_buckets=(8,16)")["stages.dpo.prompt_buckets"] == [8, 16]
    assert _described("best_metric=rewards/accuracies")["best_metric"] == "rewards/accuracies"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stepz=3", r"unknown override 'stepz'; knobs of .*steps.*fields: .*stages"),
        ("stages.dpo.algorithm.loss.bta=1", r"stages.dpo.algorithm.loss has beta"),
        ("stages.rlhf.num_steps=1", r"stages has sft, dpo"),
        ("steps=many", "steps: expected int, got 'many'"),
        ("steps=1.5", "steps: expected int"),
        ("evaluators=3", "evaluators: expected bool"),
        ("stages.dpo.algorithm.loss.beta=high", "expected float, got 'high'"),
        ("mesh.data=two", "mesh.data: expected int"),
        ("steps", "expected key=value"),
    ],
)
def test_a_wrong_override_is_told_what_is_right(assignment, message):
    with pytest.raises(ValueError, match=message):
        config.load(TINY, [assignment])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/file.py", "no experiment file"),
        (TINY + ":missing", r"no function 'missing'; it has .*experiment.*sweep"),
    ],
)
def test_a_wrong_file_is_told(path, message):
    with pytest.raises(ValueError, match=message):
        config.load(path)


def test_descriptions_are_complete_json():
    text = json.dumps(config.describe(config.load(TINY)))
    assert '"eps": 1e-08' in text, "defaults of the library are included"
    assert "jaxpref.losses.pairwise.dpo" in text
    with pytest.raises(ValueError, match="only module-level functions"):
        config.describe(partial(lambda x: x, x=1))
    with pytest.raises(ValueError, match="positional argument"):
        config.describe(partial(max, 1))


def test_sweeps_apply_overrides_to_every_member():
    members = config.load_sweep(TINY + ":sweep", ["seed=5"])
    assert [m.seed for m in members] == [5, 5]
    with pytest.raises(ValueError, match="return a list of Experiments"):
        config.load_sweep(TINY + ":experiment")


def test_smoke_cuts_cost_and_keeps_the_rest():
    small = smoke(config.load(TINY, ["steps=500"]))
    assert {s.num_steps for s in small.stages} == {3}
    assert small.policy.func is config.load(TINY).policy.func
