"""Gemma 2 (arXiv:2408.00118): norms around sublayers, capped scores and logits, every other layer local."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import ACTIVATIONS, Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import FULL, LOCAL, Rope, layer_pattern, layer_types, read_rope, write_rope

_ROPE = Rope(10_000.0)

FOUR_NORMS = (
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "attention_post_norm"),
    ("pre_feedforward_layernorm", "mlp_norm"),
    ("post_feedforward_layernorm", "mlp_post_norm"),
)


def read_shared(fields: Fields, *, window: int, period: int, caps: tuple[Any, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common; `caps` are the classes' own, of attention and of logits."""
    layers = fields.number("num_hidden_layers")
    bias = fields.flag("attention_bias", False)
    fields.must("use_bidirectional_attention", False)
    if "hidden_act" in fields and fields.choice("hidden_act", ACTIVATIONS) != "gelu_tanh":
        raise ValueError(
            f"{fields.where}: hidden_act and hidden_activation: transformers reads the second one only"
        )
    size = fields.nullable("sliding_window", window)
    if fields.nullable("sliding_window_size", size) != size:
        raise ValueError(f"{fields.where}: sliding_window_size differs from sliding_window; correct the file")
    local = layer_types(fields, layers, [(i + 1) % period != 0 for i in range(layers)])
    if size is None and any(local):
        raise ValueError(f"{fields.where}: layers are local, but sliding_window is null")
    head_dim, square = fields.number("head_dim"), fields.number("query_pre_attn_scalar")
    return {
        "act": "hidden_activation",
        "kv_heads": 4,
        "head_dim": head_dim,
        "tied": True,
        "norm_offset": True,
        "scale_embedding": True,
        "post_norms": True,
        "qkv_bias": bias,
        "output_bias": bias,
        "query_scale": None if square == head_dim else float(square) ** -0.5,
        "attention_soft_cap": fields.nullable("attn_logit_softcapping", caps[0]),
        "logit_soft_cap": fields.nullable("final_logit_softcapping", caps[1]),
    } | dict(layer_pattern(size, local))


def write_shared(sizes: TransformerSizes) -> dict[str, Any]:
    scale = sizes.query_scale
    square = sizes.head_dim if scale is None else scale**-2
    return write_sizes(sizes, act="hidden_activation") | {
        "attention_bias": sizes.qkv_bias,
        # A field of integers, which the scale gives back to rounding.
        "query_pre_attn_scalar": round(square) if abs(square - round(square)) < 1e-6 * square else square,
        "final_logit_softcapping": sizes.logit_soft_cap,
        "attn_logit_softcapping": sizes.attention_soft_cap,
        "sliding_window": sizes.sliding_window or 4096,
        "layer_types": [LOCAL if one else FULL for one in sizes.local_layers],
    }


def _read(fields: Fields) -> TransformerSizes:
    shared = read_shared(fields, window=4096, period=2, caps=(50.0, 30.0))
    return read_sizes(fields, **shared, **read_rope(fields, _ROPE))


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return write_shared(sizes) | write_rope(sizes, _ROPE)


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", _read, _write, gated_decoder(norms=FOUR_NORMS))
