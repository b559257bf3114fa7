"""OLMo 2 (arXiv:2501.00656): norms behind the sublayers only, queries and keys normalised over all heads."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope

_ROPE = Rope(10_000.0)


def _read(fields: Fields) -> TransformerSizes:
    bias = fields.flag("attention_bias", False)
    return read_sizes(
        fields,
        pre_norms=False,
        post_norms=True,
        qk_norm="width",
        qkv_bias=bias,
        output_bias=bias,
        **read_rope(fields, _ROPE),
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return write_sizes(sizes) | write_rope(sizes, _ROPE) | {"attention_bias": sizes.qkv_bias}


OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    _read,
    _write,
    gated_decoder(
        norms=(
            ("post_attention_layernorm", "attention_post_norm"),
            ("post_feedforward_layernorm", "mlp_post_norm"),
        )
    ),
)
