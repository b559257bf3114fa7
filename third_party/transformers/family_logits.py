"""Makes family_logits.json and family_logits.npz: logits of tiny models of each family, float32.

    python3 -m venv env && . env/bin/activate
    pip install transformers==5.24.0 torch==2.15.0 safetensors==0.8.0
    python family_logits.py

The weights are not stored: each tensor is drawn by numpy from the CRC-32 of its name (`drawn`), here as in the
tests. The JSON has, for each case, the configuration in the form of transformers 5 and, where another version
is given (`python family_logits.py --older env4/bin/python`), in that of 4.57.6; names and shapes of the tensors as
they are saved; token ids and lengths. The NPZ has the logits at real tokens, `[rows, tokens, vocab]`, zero elsewhere.
Each case is run three times: right-padded and left-padded, which must agree to 1e-5 and of which the first is
kept, and row by row without padding.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import zlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
BASE = {
    "vocab_size": 29,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SQUARE = {k: v for k, v in BASE.items() if k != "num_key_value_heads"}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.5, 2.5, 4.0],
}
# name: (model_type, fields, lengths of the rows in tokens)
CASES = {
    "llama3": ("llama", BASE | {"rope_parameters": LLAMA3}, (40, 7)),
    "llama_linear_biases": (
        "llama",
        BASE
        | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
        | {"attention_bias": True, "mlp_bias": True, "head_dim": 6, "tie_word_embeddings": True},
        (24, 5),
    ),
    "mistral": (
        "mistral",
        BASE | {"sliding_window": 5, "head_dim": 8, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        (16, 4),
    ),
    "qwen2": (
        "qwen2",
        BASE | {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        (16, 5),
    ),
    "qwen2_windows": (
        "qwen2",
        BASE | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        (16, 3),
    ),
    "qwen3": (
        "qwen3",
        BASE | {"head_dim": 6, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        (16, 6),
    ),
    "gemma": ("gemma", BASE | {"head_dim": 8}, (16, 5)),
    "gemma2": (
        "gemma2",
        BASE
        | {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 20}
        | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 6.0},
        (16, 5),
    ),
    "gemma3": (
        "gemma3_text",
        BASE
        | {"num_hidden_layers": 3, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
        | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            }
        },
        (40, 6),
    ),
    "smollm3": (
        "smollm3",
        BASE | {"num_hidden_layers": 4, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}},
        (16, 5),
    ),
    "smollm3_windows": (
        "smollm3",
        BASE | {"no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 4},
        (16, 5),
    ),
    "olmo2": (
        "olmo2",
        BASE | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        (16, 5),
    ),
    "phi3": ("phi3", BASE | {"sliding_window": 5}, (16, 5)),
    "phi4_mini_short": (
        "phi3",
        BASE
        | {"hidden_size": 32, "original_max_position_embeddings": 16, "tie_word_embeddings": True}
        | {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75}},
        (16, 5),
    ),
    # Every row is longer than the original context: transformers takes one set of factors for a whole batch.
    "phi4_mini_long": (
        "phi3",
        BASE
        | {"hidden_size": 32, "original_max_position_embeddings": 16, "tie_word_embeddings": True}
        | {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75}},
        (40, 20),
    ),
    "pythia": (
        "gpt_neox",
        SQUARE
        | {"hidden_size": 32}
        | {"rope_parameters": {"rope_theta": 1e3, "rope_type": "default", "partial_rotary_factor": 0.25}},
        (16, 5),
    ),
    "gpt_neox_sequential": (
        "gpt_neox",
        SQUARE
        | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_new"}
        | {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0}},
        (16, 5),
    ),
    "gpt2": (
        "gpt2",
        {"vocab_size": 29, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 24, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2},
        (24, 5),
    ),
}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a name: scales of norms around 1, of which Gemma makes 2, all else around 0."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(size=shape).astype(np.float32)
    if "norm" in name.split(".")[-2] or name.split(".")[-2].startswith("ln_"):
        return np.float32(name.endswith("weight")) + np.float32(0.3) * values
    scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.2
    return np.float32(scale) * values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--older", help="python of an environment with transformers 4.57.6 and torch")
    parser.add_argument("--configs", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.configs:  # in the older environment: configurations in its form
        _older_configs(json.loads(pathlib.Path(arguments.configs).read_text()))
        return
    import torch
    import transformers

    torch.manual_seed(0)
    cases, arrays = {}, {}
    for name, (kind, fields, lengths) in CASES.items():
        cases[name], arrays[name] = _run(torch, transformers, kind, fields, lengths)
        print(name, arrays[name].shape, float(np.abs(arrays[name]).max()))
    if arguments.older:
        _add_older(cases, arguments.older)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    text = f'{{"versions": {json.dumps(versions)},\n"cases": {{\n{lines}\n}}}}\n'
    (HERE / "family_logits.json").write_text(text)
    np.savez_compressed(HERE / "family_logits.npz", **arrays)


def _run(torch, transformers, kind, fields, lengths):
    config = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(fields)))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as folder:
        from safetensors.numpy import load_file, save_file

        model.save_pretrained(folder)
        file = pathlib.Path(folder, "model.safetensors")
        tensors = {name: x.shape for name, x in load_file(file).items()}
        save_file({name: drawn(name, shape) for name, shape in tensors.items()}, file, metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model.set_attn_implementation("eager")
        saved = json.loads(pathlib.Path(folder, "config.json").read_text())
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    tokens = rng.integers(3, 29, (len(lengths), max(lengths)))
    right, left = _padded(torch, model, tokens, lengths, left=False), _padded(torch, model, tokens, lengths, left=True)
    assert np.abs(right - left).max() < 1e-5, np.abs(right - left).max()
    for row, length in enumerate(lengths):
        with torch.no_grad():
            alone = model(torch.tensor(tokens[row : row + 1, :length])).logits.numpy()
        assert np.abs(alone[0] - right[row, :length]).max() < 1e-5
    case = {
        "config": saved,
        "tensors": {name: list(shape) for name, shape in tensors.items()},
        "tokens": tokens.tolist(),
        "lengths": list(lengths),
    }
    return case, right


def _padded(torch, model, tokens, lengths, *, left):
    """Logits at real tokens, moved to the front of their rows; what padding holds must not matter."""
    rows, width = tokens.shape
    ids, mask = np.zeros((rows, width), int), np.zeros((rows, width), int)
    where = [slice(width - n, width) if left else slice(0, n) for n in lengths]
    for row, (at, n) in enumerate(zip(where, lengths)):
        ids[row, at], mask[row, at] = tokens[row, :n], 1
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)
        ).logits.numpy()
    out = np.zeros_like(logits)
    for row, (at, n) in enumerate(zip(where, lengths)):
        out[row, :n] = logits[row, at]
    return out


def _add_older(cases, python):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "cases.json")
        file.write_text(json.dumps({name: case["config"] for name, case in cases.items()}))
        command = [python, __file__, "--configs", str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    for name, config in json.loads(done.stdout.splitlines()[-1]).items():
        cases[name]["config_4"] = config


def _older_configs(configs):
    """The same models in the fields of transformers 4, as that version writes them."""
    import transformers

    written = {}
    for name, newer in configs.items():
        fields = {k: v for k, v in newer.items() if k not in ("transformers_version", "dtype", "rope_parameters")}
        rope = newer.get("rope_parameters")
        if rope and "full_attention" in rope:
            full, local = rope["full_attention"], rope["sliding_attention"]
            scaling = {k: v for k, v in full.items() if k != "rope_theta"}
            fields |= {"rope_theta": full["rope_theta"], "rope_scaling": scaling}
            fields["rope_local_base_freq"] = local["rope_theta"]
        elif rope:
            base, fraction = rope["rope_theta"], rope.get("partial_rotary_factor")
            scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
            if newer["model_type"] == "gpt_neox":
                fields |= {"rotary_emb_base": base, "rotary_pct": fraction}
            else:
                fields |= {"rope_theta": base} | ({} if fraction is None else {"partial_rotary_factor": fraction})
            if scaling.get("rope_type") == "longrope":
                lists = {k: v for k, v in scaling.items() if k in ("short_factor", "long_factor")}
                scaling = {"type": "longrope"} | lists
            if scaling != {"rope_type": "default"}:
                fields["rope_scaling"] = scaling
        with tempfile.TemporaryDirectory() as folder:
            config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
            config.save_pretrained(folder)
            written[name] = json.loads(pathlib.Path(folder, "config.json").read_text())
    print(json.dumps(written))


if __name__ == "__main__":
    sys.exit(main())
