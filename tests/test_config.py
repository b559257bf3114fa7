"""Overrides are checked, descriptions are complete."""

import dataclasses
import inspect
import json
import os
import pathlib
import re
import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from launch import TINY

from jaxpref import cli, config
from jaxpref.assignments import coerce, written
from jaxpref.commands.training import _labels
from jaxpref.experiment import smoke

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(str(p) for p in (ROOT / "experiments").rglob("*.py") if not p.name.startswith("_"))


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


def test_a_file_written_twice_in_a_second_is_what_it_was_written_last(tmp_path):
    """Python's compiled file, found by size and second, would be that of the first time."""
    file, found = tmp_path / "own.py", []
    for value in (1, 2):
        file.write_text(
            "from functools import partial\nfrom jaxpref.experiment import Experiment, Stage\n\n\n"
            f"def experiment(*, seed: int = {value}):\n"
            "    stage = Stage('one', algorithm=print, train=print, num_steps=1, batch_size=1)\n"
            "    return Experiment(name='own', policy=print, tokenizer=None, stages=(stage,), seed=seed)\n"
        )
        os.utime(file, (1_000_000_000, 1_000_000_000))
        found.append(config.load(str(file)).seed)
    assert found == [1, 2]


@pytest.mark.parametrize("file", [TINY, *EXPERIMENTS], ids=lambda path: pathlib.Path(path).stem)
def test_each_path_that_is_printed_takes_its_own_value(file, capsys):
    """What `describe --flat` prints, given to `train` as it stands, changes nothing."""
    assert cli.main(["describe", file, "--flat"]) == 0
    printed = capsys.readouterr().out
    given = shlex.split(printed)
    assert len(given) == len(printed.splitlines()) > 20
    assert config.describe(config.load(file, given)) == config.describe(config.load(file))


def test_flat_paths_reach_what_has_a_name_and_what_has_none():
    built = config.load(TINY)
    paths = config.settable(built)
    assert paths["stages.dpo.evaluators.held-out pairs.batch_size"] == 8
    assert paths["stages.dpo.algorithm.loss.beta"] == 0.1
    assert not any(path.endswith(".function") for path in paths)
    changed = config.override(built, {"stages.dpo.evaluators.held-out pairs.batch_size": "4"})
    assert config.settable(changed)["stages.dpo.evaluators.held-out pairs.batch_size"] == 4


def test_an_override_is_given_once():
    with pytest.raises(ValueError, match="steps is given twice, as steps=3 and steps=4"):
        config.load(TINY, ["steps=3", "steps=4"])


def test_what_has_parts_is_not_replaced_by_a_text():
    for assignment, message in {
        "mesh=8": "mesh.data, mesh.fsdp, mesh.tensor",
        "stages=2": "stages.sft, stages.dpo",
        "stages.dpo.algorithm.loss=ipo": "stages.dpo.algorithm.loss.beta",
        "stages.dpo.evaluators=(1,2)": "stages.dpo.evaluators.generation",
    }.items():
        with pytest.raises(ValueError, match=message):
            config.load(TINY, [assignment])
    emptied = config.load(TINY, ["stages.dpo.evaluators=()", "stages.dpo.evaluation=none"])
    assert emptied.stages[1].evaluators == ()
    assert emptied.stages[1].evaluation is None


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: pathlib.Path(path).stem)
def test_a_seed_of_a_sweep_is_that_of_a_run(file):
    """A knob that seeds data too is one of the sweep, or is refused: as a field it would mean less."""
    module = config._module(file)
    if "seed" not in inspect.signature(module.experiment).parameters:
        return
    with_knob, plain = (config.leaves(config.describe(module.experiment(seed=seed))) for seed in (7, 0))
    more = {path for path in with_knob if with_knob[path] != plain.get(path)} - {"seed"}
    for name, sweep in vars(module).items():
        if not name.startswith("sweep_") or not callable(sweep):
            continue
        if more and "seed" not in inspect.signature(sweep).parameters:
            with pytest.raises(ValueError, match=rf"seed is a knob of experiment.*{name}.*has none"):
                config.load_sweep(f"{file}:{name}", ["seed=7"])
            continue
        if len({member.seed for member in sweep()}) > 1:  # it is one over seeds
            with pytest.raises(ValueError, match="are the same; seed=7 erases what differs"):
                config.load_sweep(f"{file}:{name}", ["seed=7"])
            continue
        members = [config.leaves(config.describe(e)) for e in config.load_sweep(f"{file}:{name}", ["seed=7"])]
        assert {member["seed"] for member in members} == {7}
        same = [path for path in more & members[0].keys() if path != "name"]
        assert all(member[path] == with_knob[path] for path in same for member in members if path in member)


