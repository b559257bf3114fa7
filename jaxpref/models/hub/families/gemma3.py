"""Gemma 3, text (arXiv:2503.19786): two rope bases, scaled on full layers only, and norms of heads."""

from typing import Any

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.families.gemma2 import FOUR_NORMS, read_shared, write_shared
from jaxpref.models.hub.family import Family, gated_decoder, read_sizes
from jaxpref.models.hub.fields import Fields
from jaxpref.models.hub.positions import FULL, LOCAL, Rope, read_nested_rope, read_rope, scaling_fields

_ROPE = Rope(1_000_000.0, kinds=("default", "linear"))
_LOCAL = Rope(10_000.0, base=("rope_local_base_freq",), kinds=("default",))


def _read(fields: Fields) -> TransformerSizes:
    # The period has two names and is written beside `layer_types`, which decides.
    period = fields.agreed(("sliding_window_pattern", "_sliding_window_pattern"), 6)
    shared = read_shared(fields, window=4096, period=period, caps=(None, None))
    nested = read_nested_rope(fields, (FULL, LOCAL))
    full = read_rope(fields, _ROPE, nested.get(FULL))
    local = read_rope(fields, _LOCAL, nested.get(LOCAL), scaled=False)
    if "sliding_window" in shared:
        full["local_rope_base"] = local["rope_base"]
    return read_sizes(fields, qk_norm="head", **shared, **full)


def _write(sizes: TransformerSizes) -> dict[str, Any]:
    local, scaling = sizes.local_rope_base or sizes.rope_base, scaling_fields(sizes.rope_scaling)
    every = sizes.global_every or 0
    return write_shared(sizes) | {
        # Only where it says the same as `layer_types`.
        **({"sliding_window_pattern": every, "_sliding_window_pattern": every} if every else {}),
        "rope_theta": sizes.rope_base,
        "rope_local_base_freq": local,
        "rope_scaling": scaling,
        "rope_parameters": {
            FULL: {"rope_theta": sizes.rope_base} | (scaling or {"rope_type": "default"}),
            LOCAL: {"rope_theta": local, "rope_type": "default"},
        },
    }


GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    _read,
    _write,
    gated_decoder(norms=FOUR_NORMS),
    classifier="Gemma3TextForSequenceClassification",
)
