"""Configurations: what released files say is read, what would be another computation is refused by name."""

import json
import logging

import jax
import numpy as np
import pytest
from hub_folders import cases, folder, tensors

from jaxpref.models.hub import hf_end_ids, hf_sizes, hf_weights

# Fields that released files have beside those that transformers 4.57.6 writes, as they stand there.
RELEASED = {
    "llama3": {"pretraining_tp": 1, "rope_interleaved": False, "is_llama_config": True}
    | {"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}, "torch_dtype": "bfloat16"},
    "mistral": {"attention_dropout": 0.0, "use_cache": False, "torch_dtype": "bfloat16"},
    "qwen2": {"use_mrope": False, "sliding_window": 32_768, "max_window_layers": 1},
    "qwen3": {"max_window_layers": 1, "sliding_window": None, "rope_scaling": None},
    "gemma": {"hidden_act": "gelu", "hidden_activation": None},
    "gemma2": {"hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 4, "cache_implementation": "hybrid"},
    "gemma3": {"sliding_window_pattern": 6, "cache_implementation": "hybrid", "eos_token_id": [1, 2]},
    "smollm3": {"pretraining_tp": 2, "max_window_layers": 28, "no_rope_layer_interval": 4},
    "phi3": {
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "original_max_position_embeddings": 64,
    },
    "phi4_mini_short": {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False}
    | {"mlp_bias": False, "attention_bias": False, "embd_pdrop": 0.0},
    "pythia": {"classifier_dropout": 0.1, "hidden_dropout": 0.0, "is_decoder": True},
    "gpt2": {"n_ctx": 24, "task_specific_params": {"text-generation": {"do_sample": True}}},
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_files(name, tmp_path):
    plain = hf_sizes(folder(name, tmp_path / "plain", form=4))
    released = folder(name, tmp_path / "released", form=4)
    config = json.loads((released / "config.json").read_text())
    (released / "config.json").write_text(json.dumps(config | RELEASED[name]))
    assert hf_sizes(released) == plain


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "llama3",
            {"model_type": "mixtral"},
            "model_type='mixtral' is not read; those that are: llama, mist",
        ),
        ("llama3", {"architectures": ["LlamaForTokenClassification"]}, "models with another head"),
        (
            "llama3",
            {"architectures": ["LlamaForSequenceClassification"]},
            "that scores, but no matrix score.w",
        ),
        (
            "llama3",
            {"num_local_experts": 8},
            r"num_local_experts=8: not known.*ignore=\('num_local_experts',\)",
        ),
        ("llama3", {"attention_multiplier": 0.5}, "attention_multiplier=0.5"),
        ("llama3", {"logits_scaling": 8.0, "residual_multiplier": 0.2}, "logits_scaling=8.0, residual_mult"),
        ("llama3", {"hidden_act": "relu2"}, "hidden_act='relu2' is not implemented, only gelu"),
        ("llama3", {"quantization_config": {"quant_method": "fp8"}}, "quantised weights are not read"),
        ("llama3", {"rope_interleaved": True}, "rope_interleaved=True is not implemented"),
        (
            "llama3",
            {"rope_theta": 10000.0},
            r"rope_base is 10000.0 in the fields of transformers 4 and 500.0",
        ),
        (
            "llama3",
            {"rope_scaling": {"type": "dynamic", "factor": 2}},
            "rope_scaling is of the kind 'dynamic'",
        ),
        (
            "llama3",
            {"rope_scaling": {"rope_type": "linear"}},
            "rope_scaling.factor: expected a number, got N",
        ),
        (
            "llama3",
            {"rope_parameters": {"rope_theta": 5e2, "mrope_section": [1]}},
            "rope_parameters.mrope_sec",
        ),
        ("llama3", {"rope_parameters": {"rope_theta": 5e2, "partial_rotary_factor": 0.5}}, "not in this fam"),
        ("llama3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5: not known"),
        ("llama3", {"is_encoder_decoder": True}, "is_encoder_decoder=True is not implemented"),
        ("llama3", {"hidden_size": None}, "the field hidden_size is missing"),
        ("llama3", {"vocab_size": "29"}, "vocab_size: expected a number, got '29'"),
        ("llama3", {"tie_word_embeddings": "yes"}, "expected true or false, got 'yes'"),
        ("qwen2", {"use_mrope": True}, "use_mrope=True"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "layer_types=.*'full_attention' or 'sliding"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "there is no window to use"),
        ("qwen3", {"head_dim": None}, "the field head_dim is missing"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma", {"hidden_activation": "silu"}, "hidden_activation='silu'"),
        ("gemma2", {"sliding_window_size": 9}, "sliding_window_size differs"),
        ("gemma2", {"sliding_window": None}, "layers are local, but sliding_window is null"),
        ("gemma3", {"rope_parameters": {"rope_theta": 1e4}}, "expected those of full_attention and sliding"),
        ("smollm3", {"no_rope_layers": [2, 1, 1, 1]}, "expected 1 .rotates. or 0 for each of 4 layers"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias=True"),
        ("phi3", {"head_dim": 8}, "head_dim=8 is not implemented, only 4"),
        ("phi4_mini_short", {"original_max_position_embeddings": 32}, "two original_max_position_embeddings"),
        ("pythia", {"rotary_emb_base": 1e4, "rope_theta": 5e3}, "contradict each other"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("gpt2", {"n_ctx": 12}, "contradict each other"),
    ],
)
def test_another_computation_is_refused(name, fields, message, tmp_path):
    path = folder(name, tmp_path)
    config = json.loads((path / "config.json").read_text())
    config = {
        key: value for key, value in (config | fields).items() if value is not None or key == "sliding_window"
    }
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        hf_sizes(path)


def test_a_field_may_be_ignored_by_name(tmp_path):
    path = folder("llama3", tmp_path, config={"my_note": "x"})
    with pytest.raises(ValueError, match="my_note='x': not known for a llama here"):
        hf_sizes(path)
    assert hf_sizes(path, ignore=("my_note",)) == hf_sizes(folder("llama3", tmp_path / "plain"))
    hf_weights(path, ignore=("my_note",))


@pytest.mark.parametrize(
    ("name", "base"), [("qwen3", 1e4), ("smollm3", 2e6), ("gemma3", 1e6), ("pythia", 1e4)]
)
def test_a_default_base_is_the_familys_and_is_said(name, base, tmp_path, caplog):
    path = folder(name, tmp_path, config={"rope_parameters": None})
    with caplog.at_level(logging.WARNING, "jaxpref.models"):
        assert hf_sizes(path).rope_base == base
    assert f"rope_parameters say the base of its rotations; {base:,.0f} is taken" in caplog.text


def test_longrope_is_short_or_long_for_a_model(tmp_path):
    path = folder("phi4_mini_short", tmp_path)
    assert (hf_sizes(path).longest, hf_sizes(path, long_context=True).longest) == (16, None)
    with pytest.raises(ValueError, match="long_context is for rotations of the kind longrope"):
        hf_sizes(folder("llama3", tmp_path / "llama"), long_context=True)
    config = json.loads((path / "config.json").read_text())
    config["rope_parameters"]["attention_factor"] = 2.0
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="attention_factor other than the lengths give"):
        hf_sizes(path)


def test_end_ids(tmp_path):
    path = folder("llama3", tmp_path)
    assert hf_end_ids(path) == (2,)
    (path / "generation_config.json").write_text('{"eos_token_id": [5, 7, 5]}')
    assert hf_end_ids(path) == (5, 7)
    assert hf_end_ids(path, 9, 7) == (5, 7, 9)
    (path / "generation_config.json").write_text('{"eos_token_id": [5, null]}')
    with pytest.raises(ValueError, match="expected an id or a list of ids"):
        hf_end_ids(path)
    bare = folder("llama3", tmp_path / "bare", config={"eos_token_id": None})
    with pytest.raises(ValueError, match="say yourself what ends a response"):
        hf_end_ids(bare)
    assert hf_end_ids(bare, 3) == (3,)


def without(name, *left_out):
    return {key: value for key, value in tensors(name).items() if key not in left_out}


def test_tensors_are_those_of_the_configuration(tmp_path):
    given = tensors("llama3")
    up = "model.layers.1.mlp.up_proj.weight"
    for i, (changed, message) in enumerate(
        [
            (without("llama3", up), f"1 tensors that its configuration asks for are missing, such as {up}"),
            (
                given | {"model.layers.0.mlp.up_proj.bias": np.zeros(24, "f")},
                r"such as .*up_proj.bias; it",
            ),
            (given | {"model.layers.2.mlp.up_proj.weight": given[up]}, "1 tensors that no llama of this"),
            (given | {up: given[up][:, :-1]}, r"has shape \[24, 15\], by config.json \[24, 16\]"),
            (given | {up: given[up].astype(np.int8)}, "has dtype int8; weights are floats"),
            (
                without("llama3", "lm_head.weight"),
                "tie_word_embeddings is false, but the folder has no lm_head",
            ),
            (
                given | {up: given[up].astype(np.float16)},
                "mlp.up.weight has layers of dtypes float16, float32",
            ),
        ]
    ):
        path = folder("llama3", tmp_path / str(i), weights=changed)
        with pytest.raises(ValueError, match=message):
            hf_weights(path)
    (tmp_path / "only").mkdir()
    with pytest.raises(ValueError, match=r"no config.json; expected a model folder"):
        hf_sizes(tmp_path / "only")
    (tmp_path / "only" / "config.json").write_text(json.dumps(cases()["llama3"]["config"]))
    hf_sizes(tmp_path / "only")
    with pytest.raises(ValueError, match="a configuration without weights"):
        hf_weights(tmp_path / "only")


def test_buffers_and_bare_models(tmp_path):
    """The released GPT-2 leaves `transformer.` out and has masks; old Llamas have frequencies."""
    bare = {name.removeprefix("transformer."): x for name, x in tensors("gpt2").items()}
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 24, 24), "f") for i in range(2)}
    same_params(folder("gpt2", tmp_path / "a", weights=bare | masks), folder("gpt2", tmp_path / "b"))
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2, "f") for i in range(2)}
    old = folder("llama3", tmp_path / "c", weights=tensors("llama3") | frequencies)
    same_params(old, folder("llama3", tmp_path / "d"))


