"""No key of a run is drawn from twice, and none is drawn from that was also split or folded."""

import collections
import dataclasses
import json
from functools import partial

import jax
import jax.extend
import numpy as np
import pytest
from launch import devices
from tiny import experiment

from jaxpref import keys, losses
from jaxpref.algorithms import online
from jaxpref.data.loader import Loader
from jaxpref.data.text.synthetic import arithmetic_pairs, arithmetic_tokenizer
from jaxpref.evals import generation, sampled_kl
from jaxpref.experiment import Experiment
from jaxpref.judges import text_scorer
from jaxpref.selection import random_pair
from jaxpref.training.params import stage_checkpoints
from jaxpref.training.run import open_run, train


class Recorder:
    """An implementation of keys that is threefry, and notes what every key is used for when it is used."""

    def __init__(self) -> None:
        make = jax.random.key
        self.uses: dict[tuple[int, ...], list] = collections.defaultdict(list)
        self.impl = jax.extend.random.define_prng_impl(
            key_shape=(2,),
            seed=lambda seed: jax.random.key_data(make(seed, impl="threefry2x32")),
            split=self._split,
            random_bits=self._bits,
            fold_in=self._fold_in,
            name="recorded",
            tag="rec",
        )

    def _note(self, data, use: str, *values) -> None:
        def note(data, *values):
            self.uses[tuple(np.asarray(data).tolist())].append((use, *(int(v) for v in values)))

        jax.debug.callback(note, data, *values)

    def _split(self, data, shape):
        self._note(data, "split")
        return jax.random.key_data(jax.random.split(_threefry(data), shape))

    def _fold_in(self, data, number):
        self._note(data, "fold", number)
        return jax.random.key_data(jax.random.fold_in(_threefry(data), number))

    def _bits(self, data, bit_width, shape):
        self._note(data, "drawn")
        return jax.random.bits(_threefry(data), shape, f"uint{bit_width}")


def _threefry(data):
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def share_of_twos(prompt: str, response: str) -> float:
    return response.count("2") / max(len(response), 1)


def scorer():
    return text_scorer(share_of_twos, arithmetic_tokenizer())


def _three_stages() -> Experiment:
    """sft, DPO that draws rows in its loss, online DPO that draws responses, pairs and rows; every stage has
    evaluators that sample, and two of them held-out passes. (`sampled_kl` asks for what a stage started from:
    in the first one that would be the initial params, made again on purpose.)"""
    given = experiment(steps=3)
    sft, dpo = given.stages
    held_out = partial(arithmetic_pairs, num_examples=12, part="held_out")
    some = {"records": held_out, "max_tokens": 3, "num_prompts": 6, "batch_size": 4}
    sampled = (partial(generation, **some, temperature=1.0), partial(sampled_kl, **some))
    optimizer = sft.algorithm.keywords["optimizer"]
    loss = {"loss": losses.beta_dpo, "loss_state": losses.beta_dpo_state, "optimizer": optimizer}
    often = {"batch_size": 4, "evaluators": sampled, "evaluators_every": 2, "evaluate_every": 2}
    offline = partial(dpo.algorithm.func, **loss)
    drawing = partial(
        online, **loss, sample_from=({"policy": 1.0},) * 3, scorer=scorer, select=random_pair, max_tokens=3
    )
    sft = dataclasses.replace(sft, **often | {"evaluators": sampled[:1]})
    dpo = dataclasses.replace(dpo, **often, algorithm=offline, evaluation=held_out)
    return dataclasses.replace(
        given, stages=(sft, dpo, dataclasses.replace(dpo, name="online", algorithm=drawing)), seed=3
    )


@pytest.fixture(scope="module")
def uses(tmp_path_factory):
    recorder, make = Recorder(), jax.random.key
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "key", lambda seed: make(seed, impl=recorder.impl))
        with devices(1):
            train(_three_stages(), tmp_path_factory.mktemp("run"), log=lambda line: None)
    jax.effects_barrier()
    return recorder.uses


