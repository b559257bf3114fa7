"""Commands on adapters of a run: written for PEFT, and read above another base."""

import dataclasses
import io
import json
import pathlib
import re
import shutil
import sys
from functools import partial

import jax
import numpy as np
import pytest
from launch import TINY, devices, here
from model_folder import SIZES, beside, model_folder, params

from jaxpref import config
from jaxpref.models.hub import hf_end_ids, hf_weights, peft_adapter, write_folder
from jaxpref.models.lora import LoRA
from jaxpref.models.merging import merged
from jaxpref.policies.ensemble import ensemble
from jaxpref.training.export import export_adapter, export_params
from jaxpref.training.files import show_choices
from jaxpref.training.models import run_params, trained_model
from jaxpref.training.params import initial_params, trained_params
from jaxpref.training.run import open_run
from jaxpref.trees import flat, joined

pytest.importorskip("tokenizers", reason="needs the optional package")
ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = str(ROOT / "tests" / "training" / "tiny_adapters.py")
TRAIN = "final_norm.scale|blocks.mlp.up.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The words of a command line that name a run of adapters and of weights beside them."""
    words = (FILE, f"model={folder}", f"train={TRAIN}", f"workdir={tmp_path_factory.mktemp('run')}")
    here("train", *words, "--no-report", "--no-export")
    return words


def params_of(words):
    *overrides, workdir = words[1:]
    with devices(1):
        run = open_run(config.load(FILE, overrides), workdir.partition("=")[2], log=lambda _: None)
        return jax.device_get(trained_params(run))


def test_adapters_of_a_run_are_written_bit_for_bit(folder, trained, tmp_path):
    output = here("export", *trained, "--adapter", "--to", str(tmp_path / "adapter"))
    assert "tensors," in output
    assert "check-model" not in output
    made, left = peft_adapter(tmp_path / "adapter", base=folder), flat(params_of(trained))
    assert any(np.any(x) for name, x in left.items() if name.endswith("lora_b"))
    assert flat(made.weights).keys() == left.keys()
    for name, array in flat(made.weights).items():
        assert array.dtype == left[name].dtype
        np.testing.assert_array_equal(array, left[name], err_msg=name)
    assert {name for name in left if re.fullmatch(made.train or "", name)} == set(TRAIN.split("|"))
    assert (made.lora.rank, made.lora.alpha, made.outputs) == (2, 32.0, 0)
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (said["task_type"], said["base_model_name_or_path"]) == ("CAUSAL_LM", str(folder))


def test_a_reward_model_is_written_with_its_head(folder, tmp_path):
    words = (FILE, f"model={folder}", "outputs=1", f"workdir={tmp_path / 'run'}")
    here("train", *words, "--no-report")
    here("export", *words, "--adapter", "--to", str(tmp_path / "adapter"))
    made = peft_adapter(tmp_path / "adapter", base=folder)
    assert made.outputs == 1
    jax.tree.map(np.testing.assert_array_equal, made.weights, params_of(words))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert "with --adapter" in here("export", *words, "--to", str(tmp_path / "model"), expect=2)


def test_an_ensemble_is_written_as_its_average(folder, tmp_path, one_device):
    """The base and the mean of the products, folded in or as one adapter."""
    given = config.load(FILE, (f"model={folder}",))
    several = dataclasses.replace(given, policy=partial(ensemble, policy=given.policy, members=2))
    run, rng = open_run(several, tmp_path / "run", log=lambda _: None), np.random.default_rng(3)
    drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), run.abstract_params)
    base, leaves = jax.tree.map(np.asarray, hf_weights(folder)), flat(drawn)
    expected = flat(base)
    for name in ("attention.query", "mlp.down"):
        a, b = (leaves[f"blocks.{name}.lora_{x}"] for x in "ab")
        expected[f"blocks.{name}.weight"] = expected[f"blocks.{name}.weight"] + (16 * a @ b).mean(0)
    export_params(run, drawn, tmp_path / "model", like=folder)
    export_adapter(run, drawn, tmp_path / "adapter", like=folder)
    adapter = peft_adapter(tmp_path / "adapter", base=folder)
    assert adapter.lora.rank == 4
    folded = merged(joined(base, adapter.weights), adapter.lora)
    for made in (jax.tree.map(np.asarray, hf_weights(tmp_path / "model")), folded):
        for name, array in flat(made).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-4, err_msg=name)


