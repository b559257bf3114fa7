"""A family of models: how its configuration says the sizes, and what its files call the weights."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.tensors import Tensor, embedding, linear, norm

__all__ = ["ACTIVATIONS", "SCORE", "Family", "gated_decoder", "read_sizes", "write_sizes"]

SCORE = Tensor("score.weight", ("head",))  # the head of a reward model, in all families

# The tanh approximation has three names; "gelu_fast" has sqrt(2 / pi) to ten digits.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A row of the table `families.FAMILIES`.

    `read` and `write` go from a configuration to sizes and back; the fields that `write` gives are those of
    transformers 4 and 5 at once. `prefix` begins the names of all tensors but the head, and folders of the
    bare model leave it out. `buffers`: tensors without weights in files of some versions. `long`: `read` has
    a second argument, whether to use the long factors.
    """

    model_type: str
    architecture: str
    read: Callable[..., TransformerSizes]
    write: Callable[[TransformerSizes], dict[str, Any]]
    tensors: Sequence[Tensor]
    prefix: str = "model."
    buffers: tuple[str, ...] = ()
    long: bool = False
    classifier: str = ""  # architecture with a linear head over the last token; "": that of most families

    @property
    def scorer(self) -> str:
        """The architecture of reward models."""
        return self.classifier or self.architecture.replace("ForCausalLM", "ForSequenceClassification")

    def name_of(self, target: str) -> str:
        """The tensor that holds one array of params whole."""
        return next(tensor.name for tensor in self.tensors if tensor.leaves == (target,))

    @property
    def head(self) -> str:
        return self.name_of("unembedding")


def read_sizes(
    fields: Fields, *, act: str = "hidden_act", kv_heads: int | None = None, tied: bool = False, **more: Any
) -> TransformerSizes:
    """Sizes from the field names that Llama gave the ecosystem; `more` are those of the family.

    `act`: field of the activation. Defaults of the family's class, where the file says nothing: `kv_heads`
    (None: as many as heads) and `tied`.
    """
    embed, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    head_dim = fields.number("head_dim", 0) or embed // heads
    return TransformerSizes(
        **{
            "vocab": fields.number("vocab_size"),
            "embed": embed,
            "layers": fields.number("num_hidden_layers"),
            "heads": heads,
            "kv_heads": fields.number("num_key_value_heads", kv_heads or heads),
            "head_dim": head_dim,
            "mlp": fields.number("intermediate_size"),
            "tied": fields.flag("tie_word_embeddings", tied),
            "norm_eps": fields.number("rms_norm_eps"),
            "activation": fields.choice(act, ACTIVATIONS),
        }
        | more
    )


def write_sizes(sizes: TransformerSizes, *, act: str = "hidden_act") -> dict[str, Any]:
    """The fields that `read_sizes` reads."""
    names = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
    return {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.embed,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": sizes.mlp,
        "tie_word_embeddings": sizes.tied,
        "rms_norm_eps": sizes.norm_eps,
        act: names[sizes.activation],
    }


def gated_decoder(*more: Sequence[Tensor], norms: Sequence[tuple[str, str]] = ()) -> tuple[Tensor, ...]:
    """The tensors that most families name as Llama does; `norms`: those around sublayers, if others."""
    layer = "model.layers.{}."
    norms = norms or (("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm"))
    return (
        embedding("model.embed_tokens", "embedding"),
        *(one for theirs, ours in norms for one in norm(layer + theirs, f"blocks.{ours}")),
        *linear(layer + "self_attn.q_proj", "attention.query"),
        *linear(layer + "self_attn.k_proj", "attention.key"),
        *linear(layer + "self_attn.v_proj", "attention.value"),
        *linear(layer + "self_attn.o_proj", "attention.output"),
        *norm(layer + "self_attn.q_norm", "blocks.attention.query_norm"),
        *norm(layer + "self_attn.k_norm", "blocks.attention.key_norm"),
        *linear(layer + "mlp.gate_proj", "mlp.gate"),
        *linear(layer + "mlp.up_proj", "mlp.up"),
        *linear(layer + "mlp.down_proj", "mlp.down"),
        *norm("model.norm", "final_norm"),
        embedding("lm_head", "unembedding"),
        *(one for rows in more for one in rows),
    )
