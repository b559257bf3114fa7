"""Log-probs of a reference are those of the params that a stage starts from, or they are refused."""

import dataclasses
import json
import math
from functools import partial

import jax
import launch
import numpy as np
import pytest
import tiny

from jaxpref import losses
from jaxpref.config import describe, override
from jaxpref.data import add_column, concatenate, content, load_records, prepare
from jaxpref.data.references import given_reference, reference_of, with_reference
from jaxpref.data.text.synthetic import arithmetic_pairs
from jaxpref.experiment import smoke
from jaxpref.training.params import started_from
from jaxpref.training.prepared import prepare_experiment, with_prepared
from jaxpref.training.references import check_reference
from jaxpref.training.run import open_run, train

QUIET = {"log": lambda text: None}


READ = {"stages.dpo.algorithm.reference": "batch"}


def two_stages():
    return override(tiny.experiment(steps=2, evaluators=False), READ)


def dpo_alone():
    given = two_stages()
    return dataclasses.replace(given, stages=given.stages[1:])


def live(experiment):
    """The same with its own copy of the params as the reference."""
    return override(experiment, {"stages.dpo.algorithm.reference": "initial"})


def first_losses(workdir, stage="dpo"):
    """What the first batch and the first held-out pass lose, by split."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["split"]: row["loss"] for row in rows if (row["stage"], row["step"]) == (stage, 0)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of both stages, and records with the references of each."""
    root = tmp_path_factory.mktemp("made")
    with launch.devices(1):
        train(live(two_stages()), root / "run", **QUIET)
        prepare_experiment(two_stages(), root / "records", reference_workdir=root / "run", **QUIET)
    return root


def test_the_first_loss_is_log_two_beside_the_params_it_was_made_of(made, one_device, tmp_path):
    train(with_prepared(two_stages(), made / "records"), tmp_path, **QUIET)
    begun = first_losses(tmp_path)
    assert begun.keys() == {"train", "eval"}
    assert all(loss == pytest.approx(math.log(2), abs=1e-5) for loss in begun.values())


def test_another_seed_is_refused_before_the_first_stage_trains(made, one_device, tmp_path):
    """It used to begin at .707 without a word."""
    other = dataclasses.replace(with_prepared(two_stages(), made / "records"), seed=1)
    with pytest.raises(ValueError, match=r"dpo: the reference_logps .* a run of another seed.*--reference"):
        train(other, tmp_path, **QUIET)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_other_params_of_the_stage_before_are_refused_when_it_has_ended(made, one_device, tmp_path):
    given = override(with_prepared(two_stages(), made / "records"), {"stages.sft.num_steps": "1"})
    with pytest.raises(
        ValueError, match=r"dpo: the reference_logps of its records \(train\) are of other params"
    ):
        train(given, tmp_path, **QUIET)
    assert '"dpo"' not in (tmp_path / "metrics.jsonl").read_text()


