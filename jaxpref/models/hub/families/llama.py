"""Llama 2 and 3 (arXiv:2407.21783), SmolLM2 and whatever else has `model_type` "llama"."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope

_ROPE = Rope(10_000.0)


def _read(fields: Fields) -> TransformerSizes:
    fields.must("rope_interleaved", False)
    bias = fields.flag("attention_bias", False)
    return read_sizes(
        fields,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        **read_rope(fields, _ROPE),
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return (
        write_sizes(sizes)
        | write_rope(sizes, _ROPE)
        | {
            "attention_bias": sizes.qkv_bias,
            "mlp_bias": sizes.mlp_bias,
        }
    )


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    _read,
    _write,
    gated_decoder(),
    buffers=("model.layers.{}.self_attn.rotary_emb.inv_freq",),  # files of transformers before 4.32
)
