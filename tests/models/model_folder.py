"""A model folder as hubs have them, of a few thousand random weights: tokenizer, template and all."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from jaxpref.models.hub import write_folder
from jaxpref.models.sizes import tiny
from jaxpref.models.weights import shapes

SIZES = tiny(vocab=264, embed=16, heads=2, layers=1, mlp=32)  # five rows more than the tokenizer has ids
ENDS = (257, 258)
# Few tokens, of which each is a byte: a letter for the role.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


def params() -> Any:
    """Random ones, whose distributions are far from uniform."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), shapes(SIZES))


def beside(path: pathlib.Path, *, template: bool = True) -> pathlib.Path:
    """Writes what goes with the weights."""
    import tokenizers

    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    texts = {
        "config.json": {"model_type": "llama", "max_position_embeddings": 128},
        "tokenizer_config.json": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "generation_config.json": {"eos_token_id": list(ENDS)},
    }
    for name, value in texts.items():
        (path / name).write_text(json.dumps(value))
    if template:
        (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def model_folder(path: pathlib.Path) -> pathlib.Path:
    write_folder(params(), SIZES, path, like=beside(path.with_name(f"{path.name}-like")))
    return path
