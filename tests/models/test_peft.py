"""Adapters of PEFT: read and written exactly, or refused by the field that says why."""

import dataclasses
import json
import pathlib
import re

import hub_folders
import jax
import numpy as np
import pytest
from numpy_decoder import next_token_log_probs

from jaxpref.models.hub import hf_sizes, hf_weights, peft_adapter, peft_writing, write_adapter
from jaxpref.models.hub.safetensors import open_file, write_file
from jaxpref.models.lora import LoRA
from jaxpref.models.merging import merged
from jaxpref.models.transformer import Transformer
from jaxpref.trees import flat, joined, nested

ORACLE = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "peft"
CASES = json.loads((ORACLE / "adapter_logits.json").read_text())["cases"]
LOGITS = np.load(ORACLE / "adapter_logits.npz")


def adapter_folder(name, path, **changes):
    """A folder as PEFT saved it, with fields of its configuration changed."""
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(CASES[name]["config"] | changes))
    tensors = {n: hub_folders.drawn(n, tuple(shape)) for n, shape in CASES[name]["tensors"].items()}
    write_file(path / "adapter_model.safetensors", tensors)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The base and the adapter of a case."""
    root = tmp_path_factory.mktemp("peft")

    def made(name):
        if not (root / name).exists():
            (root / name).mkdir()
            hub_folders.folder(CASES[name]["model"], root / name / "base")
            adapter_folder(name, root / name / "adapter")
        return root / name / "base", root / name / "adapter"

    return made


def base_params(folder):
    return jax.tree.map(np.asarray, hf_weights(folder))


def as_merged(folder, adapter):
    """The plain params that an adapter makes of its base."""
    return merged(joined(base_params(folder), adapter.weights), adapter.lora)


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_computes_what_peft_computes(name, folders):
    base, folder = folders(name)
    adapter, case = peft_adapter(folder, base=base), hub_folders.cases()[CASES[name]["model"]]
    model = Transformer(hf_sizes(base), lora=adapter.lora)
    shapes = {k: x.shape for k, x in flat(jax.eval_shape(model.init, jax.random.key(0))).items()}
    assert {k: x.shape for k, x in flat(joined(base_params(base), adapter.weights)).items()} == shapes
    tokens = np.array(case["tokens"][0][: case["lengths"][0]])
    logits = LOGITS[name].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wide = jax.tree.map(np.float64, as_merged(base, adapter))
    np.testing.assert_allclose(next_token_log_probs(model.sizes, wide, tokens), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["fused_stabilised", "transposed", "saved_whole"])
def test_what_was_read_is_written_bit_for_bit(name, folders, tmp_path):
    base, folder = folders(name)
    adapter = peft_adapter(folder, base=base)
    whole = joined(base_params(base), adapter.weights)
    trained = [k for k in flat(adapter.weights) if "lora_" not in k]
    write_adapter(whole, adapter.lora, hf_sizes(base), tmp_path / "out", trained=trained, like=base)
    given, written = (open_file(p / "adapter_model.safetensors") for p in (folder, tmp_path / "out"))
    assert given.keys() == written.keys()
    for tensor, x in given.items():
        np.testing.assert_array_equal(written[tensor], x, err_msg=tensor)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    theirs = CASES[name]["config"]
    fields = "peft_type task_type r lora_alpha use_rslora fan_in_fan_out rank_pattern alpha_pattern bias"
    for field in (*fields.split(), "modules_to_save", "lora_dropout"):
        assert config[field] == theirs[field], field
    assert config["base_model_name_or_path"] == str(base)


def test_independent_parts_of_a_fused_projection_are_stacked(folders, tmp_path):
    """Queries, keys and values that learnt apart, one without an adapter, of other ranks and scales."""
    base, _ = folders("fused_stabilised")
    sizes, rng = hf_sizes(base), np.random.default_rng(0)
    targets = ("attention.query", "attention.value", "mlp.down")
    lora = LoRA(rank=2, alpha=3.0, targets=targets, ranks=(("mlp.down", 3), ("attention.value", 1)))
    fresh = flat(jax.eval_shape(Transformer(sizes, lora=lora).init, jax.random.key(0)))
    drawn = {k: rng.normal(size=x.shape).astype(np.float32) for k, x in fresh.items() if "lora_" in k}
    whole = joined(base_params(base), nested(drawn))
    write_adapter(whole, lora, sizes, tmp_path / "out", like=base)
    again = peft_adapter(tmp_path / "out", base=base)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (3, {}, {"down_proj": 3})
    assert config["target_modules"] == ["down_proj", "qkv_proj"]
    for (k, x), y in zip(
        flat(merged(whole, lora)).items(), flat(as_merged(base, again)).values(), strict=True
    ):
        np.testing.assert_allclose(y, x, atol=1e-5, err_msg=k)


def test_a_reward_model_is_a_sequence_classifier(folders, tmp_path):
    base, folder = folders("patterns")
    adapter = peft_adapter(folder, base=base)
    head = np.arange(16, dtype=np.float32).reshape(16, 1)
    whole = joined(base_params(base), adapter.weights) | {"head": head}
    write_adapter(whole, adapter.lora, hf_sizes(base), tmp_path / "out", base_name="org/name")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert config["base_model_name_or_path"] == "org/name"
    again = peft_adapter(tmp_path / "out", base=base)
    assert (again.outputs, again.train) == (1, None)
    np.testing.assert_array_equal(again.weights["head"], head)


def test_heads_of_neighbours_that_rotate_together_are_written_as_halves(folders, tmp_path):
    """As of a GGUF file: the adapter's outputs are put into the order of the hub, as the base's are."""
    base, folder = folders("patterns")
    adapter, sizes = peft_adapter(folder, base=base), hf_sizes(base)
    order = np.arange(16).reshape(4, 2, 2).swapaxes(1, 2).reshape(-1)  # 0 2 1 3 of each head
    query = adapter.weights["blocks"]["attention"]["query"]
    turned = {"blocks": {"attention": {"query": query | {"lora_b": query["lora_b"][..., order]}}}}
    whole = joined(joined(base_params(base), adapter.weights), turned)
    other = dataclasses.replace(sizes, rope_style="interleaved")
    write_adapter(whole, adapter.lora, other, tmp_path / "out", family="qwen2")
    again = peft_adapter(tmp_path / "out", base=base)
    np.testing.assert_array_equal(again.weights["blocks"]["attention"]["query"]["lora_b"], query["lora_b"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' is not read, only 'LORA'; merge the adapter with PEFT"),
        ({"use_dora": True}, "use_dora=True is not read"),
        ({"lora_bias": True}, "lora_bias=True is not read"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices=[3] is not read"),
        ({"target_parameters": ["experts"]}, "target_parameters=['experts'] is not read"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=[[0, 2]] is not read"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changed the base"),
        ({"new_field": 1}, "the field new_field=1 is not known here; if it changes nothing, pass ignore="),
        ({"r": 0}, "r=0: expected a positive number"),
        ({"r": 2.5}, "r=2.5: expected an integer"),
        ({"r": 8}, "at rank 8 of adapter_config.json on this base: [8, 16] and [16, 8]"),
        ({"lora_alpha": "16"}, "lora_alpha='16': expected a positive number"),
        ({"rank_pattern": {"(a+)+": 2}}, "patterns with a repeated group"),
        ({"rank_pattern": {"(": 2}}, "'(' is no pattern"),
    ],
)
def test_fields_that_are_refused(changes, message, folders, tmp_path):
    base, _ = folders("patterns")
    with pytest.raises(ValueError, match=re.escape(message)):
        peft_adapter(adapter_folder("patterns", tmp_path / "adapter", **changes), base=base)
    adapter_folder("patterns", tmp_path / "more", new_field=1)
    assert peft_adapter(tmp_path / "more", base=base, ignore=("new_field",)).lora.rank == 4


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"base_model.model.lm_head.lora_A.weight": (4, 16)},
            "an adapter of lm_head, which is no projection",
        ),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 29)}, "is no tensor of this qwen2"),
        (
            {"base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight": (4, 16)},
            "has only one of lora_A",
        ),
        ({"base_model.model.model.norm.weight": (17,)}, "is [17] and in the base [16]"),
        ({"model.norm.weight": (16,)}, "names of an adapter of a causal model begin base_model.model."),
    ],
)
def test_tensors_that_are_refused(tensors, message, folders, tmp_path):
    base, folder = folders("patterns")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    given = open_file(folder / "adapter_model.safetensors")
    more = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    write_file(tmp_path / "adapter" / "adapter_model.safetensors", given | more)
    with pytest.raises(ValueError, match=re.escape(message)):
        peft_adapter(tmp_path / "adapter", base=base)


def test_what_is_missing_or_taken(folders, tmp_path):
    base, folder = folders("patterns")
    with pytest.raises(ValueError, match=r"no adapter_config.json"):
        peft_adapter(base, base=base)
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"adapter_model.bin is a pickle, which may run code"):
        peft_adapter(tmp_path, base=base)
    adapter = peft_adapter(folder, base=base)
    whole = joined(base_params(base), adapter.weights)
    with pytest.raises(ValueError, match="nothing is written over"):
        write_adapter(whole, adapter.lora, hf_sizes(base), tmp_path, like=base)
    trained = ["blocks.attention.query.weight"]
    with pytest.raises(ValueError, match="q_proj has an adapter, and its weight was trained, too"):
        write_adapter(whole, adapter.lora, hf_sizes(base), tmp_path / "new", trained=trained, like=base)
    assert not (tmp_path / "new").exists()


def test_an_embedding_that_is_the_head_too_is_saved_as_both(folders, tmp_path):
    """PEFT 0.21.2 keeps the old head where the file has none, and fails on it with `ensure_weight_tying`."""
    base, folder = folders("patterns")
    adapter, sizes = peft_adapter(folder, base=base), hf_sizes(base)
    assert sizes.tied
    whole = joined(base_params(base), adapter.weights)
    whole |= {"embedding": whole["embedding"] + 1}
    write_adapter(whole, adapter.lora, sizes, tmp_path / "out", trained=["embedding"], like=base)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["ensure_weight_tying"], config["modules_to_save"]) == (True, ["model.embed_tokens"])
    again = peft_adapter(tmp_path / "out", base=base)
    assert (again.train, again.outputs) == ("embedding", 0)
    np.testing.assert_array_equal(again.weights["embedding"], whole["embedding"])
    written = dict(open_file(tmp_path / "out" / "adapter_model.safetensors"))
    table, head = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"
    np.testing.assert_array_equal(written[table], written[head])
    for name, changed in {
        "no head": {head: None},
        "no table": {table: None},
        "another": {head: np.asarray(written[head]) + 1},
        "of a classifier": {"base_model.model.score.weight": np.ones((1, 16), np.float32)},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
        tensors = {n: x for n, x in (written | changed).items() if x is not None}
        write_file(tmp_path / name / "adapter_model.safetensors", tensors)
        with pytest.raises(ValueError, match="one matrix in the base, and this adapter replaces one"):
            peft_adapter(tmp_path / name, base=base)


def test_an_embedding_of_a_classifier_is_no_head(folders, tmp_path):
    base, folder = folders("patterns")
    adapter, sizes = peft_adapter(folder, base=base), hf_sizes(base)
    whole = joined(base_params(base), adapter.weights) | {"head": np.ones((16, 1), np.float32)}
    write_adapter(whole, adapter.lora, sizes, tmp_path / "out", trained=["embedding"], like=base)
    assert "ensure_weight_tying" not in json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    again = peft_adapter(tmp_path / "out", base=base)
    assert (again.train, again.outputs) == ("embedding", 1)


def test_an_embedding_that_peft_would_part_from_its_head_is_not_written(folders, tmp_path):
    base, folder = folders("transposed")
    adapter = peft_adapter(folder, base=base)
    whole = joined(base_params(base), adapter.weights)
    with pytest.raises(ValueError, match=r"transformer\.wte\.weight was trained and is the head, too"):
        write_adapter(whole, adapter.lora, hf_sizes(base), tmp_path / "out", trained=["embedding"], like=base)


def test_how_a_family_keeps_its_matrices_is_not_read_from_names(folders, tmp_path, monkeypatch):
    """A family like GPT-2 whose layers have another name."""
    base, folder = folders("transposed")
    adapter, sizes = peft_adapter(folder, base=base), hf_sizes(base)
    known = peft_writing.family_of(sizes, {}, "gpt2")
    rows = [dataclasses.replace(row, name=row.name.replace(".h.", ".block.")) for row in known.tensors]
    renamed = dataclasses.replace(known, tensors=rows)
    monkeypatch.setattr(peft_writing, "family_of", lambda *_: renamed)
    whole = joined(base_params(base), adapter.weights)
    write_adapter(whole, adapter.lora, sizes, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["fan_in_fan_out"] is True
