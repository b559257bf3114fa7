"""Mistral (arXiv:2310.06825): a Llama, through a window on all layers where the file gives one."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, read_rope, write_rope

_ROPE = Rope(10_000.0)


def _read(fields: Fields) -> TransformerSizes:
    window = fields.nullable("sliding_window", 4096)
    return read_sizes(fields, kv_heads=8, sliding_window=window, **read_rope(fields, _ROPE))


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return write_sizes(sizes) | write_rope(sizes, _ROPE) | {"sliding_window": sizes.sliding_window}


MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    _read,
    _write,
    gated_decoder(),
    buffers=("model.layers.{}.self_attn.rotary_emb.inv_freq",),
)
