"""SmolLM3: a Llama of which some layers do not rotate."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.families.qwen2 import write_windows
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes, write_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import Rope, layer_pattern, layer_types, read_rope, write_rope

_ROPE = Rope(2_000_000.0)


def _read(fields: Fields) -> TransformerSizes:
    layers, bias = fields.number("num_hidden_layers"), fields.flag("attention_bias", False)
    every = fields.number("no_rope_layer_interval", 4)
    rotates = fields.take("no_rope_layers", [int((i + 1) % every != 0) for i in range(layers)])
    if not isinstance(rotates, list) or len(rotates) != layers or not set(rotates) <= {0, 1}:
        raise ValueError(
            f"{fields.where}: no_rope_layers={rotates!r}: expected 1 (rotates) or 0 for each of "
            f"{layers} layers"
        )
    used, window = fields.flag("use_sliding_window", False), fields.nullable("sliding_window", None)
    fields.take("max_window_layers", None)  # of Qwen, and read by neither generation
    window = window if used else None
    local = layer_types(fields, layers, [window is not None and not one for one in rotates])
    if window is None and any(local):
        raise ValueError(f"{fields.where}: layer_types has local layers, but there is no window to use")
    return read_sizes(
        fields,
        kv_heads=4,
        tied=True,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        rope_pattern=None if all(rotates) else tuple(map(bool, rotates)),
        **layer_pattern(window, local),
        **read_rope(fields, _ROPE),
    )


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    rotates = sizes.rope_pattern or (True,) * sizes.layers
    fields = {
        "attention_bias": sizes.qkv_bias,
        "mlp_bias": sizes.mlp_bias,
        "no_rope_layers": [int(one) for one in rotates],
    }
    windows = write_windows(sizes)
    del windows["max_window_layers"]
    return write_sizes(sizes) | write_rope(sizes, _ROPE) | windows | fields


SMOLLM3 = Family("smollm3", "SmolLM3ForCausalLM", _read, _write, gated_decoder())
