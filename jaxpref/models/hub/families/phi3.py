"""Phi-3 (arXiv:2404.14219), Phi-4 and Phi-4-mini (arXiv:2503.01743): fused projections, longrope."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import Family, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope
from jaxpref.models.hub.tensors import concatenated, embedding, fused, linear, norm

_ROPE = Rope(10_000.0, fraction=("partial_rotary_factor",), kinds=("default", "longrope"))
_LAYER = "model.layers.{}."


def _read(fields: Fields, long: bool) -> TransformerSizes:
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.must(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):  # in files of Phi-4-mini
        fields.must(name, 1)
    fields.take("original_max_position_embeddings", None)
    # The class has no such field, and its parts would not agree on another value.
    fields.must("head_dim", fields.number("hidden_size") // fields.number("num_attention_heads"))
    window = fields.nullable("sliding_window", None)
    return read_sizes(fields, sliding_window=window, **read_rope(fields, _ROPE, long=long))


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return write_sizes(sizes) | {"sliding_window": sizes.sliding_window} | write_rope(sizes, _ROPE)


def _gate_up(sizes: TransformerSizes) -> tuple[Any, ...]:
    return concatenated(sizes.mlp, sizes.mlp)


PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    _read,
    _write,
    (
        embedding("model.embed_tokens", "embedding"),
        *norm(_LAYER + "input_layernorm", "blocks.attention_norm"),
        *norm(_LAYER + "post_attention_layernorm", "blocks.mlp_norm"),
        *linear(
            _LAYER + "self_attn.qkv_proj", "attention.query", "attention.key", "attention.value", rows=fused
        ),
        *linear(_LAYER + "self_attn.o_proj", "attention.output"),
        *linear(_LAYER + "mlp.gate_up_proj", "mlp.gate", "mlp.up", rows=_gate_up),
        *linear(_LAYER + "mlp.down_proj", "mlp.down"),
        *norm("model.norm", "final_norm"),
        embedding("lm_head", "unembedding"),
    ),
    long=True,
)
