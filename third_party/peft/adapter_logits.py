"""Makes adapter_logits.json and adapter_logits.npz: logits of tiny models with adapters of PEFT, float32.

    python3 -m venv env && . env/bin/activate
    pip install peft==0.21.2 transformers==5.24.0 torch==2.15.0 safetensors==0.8.0
    python adapter_logits.py

The models are cases of ../transformers/family_logits.json, and no weights are stored: those of the models are
drawn as there, those of the adapters by the same function of their names. The JSON has, for each case, the
`adapter_config.json` that PEFT saves, and names and shapes of the adapter's tensors; the NPZ the logits
`[tokens, vocab]` of the first row of the model's case with the adapter on, which those of the merged model equal
to 1e-5.

`python adapter_logits.py --read FOLDERS` prints the logits of folders that this package wrote: a model `base`, and
adapters for it in `adapter-*`.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
MODELS = json.loads((HERE.parent / "transformers" / "family_logits.json").read_text())["cases"]
# name: (case of family_logits.json, settings of LoraConfig)
CASES = {
    "patterns": (
        "qwen2",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            # Both patterns of a pair match the second layer; the first one counts.
            "rank_pattern": {"layers.1.self_attn.v_proj": 3, "v_proj": 2, "down_proj": 5},
            "alpha_pattern": {"v_proj": 3, "layers.1.self_attn.v_proj": 100},
        },
    ),
    "fused_stabilised": (
        "phi3",
        {"r": 3, "lora_alpha": 2, "use_rslora": True, "target_modules": r".*\.(qkv_proj|gate_up_proj|o_proj)"},
    ),
    "transposed": ("gpt2", {"r": 2, "target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    "head_by_head_one_layer": (
        "pythia",
        {"r": 2, "target_modules": ["query_key_value", "dense_4h_to_h"], "layers_to_transform": [1]},
    ),
    "saved_whole": (
        "llama_linear_biases",
        {"r": 2, "lora_alpha": 2, "target_modules": ["k_proj"], "modules_to_save": ["model.norm"], "bias": "all"},
    ),
}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As in family_logits.py."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(size=shape).astype(np.float32)
    if "norm" in name.split(".")[-2] or name.split(".")[-2].startswith("ln_"):
        return np.float32(name.endswith("weight")) + np.float32(0.3) * values
    scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.2
    return np.float32(scale) * values


def _base(case, folder):
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(case["config"]))
    tensors = {name: drawn(name, tuple(shape)) for name, shape in case["tensors"].items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _logits(model, case):
    import torch

    tokens = torch.tensor([case["tokens"][0][: case["lengths"][0]]])
    with torch.no_grad():
        return model(tokens).logits.numpy()[0]


def _load(folder):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.set_attn_implementation("eager")
    return model


def _run(name, folder):
    import peft
    from safetensors.numpy import load_file, save_file

    kind, settings = CASES[name]
    case = MODELS[kind]
    base = _base(case, folder / "base")
    fresh = peft.get_peft_model(_load(base), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    fresh.save_pretrained(folder / "adapter")
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = {tensor: x.shape for tensor, x in load_file(file).items()}
    save_file({t: drawn(t, shape) for t, shape in tensors.items()}, file, metadata={"format": "pt"})
    model = peft.PeftModel.from_pretrained(_load(base), folder / "adapter").eval()
    logits = _logits(model, case)
    merged = _logits(model.merge_and_unload(), case)
    assert np.abs(logits - merged).max() < 1e-5, np.abs(logits - merged).max()
    plain = _logits(_load(base), case)
    print(name, logits.shape, "moved by", float(np.abs(logits - plain).max()))
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    return {"model": kind, "config": config, "tensors": {t: list(s) for t, s in tensors.items()}}, logits


def _read(root):
    """Logits of adapters that were written elsewhere."""
    import peft

    for folder in sorted(pathlib.Path(root).iterdir()):
        case = MODELS[(folder / "model.txt").read_text()]
        model = peft.PeftModel.from_pretrained(_load(folder / "base"), folder / "adapter").eval()
        np.save(folder / "logits.npy", _logits(model, case))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--read", help="a folder of folders with base, adapter and model.txt: writes logits.npy")
    arguments = parser.parse_args()
    if arguments.read:
        _read(arguments.read)
        return
    import peft
    import torch
    import transformers

    cases, arrays = {}, {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            cases[name], arrays[name] = _run(name, pathlib.Path(folder))
    versions = {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    text = f'{{"versions": {json.dumps(versions)},\n"cases": {{\n{lines}\n}}}}\n'
    (HERE / "adapter_logits.json").write_text(text)
    np.savez_compressed(HERE / "adapter_logits.npz", **arrays)


if __name__ == "__main__":
    sys.exit(main())
