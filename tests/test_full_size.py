"""The pod-sized experiments that draw responses: every stage traced at its real size, and run with tiny
models on a few records."""

import dataclasses
import importlib
import pathlib
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxpref.algorithms.base import Model
from jaxpref.data import Records, bytes_tokenizer
from jaxpref.data.text.boundary import encode_example
from jaxpref.experiment import MeshShape, smoke
from jaxpref.models.sizes import tiny
from jaxpref.training.run import train
from jaxpref.types import Completions

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "experiments"))
SIZES = ("pythia_1_4b", "pythia_2_8b", "qwen2_5_0_5b", "gemma_2b")
# Responses of a record, and of what the last stage learns from.
FUNCTIONS = {
    "pm_tldr": (2, 2),
    "nash_md_tldr": (1, 1),
    "hypo_tldr": (2, 4),
    "hypo_tldr:dpo": (2, 2),
    "bpo_hh": (2, 2),
    "bpo_hh:reward_model": (2, 2),
}


def _shapes_only(*, policy, seed=0):
    built = policy()
    return Model(jax.eval_shape(built.init, jax.random.key(seed)), built.axes())


ENSEMBLE = {"members": 5, "lora_rank": 256}


@pytest.mark.parametrize(("function", "settings"), [*((f, {}) for f in FUNCTIONS), ("bpo_hh", ENSEMBLE)])
def test_the_real_size_traces(function, settings, monkeypatch):
    """Judges, selectors, losses and optimizers of a step fit together, and the state keeps its shapes."""
    name, _, built = function.partition(":")
    module = importlib.import_module(name)
    experiment = getattr(module, built or "experiment")(**settings)
    if hasattr(module, "random_model"):
        monkeypatch.setattr(module, "random_model", _shapes_only)
    policy = experiment.policy()
    params = jax.eval_shape(policy.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) > 4e8
    for stage in experiment.stages:
        algorithm = stage.build(policy)
        models = {} if algorithm.constants is None else algorithm.constants()
        models |= {} if policy.constants is None else {"policy": policy.constants()}
        members = {name: model.params for name, model in models.items()}
        last = stage is experiment.stages[-1]
        k, learnt = FUNCTIONS[function] if last else (1, 1)
        b, p = stage.batch_size, max(stage.prompt_buckets or (512,))
        r = max(stage.response_buckets or (64,))
        tokens = jax.ShapeDtypeStruct((b, k, r), jnp.int32)
        batch = Completions(
            jax.ShapeDtypeStruct((b, p), jnp.int32),
            jax.ShapeDtypeStruct((b, p), bool),
            tokens,
            jax.ShapeDtypeStruct(tokens.shape, bool),
            columns={"weights": jax.ShapeDtypeStruct((b,), jnp.float32)},
        )

        def update(params, members, batch, key, algorithm=algorithm):
            state = algorithm.init(params, members) if members else algorithm.init(params)
            record = algorithm.collect(state, batch, key)[0] if algorithm.collect else batch
            return state, record, *algorithm.step(state, record, key)

        before, record, after, metrics = jax.eval_shape(update, params, members, batch, jax.random.key(0))
        assert record.response_tokens.shape[:2] == (b, learnt)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
            lambda x: (x.shape, x.dtype), after
        )
        assert {"loss", "grad_norm"} <= metrics.keys()


def test_bpo_hh_has_the_released_settings():
    """One pass over 10,000 prompts; sweeps renew the sampler as often as they say, and build."""
    module = importlib.import_module("bpo_hh")
    last = module.experiment().stages[-1]
    assert (last.batch_size, last.num_steps) == (64, 10_000 // 64)
    every = [x.stages[-1].algorithm.keywords["policies"]["behaviour"] for x in module.sweep_phases()]
    assert [156 // x.keywords["every"] for x in every] == [1, 2, 4, 156]
    margin, target = jnp.zeros(1), {}
    for experiment in module.sweep_losses():
        loss = experiment.stages[-1].algorithm.keywords["loss"]
        lengths = (jnp.full(1, 4),) * 2 if loss.func.__name__ == "ipo_mean" else ()
        slope = jax.grad(lambda h, loss=loss, n=lengths: loss(h, 0 * h, 0 * h, 0 * h, *n).sum())(margin)
        target[loss.func.__name__] = float(slope[0])
    # -beta / 2; -2 * 5 nats a token over four tokens; -beta.
    assert target == pytest.approx({"dpo": -0.05, "ipo_mean": -2.5, "rso_hinge": -0.1})


@pytest.fixture
def tiny_models(monkeypatch):
    """Models of one layer, bytes for tokens and eight records, in place of what the files name. (What reads
    the real records is tested by tests/test_tldr.py and on real pairs in tests/data/test_prepare.py.)"""
    small = partial(tiny, vocab=259, embed=16, layers=1, heads=2, kv_heads=2, mlp=16)
    readers = {"tldr_demonstrations": _answers, "tldr_comparisons": _pairs, "hh_pairs": _pairs}
    replaced = {"hf_tokenizer": _bytes, **readers, **dict.fromkeys(SIZES, small)}
    for name in ("pm_tldr", "nash_md_tldr", "hypo_tldr", "bpo_hh"):
        module = importlib.import_module(name)
        for known, other in replaced.items():
            if hasattr(module, known):
                monkeypatch.setattr(module, known, other)


def _bytes(path):
    return bytes_tokenizer()


def _pairs(responses=(" It was wet.", " Dry."), **_):
    rows = [
        encode_example(
            bytes_tokenizer(), f"POST: {i}\n\nTL;DR:", list(responses), prompt_length=16, response_length=16
        )
        for i in range(8)
    ]
    return Records.from_examples(rows, {})


def _answers(**_):
    return _pairs(responses=(" Wet.",))


def _run(function, workdir, **settings):
    name, _, built = function.partition(":")
    experiment = getattr(importlib.import_module(name), built or "experiment")(eos_id=2, **settings)
    lines = []
    # Four rows do not divide over the eight devices of this process.
    cut = dataclasses.replace(smoke(experiment, 2), mesh=MeshShape(data=1, tensor=8))
    train(cut, workdir, log=lines.append)
    return "\n".join(lines)


@pytest.mark.exhaustive  # the small experiments run the same stages, and the real sizes trace above
@pytest.mark.slow
def test_summaries_run_and_read_their_judge(tiny_models, tmp_path):
    judge = str(tmp_path / "judge")
    assert "preferences  2/2" in _run("pm_tldr", judge, separator_id=1)
    said = _run("nash_md_tldr", tmp_path / "nash", separator_id=1, judge_run=judge, max_tokens=6)
    assert "nash  2/2" in said
    assert "objective/win_rate" in said
    assert "comparisons  2/2" in _run("hypo_tldr", tmp_path / "hypo")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_phases_run_and_read_their_judge(tiny_models, tmp_path):
    judge = str(tmp_path / "judge")
    assert "reward  2/2" in _run("bpo_hh:reward_model", judge)
    assert "bpo  2/2" in _run("bpo_hh", tmp_path / "bpo", judge_run=judge)
    of_adapters = {"members": 2, "lora_rank": 4}
    assert "bpo  2/2" in _run("bpo_hh", tmp_path / "adapters", judge_run=judge, **of_adapters)
