"""Arrays beside the params: not trained, not copied, not saved, and not exchanged in silence."""

import dataclasses
import pathlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from launch import rows
from toys import scored_table_policy

from jaxpref import losses
from jaxpref.algorithms import offline, online, sft
from jaxpref.config import override
from jaxpref.data.text.synthetic import arithmetic_demonstrations, arithmetic_pairs, arithmetic_tokenizer
from jaxpref.evals import reward_accuracy
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.judges import reward_judge
from jaxpref.models.hub.lazy import stacked, wrapped
from jaxpref.models.sizes import tiny
from jaxpref.policies.base import Model, whole
from jaxpref.policies.transformer import transformer
from jaxpref.selection import two_samples
from jaxpref.training import constants, sharding
from jaxpref.training.checkpoint import Checkpoints
from jaxpref.training.constants import fingerprint
from jaxpref.training.models import random_model, trained_model
from jaxpref.training.params import left_by, started_from, trained_params
from jaxpref.training.references import _differing
from jaxpref.training.run import open_run, train
from jaxpref.training.state import Layout

VOCAB = 24
SGD = partial(optax.sgd, learning_rate=0.5)
ONE, TWO = fingerprint(np.ones(1)), fingerprint(np.ones(2))


OTHER = {"stage", "split", "metrics", "evaluator"}


def quiet(text: str) -> None:
    pass


def base(seed: int = 0) -> Model:
    logits = np.random.default_rng(seed).normal(size=(VOCAB, VOCAB)).astype(np.float32)
    return Model({"base": logits}, {"base": ("vocab", None)})


def adapted(*, seed: int = 0):
    """A table of logits: a frozen base, and what is learnt on top of it."""
    table = scored_table_policy(VOCAB)

    def logits(params):
        return {"logits": params["base"] + params["change"]}

    return table._replace(
        init=lambda key: {"change": jnp.zeros((VOCAB, VOCAB))},
        token_logps=lambda params, batch: table.token_logps(logits(params), batch),
        quantities=None,
        axes=lambda: {"change": (None, None)},
        constants=partial(base, seed),
    )


def plain(*, seed: int = 0):
    """The same table, trained as a whole."""
    return scored_table_policy(VOCAB)._replace(
        init=lambda key: {"logits": jnp.asarray(base(seed).params["base"])}
    )


def experiment(policy, *, steps: int = 4) -> Experiment:
    held_out = partial(arithmetic_pairs, num_examples=16, part="held_out")
    stage = partial(Stage, num_steps=steps, batch_size=8, checkpoint_every=2, evaluate_every=2)
    return Experiment(
        name="constants",
        policy=policy,
        tokenizer=arithmetic_tokenizer,
        stages=(
            stage(
                name="sft",
                algorithm=partial(sft, optimizer=SGD),
                train=partial(arithmetic_demonstrations, num_examples=32),
            ),
            stage(
                name="dpo",
                algorithm=partial(offline, loss=losses.dpo, optimizer=SGD),
                train=partial(arithmetic_pairs, num_examples=32),
                evaluation=held_out,
                evaluators=(partial(reward_accuracy, records=held_out, batch_size=8),),
            ),
        ),
        mesh=MeshShape(1, 1, 1),
        best_metric=None,
    )


def saved_bytes(directory: pathlib.Path, stage: str, step: int) -> int:
    return sum(
        f.stat().st_size for f in (directory / "checkpoints" / stage / str(step)).rglob("*") if f.is_file()
    )


def test_training_on_top_of_a_frozen_base_is_training_the_sum(one_device, tmp_path):
    """Under SGD the change of the whole table is the change on top of the base, in every stage, pass and
    evaluator."""
    frozen = train(experiment(adapted), tmp_path / "frozen", log=quiet)
    free = train(experiment(plain), tmp_path / "free", log=quiet)
    assert set(frozen.params) == {"change"}
    np.testing.assert_allclose(
        frozen.params["change"] + base().params["base"], free.params["logits"], atol=1e-5
    )
    assert float(jnp.abs(frozen.params["change"]).max()) > 0.01
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        for a, b in zip(rows(tmp_path / "frozen", name), rows(tmp_path / "free", name), strict=True):
            for key in set(a) - OTHER:
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key
            for key, estimate in a.get("metrics", {}).items():
                assert estimate["mean"] == pytest.approx(b["metrics"][key]["mean"], rel=1e-4, abs=1e-5), key