def test_initial_weights_of_another_seed_are_refused_before_anything_trains(one_device, tmp_path):
    prepare_experiment(dpo_alone(), tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    right = with_prepared(dpo_alone(), tmp_path / "records")
    with pytest.raises(ValueError, match="are of a run of another seed, not of what this stage starts from"):
        train(dataclasses.replace(right, seed=1), tmp_path / "wrong", **QUIET)
    assert not (tmp_path / "wrong" / "metrics.jsonl").exists()
    train(right, tmp_path / "right", **QUIET)
    assert first_losses(tmp_path / "right")["train"] == pytest.approx(math.log(2), abs=1e-5)


def test_another_policy_of_the_same_shapes_is_refused(made, one_device, tmp_path):
    given = override(
        with_prepared(two_stages(), made / "records"),
        {"policy.sizes.heads": "1", "policy.sizes.kv_heads": "1"},
    )
    with pytest.raises(ValueError, match="are of another policy"):
        train(given, tmp_path, **QUIET)


def twice(*before):
    """Two stages on the same pairs, each with the column as its reference."""
    stage = dpo_alone().stages[0]
    return dataclasses.replace(dpo_alone(), stages=(*before, dataclasses.replace(stage, name="first"), stage))


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_stages_that_share_data_have_references_of_their_own(one_device, tmp_path):
    """The second one used to get the column of the first."""
    given = twice()
    train(live(override(given, {"stages.first.algorithm.reference": "initial"})), tmp_path / "run", **QUIET)
    prepare_experiment(given, tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    train(with_prepared(given, tmp_path / "records"), tmp_path / "again", **QUIET)
    begun = first_losses(tmp_path / "again")
    assert all(loss == pytest.approx(math.log(2), abs=1e-5) for loss in begun.values())
    folder = with_prepared(given, tmp_path / "records").stages[1].train.keywords["directory"]
    columns = load_records(folder).columns
    assert not np.allclose(columns["reference_logps.first"], columns["reference_logps.dpo"], atol=1e-3)


def test_a_column_that_says_nothing_of_its_params_is_refused_and_so_is_none(one_device, tmp_path):
    prepare_experiment(dpo_alone(), tmp_path / "records", **QUIET)
    given = with_prepared(dpo_alone(), tmp_path / "records")
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
    given = dpo_alone()
    stage = dataclasses.replace(
        given.stages[0],
        train=partial(pairs_of_a_larger_model, num_examples=64),
        evaluation=partial(pairs_of_a_larger_model, num_examples=16, part="held_out"),
    )
    said = []
    train(dataclasses.replace(given, stages=(stage,)), tmp_path, log=said.append)
    assert "dpo: reference_logps (train) are of a larger model, as given" in said


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_references_of_later_stages_are_added_when_the_stage_before_has_ended(one_device, tmp_path):
    """Three rounds of `prepare --reference` and `train` in one folder; it could not be begun at all."""
    given, said = twice(two_stages().stages[0]), []
    run, records = tmp_path / "run", tmp_path / "records"

    def round_ends_with(missing):
        prepare_experiment(given, records, reference_workdir=run, log=said.append)
        with pytest.raises(ValueError, match=rf"{missing}: its records \(train\) have no column"):
            train(with_prepared(given, records), run, log=said.append)

    round_ends_with("first")
    assert {line.partition(":")[0] for line in said if "no reference log-probs yet" in line} == {
        "first",
        "dpo",
    }
    assert any(
        line.startswith("dpo: its records (train) have no column reference_logps yet") for line in said
    )
    said.clear()
    round_ends_with("dpo")
    assert [line.partition(":")[0] for line in said if "no reference log-probs yet" in line] == ["dpo"]
    prepare_experiment(given, records, reference_workdir=run, **QUIET)
    train(with_prepared(given, records), run, **QUIET)
    for stage in ("first", "dpo"):
        assert first_losses(run, stage)["train"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_first_stage_without_the_column_is_refused_at_once(one_device, tmp_path):
    with pytest.raises(ValueError, match=r"dpo: its records \(train\) have no column"):
        train(dpo_alone(), tmp_path / "run", **QUIET)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def labelled(*, num_examples: int, part: str = "train"):
    """One response a row, right and wrong ones."""
    records = arithmetic_pairs(num_examples=num_examples, part=part)
    sides = [records.only(i) for i in (0, 1)]
    labels = [np.full((len(s), 1), i == 0) for i, s in enumerate(sides)]
    return concatenate([s.with_column("labels", v) for s, v in zip(sides, labels, strict=True)])


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_single_responses_get_a_reference(one_device, tmp_path):
    stage = dpo_alone().stages[0]
    algorithm = partial(stage.algorithm, loss=losses.apo_zero_unpaired)
    stage = dataclasses.replace(
        stage, algorithm=algorithm, train=partial(labelled, num_examples=32), evaluation=None
    )
    given = dataclasses.replace(dpo_alone(), stages=(stage,))
    prepare_experiment(given, tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    train(with_prepared(given, tmp_path / "records"), tmp_path / "column", **QUIET)
    train(live(with_prepared(given, tmp_path / "records")), tmp_path / "live", **QUIET)
    assert first_losses(tmp_path / "column") == pytest.approx(first_losses(tmp_path / "live"), abs=1e-5)


def test_stages_that_read_no_column_get_none(made, one_device, tmp_path):
    index = json.loads((made / "records" / "index.json").read_text())
    scored = {
        use
        for name, use in index.items()
        if "references" in json.loads((made / "records" / name / "manifest.json").read_text())
    }
    assert scored == {"dpo train", "dpo evaluation"}
    with pytest.raises(ValueError, match=r"no stage reads reference log-probs; set stages.<name>"):
        prepare_experiment(live(two_stages()), tmp_path / "records", reference_workdir=made / "run", **QUIET)


def test_adding_references_leaves_the_configuration_of_others_alone(made):
    """A run that was begun before they were added goes on."""
    without = describe(with_prepared(live(two_stages()), made / "records"))
    assert without["stages"][1]["train"]["reference"] is None
    assert describe(with_prepared(two_stages(), made / "records"))["stages"][1]["train"]["reference"] == "dpo"


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_a_smoke_run_takes_what_it_starts_from_as_its_reference(made, one_device, tmp_path):
    """What the cut first stage leaves is not what the column was made of."""
    given = with_prepared(two_stages(), made / "records")
    train(smoke(given, num_steps=1), tmp_path, **QUIET)
    assert first_losses(tmp_path)["train"] == pytest.approx(math.log(2), abs=1e-5)


def test_params_drawn_from_the_seed_are_told_by_what_they_are_drawn_from(one_device, tmp_path):
    """Another machine may round them differently, and one draws another way than the other."""
    given = dpo_alone()
    prepare_experiment(given, tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    given = with_prepared(given, tmp_path / "records")
    run = open_run(given, tmp_path / "other", **QUIET)
    params = jax.tree.map(lambda x: x * (1 + 1e-6), started_from(run, "dpo"))
    check_reference(run, given.stages[0], given.stages[0].build(run.policy), params)
    before = jax.config.jax_threefry_partitionable
    jax.config.update("jax_threefry_partitionable", not before)
    try:
        with pytest.raises(ValueError, match="are of params that were drawn in another way"):
            check_reference(run, given.stages[0], given.stages[0].build(run.policy), params)
    finally:
        jax.config.update("jax_threefry_partitionable", before)


def test_tables_are_loaded_and_read_once_a_stage(one_device, tmp_path, monkeypatch):
    """They were loaded three times and their rows hashed four times before the first step."""
    loaded, hashed = [], []
    load, rows = prepare.load_records, content._rows
    monkeypatch.setattr(prepare, "load_records", lambda folder: loaded.append(folder) or load(folder))
    monkeypatch.setattr(content, "_rows", lambda table: hashed.append(table) or rows(table))
    prepare_experiment(dpo_alone(), tmp_path / "records", reference_workdir=tmp_path / "run", **QUIET)
    given = with_prepared(dpo_alone(), tmp_path / "records")
    loaded.clear()
    hashed.clear()
    train(given, tmp_path / "run", **QUIET)
    assert len(loaded) == len(hashed) == 2, "to train on, and held out"


def test_tables_with_references_of_the_same_params_are_joined():
    """The hashes of their rows differ, as the rows do; they were refused as of different params."""

    def part(which, params):
        records = arithmetic_pairs(num_examples=16, part=which)
        return with_reference(records, "dpo", np.zeros((len(records), 2), np.float32), {"params": params})

    parts = [part("train", "a"), part("held_out", "a")]
    for tables in (parts, [reference_of(table, "dpo") for table in parts]):
        joined = concatenate(tables)
        known = joined.metadata.get("references", {}).get("dpo") or joined.metadata["reference_logps"]
        assert known == {"params": "a", "data": content.content_of(joined, columns=False)}
    assert "reference_logps" in reference_of(concatenate(parts), "dpo").columns
    with pytest.raises(ValueError, match="different params"):
        concatenate([parts[0], part("held_out", "b")])
    with pytest.raises(ValueError, match="different params"):
        concatenate([reference_of(t, "dpo") for t in (parts[0], part("held_out", "b"))])


def test_params_of_a_stage_that_is_half_done_are_no_reference(made, one_device, tmp_path):
    """They would be refused when it has ended, after all of it had trained."""
    longer, said = override(two_stages(), {"stages.sft.num_steps": "3"}), []
    prepare_experiment(longer, tmp_path / "records", reference_workdir=made / "run", log=said.append)
    assert any(line.startswith("dpo: no reference log-probs yet") for line in said)
