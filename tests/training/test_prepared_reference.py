"""Log-probs of a reference are those of the params that a stage starts from, or they are refused."""

import dataclasses
import json
import math
from functools import partial

import launch
import numpy as np
import pytest
import tiny

from jaxpref.config import override
from jaxpref.data import add_column, load_records
from jaxpref.data.references import given_reference, reference_of
from jaxpref.data.text.synthetic import arithmetic_pairs
from jaxpref.training.prepared import prepare_experiment, with_prepared
from jaxpref.training.run import train

QUIET = {"log": lambda text: None}


def two_stages():
    return tiny.experiment(steps=2, evaluators=False)


def dpo_alone():
    given = two_stages()
    return dataclasses.replace(given, stages=given.stages[1:])


def reading(experiment, records):
    """The experiment on its prepared records, with the column as the reference of `dpo`."""
    return override(with_prepared(experiment, records), {"stages.dpo.algorithm.reference": "batch"})


def first_losses(workdir):
    """What the first batch and the first held-out pass lose, by split."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["split"]: row["loss"] for row in rows if (row["stage"], row["step"]) == ("dpo", 0)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of both stages, and records with the references of each."""
    root = tmp_path_factory.mktemp("made")
    with launch.devices(1):
        train(two_stages(), root / "run", **QUIET)
        prepare_experiment(two_stages(), root / "records", reference_workdir=root / "run", **QUIET)
    return root


def test_the_first_loss_is_log_two_beside_the_params_it_was_made_of(made, one_device, tmp_path):
    train(reading(two_stages(), made / "records"), tmp_path, **QUIET)
    losses = first_losses(tmp_path)
    assert losses.keys() == {"train", "eval"}
    assert all(loss == pytest.approx(math.log(2), abs=1e-5) for loss in losses.values())


def test_another_seed_is_refused_before_the_first_stage_trains(made, one_device, tmp_path):
    """It used to begin at .707 without a word."""
    other = dataclasses.replace(reading(two_stages(), made / "records"), seed=1)
    with pytest.raises(ValueError, match=r"dpo: the reference_logps .* a run of another seed.*--reference"):
        train(other, tmp_path, **QUIET)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_other_params_of_the_stage_before_are_refused_when_it_has_ended(made, one_device, tmp_path):
    given = override(reading(two_stages(), made / "records"), {"stages.sft.num_steps": "1"})
    with pytest.raises(
        ValueError, match=r"dpo: the reference_logps of its records \(train\) are of other params"
    ):
        train(given, tmp_path, **QUIET)
    assert '"dpo"' not in (tmp_path / "metrics.jsonl").read_text()


def test_initial_weights_of_another_seed_are_refused_before_anything_trains(one_device, tmp_path):
    train(dpo_alone(), tmp_path / "run", **QUIET)
    prepare_experiment(dpo_alone(), tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    right = reading(dpo_alone(), tmp_path / "records")
    with pytest.raises(ValueError, match="are of other params, not of what this stage starts from"):
        train(dataclasses.replace(right, seed=1), tmp_path / "wrong", **QUIET)
    assert not (tmp_path / "wrong" / "metrics.jsonl").exists()
    train(right, tmp_path / "right", **QUIET)
    assert first_losses(tmp_path / "right")["train"] == pytest.approx(math.log(2), abs=1e-5)


def test_another_policy_of_the_same_shapes_is_refused(made, one_device, tmp_path):
    given = override(
        reading(two_stages(), made / "records"), {"policy.sizes.heads": "1", "policy.sizes.kv_heads": "1"}
    )
    with pytest.raises(ValueError, match="are of another policy"):
        train(given, tmp_path, **QUIET)


def test_stages_that_share_data_have_references_of_their_own(one_device, tmp_path):
    """The second one used to get the column of the first."""
    stage = dpo_alone().stages[0]
    given = dataclasses.replace(
        dpo_alone(), stages=(dataclasses.replace(stage, name="first"), dataclasses.replace(stage, name="dpo"))
    )
    train(given, tmp_path / "run", **QUIET)
    prepare_experiment(given, tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    train(reading(given, tmp_path / "records"), tmp_path / "again", **QUIET)
    losses = first_losses(tmp_path / "again")
    assert all(loss == pytest.approx(math.log(2), abs=1e-5) for loss in losses.values())
    folder = with_prepared(given, tmp_path / "records").stages[1].train.keywords["directory"]
    columns = load_records(folder).columns
    assert not np.allclose(columns["reference_logps.first"], columns["reference_logps.dpo"], atol=1e-3)


def test_a_column_that_says_nothing_of_its_params_is_refused_and_so_is_none(one_device, tmp_path):
    prepare_experiment(dpo_alone(), tmp_path / "records", **QUIET)
    given = reading(dpo_alone(), tmp_path / "records")
    with pytest.raises(ValueError, match=r"dpo: its records \(train\) have no column reference_logps"):
        train(given, tmp_path / "run", **QUIET)
    for source in (given.stages[0].train, given.stages[0].evaluation):
        folder = source.keywords["directory"]
        add_column(folder, "reference_logps", np.zeros((len(load_records(folder)), 2), np.float32))
    with pytest.raises(ValueError, match="do not say which params they are of"):
        train(given, tmp_path / "run", **QUIET)


def test_rows_that_changed_below_the_column_are_refused(made, tmp_path):
    folder = with_prepared(two_stages(), made / "records").stages[1].train.keywords["directory"]
    records = load_records(folder)
    assert "reference_logps" in reference_of(records, "dpo").columns
    assert set(reference_of(records, None).columns) == set(reference_of(records, "sft").columns) - {
        "reference_logps"
    }
    other = dataclasses.replace(
        records, prompt_tokens=np.where(records.prompt_tokens == 5, 6, records.prompt_tokens)
    )
    with pytest.raises(ValueError, match="reference_logps of stage dpo were made for other rows"):
        reference_of(other, "dpo")


def pairs_of_a_larger_model(*, num_examples: int, part: str = "train"):
    records = arithmetic_pairs(num_examples=num_examples, part=part)
    return given_reference(records, np.full((len(records), 2), -3.0, np.float32), of="a larger model")


def test_a_reference_that_is_another_model_is_said_to_be(one_device, tmp_path):
    given = override(dpo_alone(), {"stages.dpo.algorithm.reference": "batch"})
    stage = dataclasses.replace(
        given.stages[0],
        train=partial(pairs_of_a_larger_model, num_examples=64),
        evaluation=partial(pairs_of_a_larger_model, num_examples=16, part="held_out"),
    )
    said = []
    train(dataclasses.replace(given, stages=(stage,)), tmp_path, log=said.append)
    assert "dpo: reference_logps (train) are of a larger model, as given" in said