def test_a_run_goes_on_beside_the_same_constants_only(one_device, tmp_path):
    def dpo(policy, steps):
        given = experiment(policy, steps=steps)
        return dataclasses.replace(given, stages=given.stages[1:])

    once = train(dpo(adapted, 4), tmp_path / "once", log=quiet)
    train(dpo(adapted, 2), tmp_path / "twice", log=quiet)
    recorded = (tmp_path / "twice" / "experiment.json").read_text()
    with pytest.raises(ValueError, match=r"written beside other models of the names \['policy'\]"):
        train(dpo(partial(adapted, seed=1), 4), tmp_path / "twice", allow_changes=True, log=quiet)
    assert (tmp_path / "twice" / "experiment.json").read_text() == recorded, "what is refused is not recorded"
    again = train(dpo(adapted, 4), tmp_path / "twice", allow_changes=True, log=quiet)
    np.testing.assert_array_equal(again.params["change"], once.params["change"])


@pytest.mark.parametrize(
    ("saved", "now", "differing"),
    [
        ({"a": ONE}, {"a": TWO}, ["a"]),
        ({"a": ONE}, {"a": ONE, "b": TWO}, ["b"]),
        ({"a": ONE, "b": TWO}, {"b": TWO}, ["a"]),
        ({"a": ONE, "b": TWO}, {"b": TWO, "a": ONE}, []),
    ],
)
def test_a_checkpoint_wants_its_constants_no_more_or_fewer(saved, now, differing):
    class Saved:
        directory = "somewhere"

        def restore(self, step, target):
            return target, {"constants": saved}

    layout = Layout(None, {}, now, {}, {})
    if not differing:
        assert layout.restore(Saved(), 0) == ({}, {"constants": saved})
        return
    with pytest.raises(ValueError, match=re.escape(f"other models of the names {differing}")):
        layout.restore(Saved(), 0)


def test_params_mean_nothing_beside_another_base(one_device, tmp_path):
    """Whoever reads them alone (samples, a next stage, a judge elsewhere) is refused as a resumed run is."""
    train(experiment(adapted, steps=2), tmp_path, log=quiet)
    other = open_run(experiment(partial(adapted, seed=1)), tmp_path, log=quiet)
    for read in (trained_params, partial(left_by, stage="dpo"), partial(started_from, stage="dpo")):
        with pytest.raises(ValueError, match=r"beside other models of the names \['policy'\]"):
            read(other)
    with pytest.raises(ValueError, match=r"beside other models of the names \['policy'\]"):
        trained_model(policy=partial(adapted, seed=1), workdir=str(tmp_path), stage="dpo")
    model = trained_model(policy=adapted, workdir=str(tmp_path), stage="dpo")
    assert set(model.params) == set(model.axes) == {"change", "base"}


def test_evaluators_of_a_stage_have_names_of_their_own(one_device, tmp_path):
    given = experiment(plain, steps=2)
    stage = dataclasses.replace(given.stages[1], evaluators=given.stages[1].evaluators * 2)
    with pytest.raises(ValueError, match="stage dpo: two evaluators are called 'held-out pairs'"):
        train(dataclasses.replace(given, stages=(stage,)), tmp_path, log=quiet)


def reading(*, policy):
    return reward_judge(policy())


def judged(policy, *, judge) -> Experiment:
    """Online DPO under a reward model with random weights."""
    given = experiment(policy)
    game = dataclasses.replace(
        given.stages[1],
        name="game",
        algorithm=partial(
            online,
            loss=losses.dpo,
            optimizer=SGD,
            sample_from=({"policy": 1.0},) * 2,
            max_tokens=4,
            judge=partial(reading, policy=judge),
            models={"judge": partial(random_model, policy=judge)},
            select=two_samples,
        ),
        evaluators=(),
    )
    return dataclasses.replace(given, stages=(game,))


def test_a_judge_is_in_no_checkpoint(one_device, tmp_path):
    """The state that moves has the policy, its reference and the optimizer; the judge's fingerprint stands
    for it."""
    small = partial(tiny, vocab=VOCAB, embed=8, layers=1, heads=1, kv_heads=1, mlp=8)
    large = partial(tiny, vocab=VOCAB, embed=64, layers=1, heads=1, kv_heads=1, mlp=64)
    judge = partial(transformer, sizes=large, outputs=1, eos_id=2)
    policy = partial(transformer, sizes=small, eos_id=2)
    given = override(judged(policy, judge=judge), {"stages.game.num_steps": "2"})
    train(given, tmp_path, log=quiet)
    model = random_model(policy=judge)
    judge_bytes = sum(x.nbytes for x in jax.tree.leaves(model.params))
    own = jax.tree.leaves(jax.eval_shape(policy().init, jax.random.key(0)))
    own_bytes = sum(x.size * x.dtype.itemsize for x in own)
    assert judge_bytes > 10 * own_bytes
    assert saved_bytes(tmp_path, "game", 2) < judge_bytes / 2
    with Checkpoints(tmp_path / "checkpoints" / "game") as checkpoints:
        layout = Layout.of(open_run(given, tmp_path, log=quiet), given.stages[0].build(policy()))
        state, meta = layout.restore(checkpoints, 2)
    assert meta["constants"] == {"judge": fingerprint(model.params)}
    assert state.constants == {}