def test_what_adapters_alone_do_not_have_is_refused(folder, trained, tmp_path):
    for option, value in (("--dtype", "bfloat16"), ("--shard-size", "2GB")):
        said = here("export", *trained, "--adapter", "--to", str(tmp_path / "a"), option, value, expect=2)
        assert f"{option} is for whole models" in said
    words = (FILE, f"model={folder}", f"train={TRAIN}", "rank=0", f"workdir={tmp_path}")
    said = here("export", *words, "--adapter", "--to", str(tmp_path / "a"), expect=2)
    assert "tiny_adapters has no adapters" in said
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A base of the same sizes with other weights."""
    path = tmp_path_factory.mktemp("models") / "other"
    given = jax.tree.map(lambda x: np.flip(x) * np.float32(0.9), params())
    write_folder(given, SIZES, path, like=beside(path.with_name("like")))
    return path


def above(words, model):
    return (words[0], f"model={model}", *words[2:])


def test_a_run_is_not_read_above_another_base(other, trained, tmp_path):
    words, to = above(trained, other), str(tmp_path / "model")
    for command in (
        ("export", *words, "--to", to),
        ("sample", *words, "--prompt", "h"),
        ("chat", *words),
        ("evaluate", *words),
    ):
        assert "--other-base (export, chat, sample, evaluate) reads" in here(*command, expect=2)
    assert not (tmp_path / "model").exists()


def test_with_other_base_it_is(folder, other, trained, tmp_path, monkeypatch):
    """The model is the other base with the adapters of the run, as merged by hand."""
    words, to = above(trained, other), tmp_path / "model"
    output = here("export", *words, "--other-base", "--to", str(to))
    assert "OTHER BASE: the adapters in" in output
    adapters, base = params_of(trained), jax.tree.map(np.asarray, hf_weights(other))
    expected = merged(joined(base, adapters), LoRA(rank=2))
    for name, array in flat(jax.tree.map(np.asarray, hf_weights(to))).items():
        np.testing.assert_array_equal(array, flat(expected)[name], err_msg=name)
    given = ("--prompt", "hello", "--max-tokens", "3")
    assert "OTHER BASE" in here("sample", *words, "--other-base", *given)
    assert "OTHER BASE" in here("evaluate", *words, "--other-base")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "OTHER BASE" in here("chat", *words, "--other-base")
    assert "OTHER BASE" not in here("evaluate", *trained, "--other-base")


def test_no_run_goes_on_above_another_base(other, trained):
    words = above(trained, other)
    assert "beside other models" in here("train", *words, "--allow-changes", expect=2)
    assert "unrecognized" in here("train", *words, "--other-base", expect=2)


def test_what_has_no_base_has_no_other(folder):
    assert "--other-base is for the checkpoints of a run" in here(
        "sample", str(folder), "--other-base", "--prompt", "h", expect=2
    )
    assert "tiny has no base" in here("export", TINY, "--other-base", "--to", "nowhere", expect=2)


def test_adapters_of_another_scale_are_refused(trained, tmp_path):
    """Neither shapes nor arrays say it: half the scale is half of what was trained."""
    words = (*trained[:-1], "policy.lora.alpha=16.0", trained[-1])
    for command in (("export", *words, "--to", str(tmp_path / "model")), ("sample", *words, "--prompt", "h")):
        assert "alpha=32.0, and 16.0 here" in here(*command, expect=2)
    policy = config.load(FILE, words[1:-1]).policy
    given = {"policy": policy, "workdir": trained[-1].partition("=")[2], "stage": "tuned"}
    with pytest.raises(ValueError, match=r"alpha=32\.0, and 16\.0 here"):
        trained_model(**given)


class TestLeaves:
    """`WORKDIR/model`, which a run leaves."""

    def test_its_own_is_replaced_and_no_other(self, folder, trained):
        workdir = pathlib.Path(trained[-1].partition("=")[2])
        target = workdir / "model"
        (workdir / ".model.jaxpref-new").mkdir()  # of an end that was killed
        assert f"model: {target}" in here("train", *trained, "--no-report")
        (target / "config.json").unlink()
        here("train", *trained, "--no-report")
        assert (target / "config.json").is_file()
        assert not [path for path in workdir.iterdir() if path.name.startswith(".model")]
        (target / "jaxpref.json").unlink()
        (target / "mine").write_text("kept")
        assert "not of a run" in here("train", *trained, "--no-report")
        assert (target / "mine").read_text() == "kept"

    def test_never_over_what_it_is_made_of(self, folder, tmp_path):
        model = shutil.copytree(folder, tmp_path / "model")
        words = (FILE, f"model={model}", f"workdir={tmp_path}", "--no-report")
        assert "this run starts from the model in" in here("train", *words, expect=2)
        assert {f.name for f in model.iterdir()} == {f.name for f in folder.iterdir()}


def test_what_ended_the_replies_of_a_run_goes_with_its_model(folder, trained, tmp_path, one_device):
    """Also where the folder that it came from does not say so."""
    like = shutil.copytree(folder, tmp_path / "like")
    (like / "generation_config.json").write_text('{"eos_token_id": 258, "top_k": 3}')
    run = open_run(config.load(FILE, trained[1:3]), tmp_path / "run", log=lambda _: None)
    drawn = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), run.abstract_params)
    export_params(run, drawn, tmp_path / "model", like=like)
    assert hf_end_ids(tmp_path / "model") == run.policy.end_ids != hf_end_ids(like)
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["top_k"] == 3


class TestModels:
    """Of another run, in Python: whole, or as what a run starts from."""

    def test_read_above_its_base(self, folder, trained):
        policy = config.load(FILE, trained[1:3]).policy
        given = {"policy": policy, "workdir": trained[-1].partition("=")[2], "stage": "tuned"}
        adapters = params_of(trained)
        jax.tree.map(np.testing.assert_array_equal, run_params(**given), adapters)
        whole = joined(jax.tree.map(np.asarray, hf_weights(folder)), adapters)
        made = trained_model(**given)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, made.params), whole)

    def test_read_above_another_one(self, other, trained):
        policy = config.load(FILE, (f"model={other}", trained[2])).policy
        given = {"policy": policy, "workdir": trained[-1].partition("=")[2], "stage": "tuned"}
        for read in (trained_model, run_params):
            with pytest.raises(ValueError, match="other_base=True reads its adapters above this base"):
                read(**given)
        said: list[str] = []
        show_choices(said.append)
        made = trained_model(**given, other_base=True)
        assert "OTHER BASE" in said[0]
        whole = joined(jax.tree.map(np.asarray, hf_weights(other)), params_of(trained))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, made.params), whole)


class TestFinetune:
    """experiments/finetune.py above the adapters of others."""

    FILE = str(ROOT / "experiments" / "finetune.py")

    def opened(self, *overrides):
        said: list[str] = []
        data = f"data={ROOT / 'experiments' / 'tiny_chat' / 'pairs.jsonl'}"
        run = open_run(config.load(self.FILE, (data, *overrides)), "nowhere", log=said.append)
        return run, said

    def test_starts_from_a_folder_of_peft(self, folder, trained, tmp_path):
        here("export", *trained, "--adapter", "--to", str(tmp_path / "adapter"))
        given, expected = (f"model={folder}", f"adapter={tmp_path / 'adapter'}"), params_of(trained)
        with devices(1):
            run, said = self.opened(*given, "lora_rank=2")
            jax.tree.map(np.testing.assert_array_equal, initial_params(run), expected)
        assert (run.policy.model.lora.rank, run.policy.model.lora.alpha) == (2, 32.0)
        assert any("could not be compared" in line for line in said)
        for more, message in (
            ("lora_rank=16", "lora_rank=16: the adapters of .* have 2; leave lora_rank out"),
            ("lora_dropout=0.1", "have 0.0; leave lora_dropout out"),
            ("train=final_norm.*", "leave train out"),
            ("adapter_other_base=true", "nothing is compared"),
        ):
            with pytest.raises(ValueError, match=message):
                self.opened(*given, more)

    def test_starts_from_a_run(self, folder, other, trained):
        run_of, expected = f"adapter={trained[-1].partition('=')[2]}", params_of(trained)
        with devices(1):
            run, _ = self.opened(f"model={folder}", run_of)
            jax.tree.map(np.testing.assert_array_equal, initial_params(run), expected)
            assert run.policy.model.lora == LoRA(rank=2, targets=("query", "mlp.down"))
            run, _ = self.opened(f"model={other}", run_of)
            with pytest.raises(ValueError, match=r"beside other models.*other_base=True"):
                initial_params(run)
            run, said = self.opened(f"model={other}", run_of, "adapter_other_base=true")
            jax.tree.map(np.testing.assert_array_equal, initial_params(run), expected)
            assert any("OTHER BASE" in line for line in said)
            run, _ = self.opened(f"model={folder}", run_of, "method=bradley_terry")
            assert initial_params(run)["head"].shape == (SIZES.embed, 1), "a head is drawn beside them"

    def test_starts_from_nothing_else(self, folder, tmp_path):
        with pytest.raises(ValueError, match="neither a folder of PEFT"):
            self.opened(f"model={folder}", f"adapter={tmp_path}")
        with pytest.raises(ValueError, match="adapter_other_base is for adapter=RUN"):
            self.opened(f"model={folder}", "adapter_other_base=true")
