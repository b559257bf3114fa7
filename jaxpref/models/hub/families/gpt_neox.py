"""GPT-NeoX (arXiv:2204.06745) and Pythia (arXiv:2304.01373): parallel residuals, partial rotations."""

from typing import Any

import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import ACTIVATIONS, Family
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope
from jaxpref.models.hub.tensors import embedding, linear, norm

# Files of 4.x have both names of each; those of 5.x only `rope_parameters`.
_ROPE = Rope(
    10_000.0,
    base=("rotary_emb_base", "rope_theta"),
    fraction=("rotary_pct", "partial_rotary_factor"),
    default_fraction=0.25,
    kinds=("default", "linear"),
)
_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
_LAYER = "gpt_neox.layers.{}."


def _read(fields: Fields) -> TransformerSizes:
    fields.must("is_decoder", False, True)  # no difference without cross-attention
    embed, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    bias = fields.flag("attention_bias", True)
    return TransformerSizes(
        vocab=fields.number("vocab_size"),
        embed=embed,
        layers=fields.number("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=embed // heads,
        mlp=fields.number("intermediate_size"),
        tied=fields.flag("tie_word_embeddings", False),
        norm="layer",
        norm_eps=fields.number("layer_norm_eps"),
        qkv_bias=bias,
        output_bias=bias,
        activation=fields.choice("hidden_act", ACTIVATIONS),  # type: ignore[arg-type]
        gated=False,
        mlp_bias=True,
        parallel_residual=fields.flag("use_parallel_residual", True),
        **read_rope(fields, _ROPE),
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return write_rope(sizes, _ROPE) | {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.embed,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.mlp,
        "tie_word_embeddings": sizes.tied,
        "layer_norm_eps": sizes.norm_eps,
        "attention_bias": sizes.qkv_bias,
        "hidden_act": _NAMES[sizes.activation],
        "use_parallel_residual": sizes.parallel_residual,
    }


def _head_by_head(sizes: TransformerSizes) -> tuple[np.ndarray, ...]:
    """Each head's query, key and value rows follow one another."""
    rows = np.arange(3 * sizes.heads * sizes.head_dim).reshape(sizes.heads, 3, sizes.head_dim)
    return tuple(rows[:, i].reshape(-1) for i in range(3))


GPT_NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    _read,
    _write,
    (
        embedding("gpt_neox.embed_in", "embedding"),
        *norm(_LAYER + "input_layernorm", "blocks.attention_norm"),
        *norm(_LAYER + "post_attention_layernorm", "blocks.mlp_norm"),
        *linear(
            _LAYER + "attention.query_key_value",
            "attention.query",
            "attention.key",
            "attention.value",
            rows=_head_by_head,
        ),
        *linear(_LAYER + "attention.dense", "attention.output"),
        *linear(_LAYER + "mlp.dense_h_to_4h", "mlp.up"),
        *linear(_LAYER + "mlp.dense_4h_to_h", "mlp.down"),
        *norm("gpt_neox.final_layer_norm", "final_norm"),
        embedding("embed_out", "unembedding"),
    ),
    prefix="gpt_neox.",
    # The causal mask, what stands for minus infinity in it, and rotary frequencies.
    buffers=tuple(
        _LAYER + name for name in ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")
    ),
)