def test_fingerprints_tell_names_types_shapes_and_values_apart():
    given: dict = {"a": np.arange(6, dtype=np.float32), "b": np.zeros((2, 0))}
    assert fingerprint(given) == fingerprint({"b": np.zeros((2, 0)), "a": np.arange(6, dtype=np.float32)})
    other = [
        {"a": np.arange(6, dtype=np.float32)},
        given | {"a": np.arange(6, dtype=np.int32)},
        given | {"a": given["a"].view(np.int32)},
        given | {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        given | {"a": np.arange(6, dtype=np.float32) + np.float32(1e-6)},
        {"c": given["a"], "b": given["b"]},
    ]
    assert len({fingerprint(x) for x in [given, *other]}) == 7


def test_one_content_has_one_fingerprint_wherever_it_lies(monkeypatch):
    """Spread arrays are fetched by rows where they are large; of stacks one array is read at a time."""
    layers = [np.random.default_rng(i).normal(size=(6, 4)).astype(jnp.bfloat16) for i in range(3)]
    given = {"blocks": np.stack([x.T for x in layers]), "step": np.float32(3), "table": layers[0]}
    mesh = sharding.make_mesh(MeshShape(data=1, fsdp=2), jax.devices()[:2])
    specs = {"blocks": P(None, None, "fsdp"), "step": P(), "table": P("fsdp")}
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    lazy = {
        "blocks": stacked([wrapped(x).T for x in layers]),
        "step": given["step"],
        "table": wrapped(layers[0]),
    }
    placed = sharding.put_params(lazy, shardings)
    assert fingerprint(given) == fingerprint(lazy) == fingerprint(placed)
    monkeypatch.setattr(constants, "_PART", 70)
    assert fingerprint(given) == fingerprint(placed)
    layers[2][5, 3] += 1
    assert fingerprint(given) != fingerprint(lazy)


def test_each_array_is_hashed_by_one_process():
    owners = constants._owners([1, 8, 5, 4, 0, 1], 3)
    assert owners.tolist() == [2, 0, 1, 2, 2, 1]
    assert constants._owners([], 2).tolist() == []


def test_fingerprints_of_another_version_are_not_compared():
    digest = ONE.partition(":")[2]
    assert len(digest) == 64
    with pytest.raises(ValueError, match=r"another version of jaxpref, .* models \['policy'\]"):
        constants.check_same("somewhere", {"policy": digest}, {"policy": ONE})
    with pytest.raises(ValueError, match=r"other models of the names \['policy'\]"):
        constants.check_same("somewhere", {"policy": digest}, {})
    for made in ({"params": digest}, {"constants": {"policy": digest}}):
        assert "as another version" in (_differing(made, {"params": ONE}) or "")


def test_an_array_is_trained_or_constant():
    with pytest.raises(ValueError, match=r"both have \['base'\]"):
        whole({"base": 1}, {"policy": {"base": 2}})
    with pytest.raises(ValueError, match=r"both have \['block.w'\]"):
        whole({"block": {"w": 1, "a": 1}}, {"policy": {"block": {"w": 2, "b": 2}}})
    with pytest.raises(ValueError, match=r"both have \['block'\]"):
        whole({"block": {"w": 1}}, {"policy": {"block": 2}})
    side_by_side = whole({"block": {"w": 1}, "head": 3}, {"policy": {"block": {"b": 2}}})
    assert side_by_side == {"block": {"w": 1, "b": 2}, "head": 3}
    assert whole({"x": 1}, {"judge": {"x": 2}}) == {"x": 1}


def test_what_two_models_share_is_on_the_mesh_once(one_device):
    """By values and layout: a judge above the policy's base is its head alone."""
    mesh = sharding.make_mesh(MeshShape(1, 1, 1))
    table, head = np.arange(12.0, dtype=np.float32).reshape(4, 3), np.ones(3, np.float32)
    axes = {"table": ("vocab", None), "head": (None,)}
    own = constants.loaded({"policy": Model({"table": table}, {"table": axes["table"]})}, mesh, {})
    judge = {"table": wrapped(table.copy()), "head": head}
    others = {"judge": Model(judge, axes), "same": Model({"again": head}, {"again": (None,)})}
    both = own | constants.loaded(others, mesh, own.arrays)
    assert both.params["judge"]["table"] is own.params["policy"]["table"]
    assert both.params["same"]["again"] is both.params["judge"]["head"]
    np.testing.assert_array_equal(both.params["judge"]["head"], head)
    assert both.fingerprints["judge"] == fingerprint(judge)
    moved = constants.loaded(
        {"judge": Model({"table": table + 1}, {"table": axes["table"]})}, mesh, own.arrays
    )
    assert moved.params["judge"]["table"] is not own.params["policy"]["table"]