def test_every_pair_of_keys_that_are_drawn_from_differs(uses):
    """Every token, row, layer, step, batch, evaluation and stage: each draws from keys of its own, once."""
    drawn = collections.Counter({key: all_of.count(("drawn",)) for key, all_of in uses.items()})
    assert {key: count for key, count in drawn.items() if count > 1} == {}
    assert sum(drawn.values()) > 500


def test_a_key_has_one_kind_of_use(uses):
    """It is split, folded or drawn from: else a child might be a brother's, or its numbers the parent's."""
    kinds = {tuple(sorted({use[0] for use in all_of})) for all_of in uses.values()}
    assert kinds == {("drawn",), ("fold",), ("split",)}


def test_the_tree_of_the_run_is_the_one_written_down(uses):
    """What is recorded is the run, and a step's keys are none of init's (they were, for steps 0 to 2)."""

    def of(*place):
        return tuple(np.asarray(jax.random.key_data(keys.key(3, *place))).tolist())

    places = {of(None, "init"): "fold"}
    for stage in ("dpo", "online"):
        places |= {of(stage, "step", step): "split" for step in range(3)}
        places |= {
            of(stage, "evaluation", step, batch, "loss"): "split" for step in (0, 2, 3) for batch in range(3)
        }
    places |= {of("online", "collect", step): "split" for step in range(3)}
    places |= {of("online", "evaluation", step, 0, "collect"): "split" for step in (0, 2, 3)}
    for stage in ("sft", "dpo", "online"):
        places |= {of(stage, "evaluator", "generation", step): "fold" for step in (0, 2, 3)}
    assert {key: {use[0] for use in uses[key]} for key in places} == {k: {use} for k, use in places.items()}


def test_stages_with_the_same_records_see_them_in_orders_of_their_own():
    """Of 64 rows, two random orders agree at about one place: 8 or more has a chance below 2e-6."""
    records = arithmetic_pairs(num_examples=64)
    orders = [
        Loader(records, batch_size=64, seed=keys.number(seed, stage, "data")).indices(0)
        for seed in (0, 1)
        for stage in ("sft", "dpo", "online")
    ]
    for i, one in enumerate(orders):
        assert sorted(one) == list(range(64))
        for other in orders[:i]:
            assert (one == other).sum() < 8


def test_two_stages_of_a_run_train_on_other_orders(one_device, tmp_path, monkeypatch):
    """The loop gives its loaders the seeds of their stages."""
    seeds, make = [], Loader.__init__

    def noted(self, *arguments, **keywords):
        make(self, *arguments, **keywords)
        if self.shuffle:
            seeds.append(self.seed)

    monkeypatch.setattr(Loader, "__init__", noted)
    train(experiment(steps=1, evaluators=False), tmp_path, log=lambda line: None)
    assert seeds == [keys.number(0, stage, "data") for stage in ("sft", "dpo")]


def test_a_run_under_other_keys_does_not_go_on(one_device, tmp_path):
    """One that began before keys had paths says nothing of them. It is refused as a whole, and with
    --allow-changes a checkpoint in the middle of a stage still is, by its data order; a stage that has not
    begun may start from what is there."""
    given, short = experiment(steps=4, evaluators=False), experiment(steps=2, evaluators=False)
    train(dataclasses.replace(short, stages=short.stages[:1]), tmp_path, log=lambda line: None)
    path = tmp_path / "experiment.json"
    held = json.loads(path.read_text())
    assert held.pop("keys") == keys.SCHEME
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"keys 1, now 2.*data order.*another workdir"):
        train(given, tmp_path, log=lambda line: None)
    assert "keys" not in json.loads(path.read_text())
    with stage_checkpoints(open_run(given, tmp_path), "sft") as checkpoints:
        saved = checkpoints.directory / "2" / "meta" / "metadata"
    meta = json.loads(saved.read_text())
    saved.write_text(json.dumps({"data": meta["data"] | {"seed": 0}}))
    with pytest.raises(ValueError, match=r"written with other data.*seed"):
        train(given, tmp_path, allow_changes=True, log=lambda line: None)
