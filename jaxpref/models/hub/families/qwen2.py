"""Qwen2 and Qwen2.5 (arXiv:2412.15115): biases of queries, keys and values, windows on upper layers."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import FULL, LOCAL, Rope, layer_pattern, layer_types, read_rope, write_rope

_ROPE = Rope(10_000.0)


def read_windows(fields: Fields) -> dict[str, Any]:
    """None without `use_sliding_window`; else by `layer_types`, or from layer `max_window_layers` on."""
    layers = fields.number("num_hidden_layers")
    used, first = fields.flag("use_sliding_window", False), fields.number("max_window_layers", 28)
    window = fields.nullable("sliding_window", 4096)
    window = window if used else None
    local = layer_types(fields, layers, [window is not None and i >= first for i in range(layers)])
    if window is None and any(local):
        raise ValueError(f"{fields.where}: layer_types has {LOCAL!r}, but there is no window to use")
    return dict(layer_pattern(window, local))


def write_windows(sizes: TransformerSizes) -> dict[str, Any]:
    """`max_window_layers` says the same as `layer_types` wherever it can."""
    local = sizes.local_layers
    return {
        "use_sliding_window": sizes.sliding_window is not None,
        "sliding_window": sizes.sliding_window,
        "max_window_layers": local.index(True) if any(local) else sizes.layers,
        "layer_types": [LOCAL if one else FULL for one in local],
    }


def _read(fields: Fields) -> TransformerSizes:
    fields.must("use_mrope", False)
    return read_sizes(fields, kv_heads=32, qkv_bias=True, **read_windows(fields), **read_rope(fields, _ROPE))


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    return write_sizes(sizes) | write_rope(sizes, _ROPE) | write_windows(sizes)


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _read, _write, gated_decoder())
