"""Weights in the legacy format of llama2.c: seven int32 sizes, then float32 arrays in a fixed order.

The format has no magic number and no names, so sizes are checked against the length of the file.
"""

import os
import pathlib

import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.weights import check_shapes
from jaxpref.types import Params

__all__ = ["llama2c_config", "llama2c_sizes", "llama2c_weights"]

_HEADER = 7  # int32: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (< 0: untied), seq_len
_NEWER = 0x616B3432  # "ak42": the later formats of llama2.c start with it


def llama2c_sizes(path: str | os.PathLike[str]) -> TransformerSizes:
    """Sizes in the header of the file. Raises ValueError when it is not such a header."""
    return _header(path)[0]


def llama2c_config(path: str | os.PathLike[str]) -> dict[str, int]:
    """What the format says beside sizes, as `config.json` says it: context in tokens, special tokens."""
    return {"max_position_embeddings": _header(path)[1], "bos_token_id": 1, "eos_token_id": 2}


def llama2c_weights(path: str | os.PathLike[str]) -> Params:
    """The file as a params tree of float32 numpy arrays; ValueError when truncated or of another format."""
    sizes, length = _header(path)
    floats = np.fromfile(path, np.float32, offset=4 * _HEADER)
    half = sizes.head_dim // 2
    order = [
        ("embedding", (sizes.vocab, sizes.embed)),
        ("attention_norm", (sizes.layers, sizes.embed)),
        ("query", (sizes.layers, sizes.heads * sizes.head_dim, sizes.embed)),
        ("key", (sizes.layers, sizes.kv_heads * sizes.head_dim, sizes.embed)),
        ("value", (sizes.layers, sizes.kv_heads * sizes.head_dim, sizes.embed)),
        ("output", (sizes.layers, sizes.embed, sizes.heads * sizes.head_dim)),
        ("mlp_norm", (sizes.layers, sizes.embed)),
        ("gate", (sizes.layers, sizes.mlp, sizes.embed)),
        ("down", (sizes.layers, sizes.embed, sizes.mlp)),
        ("up", (sizes.layers, sizes.mlp, sizes.embed)),
        ("final_norm", (sizes.embed,)),
        ("rope cosines, not used", (length, half)),
        ("rope sines, not used", (length, half)),
    ]
    if not sizes.tied:
        order.append(("unembedding", (sizes.vocab, sizes.embed)))
    needed = sum(int(np.prod(shape)) for _, shape in order)
    if floats.size != needed:
        raise ValueError(
            f"{path}: {4 * (_HEADER + floats.size)} bytes, but its header describes a file of "
            f"{4 * (_HEADER + needed)}; it is truncated or not a legacy llama2.c checkpoint, fetch it again"
        )
    arrays, start = {}, 0
    for name, shape in order:
        stop = start + int(np.prod(shape))
        arrays[name] = floats[start:stop].reshape(shape)
        start = stop

    def linear(name: str) -> dict[str, np.ndarray]:  # the file has [outputs, inputs]
        return {"weight": np.ascontiguousarray(arrays[name].swapaxes(1, 2))}

    params = {
        "embedding": arrays["embedding"],
        "blocks": {
            "attention_norm": {"scale": arrays["attention_norm"]},
            "attention": {name: linear(name) for name in ("query", "key", "value", "output")},
            "mlp_norm": {"scale": arrays["mlp_norm"]},
            "mlp": {name: linear(name) for name in ("gate", "up", "down")},
        },
        "final_norm": {"scale": arrays["final_norm"]},
    }
    if not sizes.tied:
        params["unembedding"] = arrays["unembedding"]
    check_shapes(params, sizes, path)
    return params


def _header(path: str | os.PathLike[str]) -> tuple[TransformerSizes, int]:
    if not pathlib.Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected a llama2.c checkpoint such as stories260K.bin")
    header = np.fromfile(path, np.int32, count=_HEADER)
    if header.size and header[0] == _NEWER:
        raise ValueError(f"{path}: a newer llama2.c format; export it again with --version 0 (legacy)")
    if header.size < _HEADER or (header[[0, 1, 2, 3, 4, 6]] <= 0).any() or header[5] == 0:
        raise ValueError(f"{path}: no llama2.c header (seven sizes), got {header.tolist()}")
    embed, mlp, layers, heads, kv_heads, vocab, length = map(int, header)
    if embed % heads or heads % kv_heads or (embed // heads) % 2:
        raise ValueError(
            f"{path}: no llama2.c header, {heads} heads and {kv_heads} key heads do not divide {embed}"
        )
    sizes = TransformerSizes(
        vocab=abs(vocab),
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=embed // heads,
        mlp=mlp,
        tied=vocab > 0,
        rope_style="interleaved",
    )
    return sizes, length
