"""GPT-2 (Radford et al. 2019): learned positions, matrices that lie as [inputs, outputs]."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import ACTIVATIONS, Family
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.tensors import embedding, fused, linear, norm

_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
_LAYER = "transformer.h.{}."


def _read(fields: Fields) -> TransformerSizes:
    fields.must("scale_attn_weights", True)
    fields.must("scale_attn_by_inverse_layer_idx", False)
    embed, heads = fields.number("n_embd"), fields.number("n_head")
    length = fields.agreed(("n_positions", "n_ctx"))
    if length is None:
        raise ValueError(f"{fields.where}: the field n_positions is missing; fetch the file again")
    return TransformerSizes(
        vocab=fields.number("vocab_size"),
        embed=embed,
        layers=fields.number("n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=embed // heads,
        mlp=fields.number("n_inner", 4 * embed),
        tied=fields.flag("tie_word_embeddings", True),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon"),
        learned_positions=True,
        max_length=length,
        qkv_bias=True,
        output_bias=True,
        activation=fields.choice("activation_function", ACTIVATIONS),  # type: ignore[arg-type]
        gated=False,
        mlp_bias=True,
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab,
        "n_embd": sizes.embed,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "n_positions": sizes.max_length or 1024,
        "n_ctx": sizes.max_length or 1024,
        "n_inner": sizes.mlp,
        "tie_word_embeddings": sizes.tied,
        "layer_norm_epsilon": sizes.norm_eps,
        "activation_function": _NAMES[sizes.activation],
    }


GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    _read,
    _write,
    (
        embedding("transformer.wte", "embedding"),
        embedding("transformer.wpe", "positions"),
        *norm(_LAYER + "ln_1", "blocks.attention_norm"),
        *norm(_LAYER + "ln_2", "blocks.mlp_norm"),
        *linear(
            _LAYER + "attn.c_attn",
            "attention.query",
            "attention.key",
            "attention.value",
            rows=fused,
            outputs_last=True,
        ),
        *linear(_LAYER + "attn.c_proj", "attention.output", outputs_last=True),
        *linear(_LAYER + "mlp.c_fc", "mlp.up", outputs_last=True),
        *linear(_LAYER + "mlp.c_proj", "mlp.down", outputs_last=True),
        *norm("transformer.ln_f", "final_norm"),
        embedding("lm_head", "unembedding"),
    ),
    prefix="transformer.",
    classifier="GPT2ForSequenceClassification",
    buffers=(_LAYER + "attn.bias", _LAYER + "attn.masked_bias"),  # the mask of causal attention
)
