"""Gemma, the first one (arXiv:2403.08295): norms of 1 + weight, scaled embeddings, one or more key heads."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope

_ROPE = Rope(10_000.0)
# Files say "gelu" and mean the approximation, which both generations take for all Gemmas of this type.
_ACTIVATIONS = {"gelu": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def _read(fields: Fields) -> TransformerSizes:
    bias = fields.flag("attention_bias", False)
    fields.must("use_bidirectional_attention", False)
    for name in ("hidden_activation", "hidden_act"):
        fields.choice(name, _ACTIVATIONS, default="gelu")
    return read_sizes(
        fields,
        kv_heads=16,
        head_dim=fields.number("head_dim"),
        tied=True,
        activation="gelu_tanh",
        norm_offset=True,
        scale_embedding=True,
        qkv_bias=bias,
        output_bias=bias,
        **read_rope(fields, _ROPE),
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    fields = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": sizes.qkv_bias}
    return write_sizes(sizes) | write_rope(sizes, _ROPE) | fields


GEMMA = Family("gemma", "GemmaForCausalLM", _read, _write, gated_decoder())
