"""Qwen3 (arXiv:2505.09388): each query and key head is normalised, and its width is a field."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.families.qwen2 import read_windows, write_windows
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope

_ROPE = Rope(10_000.0)


def _read(fields: Fields) -> TransformerSizes:
    bias = fields.flag("attention_bias", False)
    return read_sizes(
        fields,
        kv_heads=32,
        head_dim=fields.number("head_dim"),
        qk_norm="head",
        qkv_bias=bias,
        output_bias=bias,
        **read_windows(fields),
        **read_rope(fields, _ROPE),
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return (
        write_sizes(sizes)
        | write_rope(sizes, _ROPE)
        | write_windows(sizes)
        | {"attention_bias": sizes.qkv_bias}
    )


QWEN3 = Family("qwen3", "Qwen3ForCausalLM", _read, _write, gated_decoder())
