"""A run goes on with what it began with: contents are compared, since names and counts may stay the same."""

import dataclasses
import json
import pathlib
import textwrap
from functools import partial

import numpy as np
import optax
import pytest
from toys import scored_table_policy

from jaxpref import config, losses
from jaxpref.algorithms import offline, sft
from jaxpref.data import characters_tokenizer
from jaxpref.data.prepare import prepared
from jaxpref.data.records_io import load_records, write_records
from jaxpref.data.text.synthetic import arithmetic_pairs
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.training.run import train

VOCAB = 24
QUIET = {"log": lambda text: None}
SGD = partial(optax.sgd, learning_rate=0.5)

pytestmark = pytest.mark.usefixtures("one_device")


def weights(*, path: str):
    return {"logits": np.load(path)}


def tokenizer(*, path: str):
    return characters_tokenizer(pathlib.Path(path).read_text())


def table():
    return scored_table_policy(VOCAB)


def experiment(root: pathlib.Path, *, steps: int) -> Experiment:
    """Two stages that depend on four things by path alone."""
    stage = partial(Stage, batch_size=8, checkpoint_every=2, evaluate_every=10)
    pairs = partial(prepared, directory=str(root / "records"))
    held_out = partial(prepared, directory=str(root / "held_out"))
    return Experiment(
        name="content",
        policy=table,
        tokenizer=partial(tokenizer, path=str(root / "characters")),
        weights=partial(weights, path=str(root / "weights.npy")),
        stages=(
            stage(name="sft", num_steps=steps, algorithm=partial(sft, optimizer=SGD), train=pairs),
            stage(
                name="dpo",
                num_steps=steps,
                algorithm=partial(offline, loss=losses.dpo, optimizer=SGD),
                train=pairs,
                evaluation=held_out,
            ),
        ),
        mesh=MeshShape(1, 1, 1),
    )


@pytest.fixture
def root(tmp_path):
    """The four things, and a run of the first stage that is at step 2."""
    write_records(arithmetic_pairs(num_examples=16), tmp_path / "records")
    write_records(arithmetic_pairs(num_examples=16, part="held_out"), tmp_path / "held_out")
    (tmp_path / "characters").write_text("0123456789+-*=;")
    np.save(tmp_path / "weights.npy", np.zeros((VOCAB, VOCAB), np.float32))
    return tmp_path


def begun(root: pathlib.Path, *, stage: str) -> Experiment:
    """Trains to the middle of a stage, and returns what goes on with it."""
    short, long = experiment(root, steps=2), experiment(root, steps=4)
    if stage == "sft":
        train(dataclasses.replace(short, stages=short.stages[:1]), root / "run", **QUIET)
        return dataclasses.replace(long, stages=long.stages[:1])
    stages = (short.stages[0], long.stages[1])
    train(short, root / "run", **QUIET)
    return dataclasses.replace(long, stages=stages)


def edit_records(folder: pathlib.Path) -> None:
    """Other tokens in the same places."""
    tokens = np.lib.format.open_memmap(folder / "response_tokens.npy", mode="r+")
    tokens[0] = 5 if tokens[0] != 5 else 6
    tokens.flush()


def edit_weights(root: pathlib.Path) -> None:
    np.save(root / "weights.npy", np.full((VOCAB, VOCAB), 0.01, np.float32))


def refused_then_allowed(root: pathlib.Path, given: Experiment, what: str) -> None:
    """A run at step 2 of 4, with more steps the one change that is meant."""
    recorded = root / "run" / "experiment.json"
    held = json.loads(recorded.read_text())
    described = json.loads(json.dumps(config.describe(given)))
    recorded.write_text(json.dumps(held | {"config": described}))
    metrics = (root / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=rf"{what}.*--allow-changes"):
        train(given, root / "run", **QUIET)
    assert (root / "run" / "metrics.jsonl").read_text() == metrics
    said: list[str] = []
    train(given, root / "run", allow_changes=True, log=said.append)
    assert any("resumed at step 2" in line for line in said)


@pytest.mark.parametrize(
    ("stage", "edit", "what"),
    [
        ("sft", lambda root: edit_records(root / "records"), "content of its training records is not"),
        ("dpo", lambda root: edit_records(root / "held_out"), "content of its held-out records is not"),
        ("sft", edit_weights, "content of its params that the stage starts from is not"),
        ("sft", lambda root: (root / "characters").write_text("9876543210+-*=;"), "the tokenizer's content"),
    ],
)
def test_content_that_changed_under_its_name_is_refused(root, stage, edit, what):
    given = begun(root, stage=stage)
    edit(root)
    refused_then_allowed(root, given, what)


def test_what_did_not_change_goes_on(root):
    """A copy of the records has the content of the original, and weights that a later stage no longer reads
    are nothing to it."""
    given = begun(root, stage="dpo")
    edit_weights(root)
    write_records(load_records(root / "records"), root / "records", overwrite=True)
    said: list[str] = []
    train(given, root / "run", allow_changes=True, log=said.append)
    assert any("dpo: resumed at step 2" in line for line in said)
    assert not any("is not what it began with" in line for line in said)


FILE = '''
    """An experiment with a loss of its own."""
    from functools import partial

    import dataclasses

    import tiny

    SCALE = 1.0


    def mine(chosen_logps, rejected_logps):
        """Longer margins are better."""
        return scaled(rejected_logps - chosen_logps)


    def scaled(values):
        return values * SCALE


    def experiment():
        given = tiny.experiment(steps=2, evaluators=False)
        dpo = given.stages[1]
        mined = dataclasses.replace(dpo, algorithm=partial(dpo.algorithm, loss=mine, reference=None))
        return dataclasses.replace(given, stages=(mined,))
'''


def test_a_loss_of_the_file_that_changed_is_named(tmp_path):
    """Its name, which is all that the configuration has, stays."""
    file, run = tmp_path / "own.py", tmp_path / "run"

    def written(text: str) -> Experiment:
        file.write_text(textwrap.dedent(text))
        return config.load(str(file))

    train(written(FILE), run, **QUIET)
    train(written(FILE.replace("Longer margins are better.", "In other words.")), run, **QUIET)
    with pytest.raises(ValueError, match=r"another configuration \(the code of .*\.scaled\).*--allow"):
        train(written(FILE.replace("values * SCALE", "values + SCALE")), run, **QUIET)
    with pytest.raises(ValueError, match=r"another configuration \(the code of .*\.SCALE\)"):
        train(written(FILE.replace("SCALE = 1.0", "SCALE = 2.0")), run, **QUIET)
    train(written(FILE.replace("SCALE = 1.0", "SCALE = 2.0")), run, allow_changes=True, **QUIET)
