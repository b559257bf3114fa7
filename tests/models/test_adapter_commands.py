"""Commands on adapters of a run: written for PEFT."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from launch import devices, here
from model_folder import model_folder

from jaxpref import config
from jaxpref.models.hub import peft_adapter
from jaxpref.training.params import trained_params
from jaxpref.training.run import open_run
from jaxpref.trees import flat

pytest.importorskip("tokenizers", reason="needs the optional package")
FILE = str(pathlib.Path(__file__).parents[1] / "training" / "tiny_adapters.py")
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
    made, params = peft_adapter(tmp_path / "adapter", base=folder), flat(params_of(trained))
    assert any(np.any(x) for name, x in params.items() if name.endswith("lora_b"))
    assert flat(made.weights).keys() == params.keys()
    for name, array in flat(made.weights).items():
        assert array.dtype == params[name].dtype
        np.testing.assert_array_equal(array, params[name], err_msg=name)
    assert {name for name in params if re.fullmatch(made.train or "", name)} == set(TRAIN.split("|"))
    assert (made.lora.rank, made.lora.alpha, made.outputs) == (2, 32.0, 0)
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (said["task_type"], said["base_model_name_or_path"]) == ("CAUSAL_LM", str(folder))


def test_a_reward_model_is_written_with_its_head(folder, tmp_path):
    words = (FILE, f"model={folder}", "outputs=1", f"workdir={tmp_path / 'run'}")
    here("train", *words, "--no-report")
    here("export", *words, "--adapter", "--to", str(tmp_path / "adapter"))
    made, params = peft_adapter(tmp_path / "adapter", base=folder), params_of(words)
    assert made.outputs == 1
    jax.tree.map(np.testing.assert_array_equal, made.weights, params)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert "with --adapter" in here("export", *words, "--to", str(tmp_path / "model"), expect=2)


def test_what_adapters_alone_do_not_have_is_refused(folder, trained, tmp_path):
    for option, value in (("--dtype", "bfloat16"), ("--shard-size", "2GB")):
        said = here("export", *trained, "--adapter", "--to", str(tmp_path / "a"), option, value, expect=2)
        assert f"{option} is for whole models" in said
    words = (FILE, f"model={folder}", f"train={TRAIN}", "rank=0", f"workdir={tmp_path}")
    said = here("export", *words, "--adapter", "--to", str(tmp_path / "a"), expect=2)
    assert "tiny_adapters has no adapters" in said
    assert not (tmp_path / "a").exists()