def test_runs_of_a_sweep_differ():
    rate = [f"stages.{stage}.algorithm.optimizer.schedule.value=1" for stage in ("sft", "dpo")]
    with pytest.raises(
        ValueError, match=r"runs 1 and 2 are the same; .*schedule.value=1 erases what differs"
    ):
        config.load_sweep(f"{TINY}:sweep", rate)


SWEEP = """from jaxpref.experiment import Experiment, Stage

def experiment(*, seed: int = 0):
    BODY
    stage = Stage('one', algorithm=print, train=print, num_steps=1, batch_size=1)
    return Experiment(name='own', policy=print, tokenizer=None, stages=(stage,), seed=seed)

def sweep_two():
    stage = Stage('one', algorithm=print, train=print, num_steps=1, batch_size=1)
    return [Experiment(name=n, policy=print, tokenizer=None, stages=(stage,)) for n in 'ab']
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}['no']", "line 4: KeyError: 'no'; fix the file"),
        ("len(3)", "line 4: TypeError: object of type 'int' has no len"),
        ("pass", None),
    ],
)
def test_a_mistake_in_the_file_is_said_by_a_sweep_too(body, message, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXPREF_TRACEBACK", raising=False)
    file = tmp_path / "own.py"
    file.write_text(SWEEP.replace("BODY", body))
    if message is None:
        assert [e.seed for e in config.load_sweep(f"{file}:sweep_two", ["seed=1"])] == [1, 1]
        return
    with pytest.raises(ValueError, match=message):
        config.load_sweep(f"{file}:sweep_two", ["seed=1"])


def test_a_knob_beside_one_without_default_is_taken_to_mean_more(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(SWEEP.replace("BODY", "pass").replace("*, seed", "*, size, seed"))
    with pytest.raises(ValueError, match="seed is a knob of experiment"):
        config.load_sweep(f"{file}:sweep_two", ["seed=1"])


@pytest.mark.parametrize(
    "value",
    ["words", "1", "none", "True", "", " spaced", "it's", "two\nlines", "(1, 2)", (1, "a"), None, 0.5],
)
def test_a_value_is_written_as_it_is_read(value):
    assert coerce(written(value), Any, value, "path") == value
    assert written("a b") == "a b"


def test_one_or_several_ids():
    for text, value in (("2", 2), ("(2, 5)", (2, 5)), ("[2, 5]", (2, 5))):
        assert coerce(text, int | Sequence[int], 2, "policy.eos_id") == value


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: pathlib.Path(path).stem)
def test_no_schedule_of_an_experiment_has_a_length_of_its_own(file):
    """It would stay as it is where `num_steps` of the stage is overridden (a schedule is of its stage)."""
    lengths = {
        path: value
        for path, value in config.settable(config.load(file)).items()
        if re.search(r"schedule\..*num_steps$", path)
    }
    assert set(lengths.values()) <= {None}, lengths


@pytest.mark.parametrize("names", [("a b", "a/b"), (80 * "a" + "b", 80 * "a" + "c")])
def test_runs_of_a_sweep_have_names_of_their_own_in_folders_too(names):
    built = [dataclasses.replace(config.load(TINY), name=name) for name in names]
    assert len(set(_labels(built))) == 2


def test_a_partial_is_called_by_the_function_that_it_is_of():
    own = ROOT / "experiments/own_data.py"
    with pytest.raises(
        ValueError, match=r"own_data.py:lists: _read\(\) has no default for path; give path=VALUE"
    ):
        config.load(f"{own}:lists")