def same_params(a, b):
    jax.tree.map(
        np.testing.assert_array_equal, *(jax.tree.map(np.asarray, hf_weights(path)) for path in (a, b))
    )


def test_a_tied_flag_and_a_head_of_its_own(tmp_path, caplog):
    given = tensors("gpt2")
    table = given["transformer.wte.weight"]
    tied = folder("gpt2", tmp_path / "tied", weights=given | {"lm_head.weight": table})
    assert hf_sizes(tied).tied
    assert "unembedding" not in hf_weights(tied)
    assert not caplog.records
    other = folder("gpt2", tmp_path / "other", weights=given | {"lm_head.weight": table + 1})
    assert not hf_sizes(other).tied
    assert "tie_word_embeddings is true, but lm_head.weight is another matrix" in caplog.text
    np.testing.assert_array_equal(hf_weights(other)["unembedding"], table + 1)


def test_dtype_and_rows_of_the_embedding(tmp_path):
    path = folder("mistral", tmp_path, dtype="bfloat16")
    kept, cast = hf_weights(path), hf_weights(path, dtype="float32")
    assert {str(x.dtype) for x in jax.tree.leaves(kept)} == {"bfloat16"}
    assert {str(x.dtype) for x in jax.tree.leaves(cast)} == {"float32"}
    old = np.asarray(cast["embedding"])
    longer, shorter = (hf_weights(path, dtype="float32", vocab=n) for n in (32, 20))
    assert (hf_sizes(path, vocab=32).vocab, hf_sizes(path, vocab=20).vocab) == (32, 20)
    for name in ("embedding", "unembedding"):
        old, new = np.asarray(cast[name]), np.asarray(longer[name])
        np.testing.assert_array_equal(new[:29], old)
        np.testing.assert_allclose(new[29:], np.broadcast_to(old.mean(0), (3, 16)), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(shorter[name], old[:20])
    with pytest.raises(ValueError, match="dtype: expected one of"):
        hf_weights(path, dtype="int8")
