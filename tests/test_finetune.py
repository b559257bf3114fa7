"""experiments/finetune.py: what it refuses, and that a model comes out that can be read again."""

import json
import math
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_folders import cases, folder
from launch import here

from jaxpref import config
from jaxpref.cli import _parsed
from jaxpref.commands.speaking import open_speaker
from jaxpref.methods import METHODS
from jaxpref.models.hub import hf_sizes, hf_weights, write_folder
from jaxpref.models.hub.families import FAMILIES

FILE = "experiments/finetune.py"
FOLDER = pathlib.Path("experiments/tiny_chat")


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).resolve().parents[1])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=kto", f"data={FOLDER / 'pairs.jsonl'}"], "learns from single responses with a label"),
        (["method=dpo", f"data={FOLDER / 'lists.jsonl'}"], "lipo_lambda"),
        (["method=dpo", f"data={FOLDER / 'conversations.jsonl'}"], "conversations without a preference"),
        (["method=odpo"], "reads 'scores' of each row"),
        (["method=hypo"], "sampled_logps"),
        (["method=simp"], "near: simpo"),
        (["method=orpo", "beta=0.3"], "beta: method=orpo has none"),
        (["model=nowhere"], "nowhere"),
        (["method=sft", "sft_steps=7"], "of method=sft say steps="),
        (["judge=runs/rm"], "method=dpo asks no judge"),
        (["method=online_dpo"], "needs judge=RUN"),
        (["lora_rank=0", "lora_alpha=64"], "lora_rank=0 has no adapters"),
        (["quantize=nf4", "lora_rank=0"], "quantize=nf4: all weights are trained"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        config.load(FILE, overrides)


def test_an_epoch_is_as_long_in_every_form_of_a_file(tmp_path):
    rows = [json.loads(line) for line in (FOLDER / "labelled.jsonl").read_text().splitlines()]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for path in (FOLDER / "labelled.jsonl", tmp_path / "rows.json", tmp_path / "rows.parquet"):
        experiment = config.load(FILE, ["method=kto", f"data={path}", "epochs=2"])
        assert experiment.stages[-1].num_steps == round(200 * 2 * 0.9 / 16)


def test_a_rate_of_adapters_is_for_adapters():
    rates = {
        words: config.load(FILE, [f"model={FOLDER}", *words]).stages[-1].algorithm.keywords["optimizer"]
        for words in ((), ("lora_rank=0",), ("lora_rank=0", "train=final_norm.*"))
    }
    peaks = [one.keywords["schedule"].keywords["peak"] for one in rates.values()]
    assert peaks == [pytest.approx(5e-6), 5e-7, 5e-7]


def test_the_end_of_a_turn_ends_replies_where_no_file_says_so(tmp_path):
    """Folders of base models name an end of texts, and have a template in which replies end otherwise."""
    model = shutil.copytree(FOLDER, tmp_path / "model")
    settings = json.loads((model / "config.json").read_text()) | {"eos_token_id": 0}
    (model / "config.json").write_text(json.dumps(settings))
    experiment = config.load(FILE, [f"model={model}", f"data={FOLDER / 'pairs.jsonl'}"])
    assert experiment.policy().end_ids == (0, 2)
    assert open_speaker(_parsed(["chat", str(model)])).policy.end_ids == (0, 2)


def test_every_method_of_the_table_is_fed_or_refused_with_the_reason():
    fed, reasons = [], {}
    for method in METHODS:
        try:
            config.load(FILE, [f"method={method.name}"])
        except ValueError as error:
            reasons[method.name] = str(error)
        else:
            fed.append(method.name)
    assert all(name in reason for name, reason in reasons.items())
    assert {"dpo", "ipo", "simpo", "orpo", "kto", "bco", "lipo_lambda", "bradley_terry", "sft"} <= set(fed)
    assert len(fed) > 55


def _trained(tmp_path, *overrides):
    output = here("train", FILE, "--smoke", f"workdir={tmp_path}", "max_tokens=8", *overrides)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    return output, [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_model_comes_out(tmp_path):
    output, metrics = _trained(tmp_path)
    first = next(line for line in metrics if "loss" in line)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert hf_sizes(tmp_path / "model") == hf_sizes(FOLDER)
    before, after = (np.asarray(hf_weights(f)["embedding"]) for f in (FOLDER, tmp_path / "model"))
    np.testing.assert_array_equal(before.view(np.uint8), after.view(np.uint8))  # adapters are of projections
    assert "model: " in output


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_begins_at_log_2_and_comes_out(tmp_path, family):
    """Of each a folder of a few thousand weights, with the tokenizer of the chat model and as many rows."""
    case = next(name for name, case in cases().items() if case["config"]["model_type"] == family)
    source, model = folder(case, tmp_path / "source"), tmp_path / "model"
    sizes, weights = hf_sizes(source, vocab=320), hf_weights(source, vocab=320)
    write_folder(weights, sizes, model, family=family, end_ids=(2,))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(FOLDER / name, model)
    lengths = ["prompt_length=12", "response_length=8", f"data={FOLDER / 'pairs.jsonl'}"]
    _, metrics = _trained(tmp_path / "run", f"model={model}", *lengths)
    first = next(line for line in metrics if "loss" in line)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert hf_sizes(tmp_path / "run" / "model") == sizes


@pytest.mark.exhaustive
def test_the_toy_answers_better_after_the_pairs(tmp_path):
    here("train", FILE, f"workdir={tmp_path}")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    right = [line["replies/checker accuracy"] for line in lines if "replies/checker accuracy" in line]
    assert right[-1] > right[0] + 0.2


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "method", ["sft", "ipo", "simpo", "orpo", "kto", "bco", "lipo_lambda", "bradley_terry"]
)
def test_methods_run(tmp_path, method):
    _, metrics = _trained(tmp_path, f"method={method}")
    assert all(math.isfinite(line["loss"]) for line in metrics if "loss" in line)
