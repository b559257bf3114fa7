"""Rotary embeddings and kinds of layers in configurations, as transformers 4 and 5 write them.

4 has `rope_theta`, `rope_scaling` and names that differ by family; 5 has `rope_parameters`, flat or for each
kind of layers apart. A file may have both, as those written here do; then they must agree. (transformers
4.57.6 and 5.24.0.)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpref.models.architecture import RopeScaling, TransformerSizes
from jaxpref.models.hub.fields import Fields

__all__ = [
    "Rope",
    "layer_pattern",
    "layer_types",
    "read_nested_rope",
    "read_rope",
    "scaling_fields",
    "write_rope",
]

FULL, LOCAL = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True)
class Rope:
    """Names of the fields in a family, and what its classes take where a file has none."""

    default_base: float  # in both generations
    base: tuple[str, ...] = ("rope_theta",)
    fraction: tuple[str, ...] = ()  # none: all of each head rotates
    default_fraction: float = 1.0
    kinds: tuple[str, ...] = ("default", "linear", "llama3")


def read_rope(
    fields: Fields, rope: Rope, newer: Any = None, *, long: bool = False, scaled: bool = True
) -> dict[str, Any]:
    """`rope_base`, `rope_fraction` and `rope_scaling` of `TransformerSizes`.

    Args:
      newer: the parameters of transformers 5 of one kind of layers; None: those in `rope_parameters`.
      long: take the long factors of longrope.
      scaled: whether `rope_scaling` of transformers 4 is of these layers.

    Raises:
      ValueError: another kind of rotation, a field of it that is not known, or two forms that differ.
    """
    older = _older(fields, rope, long, scaled)
    newer = fields.take("rope_parameters", None) if newer is None else newer
    if newer is not None:
        older = _joined(fields, older, _newer(fields, rope, newer, long))
    return _with_base(fields, rope, older)


def read_nested_rope(fields: Fields, kinds: Sequence[str]) -> dict[str, Any]:
    """`rope_parameters` by kind of layers; empty where the file has the fields of transformers 4 only."""
    nested = fields.take("rope_parameters", None)
    if nested is None:
        return {}
    if not isinstance(nested, dict) or set(nested) != set(kinds):
        raise ValueError(
            f"{fields.where}: rope_parameters={nested!r}: expected those of {' and '.join(kinds)} apart"
        )
    return nested


def _older(fields: Fields, rope: Rope, long: bool, scaled: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if (base := fields.agreed(rope.base)) is not None:
        given["rope_base"] = float(base)
    if rope.fraction and (fraction := fields.agreed(rope.fraction)) is not None:
        given["rope_fraction"] = float(fraction)
    scaling = fields.take("rope_scaling", None)
    if scaling is not None and scaled:
        given["rope_scaling"] = read_scaling(fields, "rope_scaling", scaling, rope.kinds, long)
    return given


def _newer(fields: Fields, rope: Rope, values: Any, long: bool) -> dict[str, Any]:
    if not isinstance(values, dict) or any(isinstance(v, dict) for v in values.values()):
        raise ValueError(f"{fields.where}: rope_parameters={values!r}: expected one rotation for all")
    rest = dict(values)
    given: dict[str, Any] = {}
    if (base := rest.pop("rope_theta", None)) is not None:
        given["rope_base"] = float(base)
    fraction = rest.pop("partial_rotary_factor", None)
    if fraction is not None and (rope.fraction or fraction != 1.0):
        if not rope.fraction:
            raise ValueError(
                f"{fields.where}: rope_parameters.partial_rotary_factor={fraction}: not in this family"
            )
        given["rope_fraction"] = float(fraction)
    given["rope_scaling"] = read_scaling(fields, "rope_parameters", rest, rope.kinds, long)
    return given


def _joined(fields: Fields, older: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    for name in older.keys() & newer.keys():
        if older[name] != newer[name]:
            raise ValueError(
                f"{fields.where}: {name} is {older[name]} in the fields of transformers 4 and {newer[name]} "
                "in rope_parameters; the two must agree, correct the file"
            )
    return older | newer


def _with_base(fields: Fields, rope: Rope, given: dict[str, Any]) -> dict[str, Any]:
    if "rope_base" not in given:
        fields.say(
            f"neither {rope.base[0]} nor rope_parameters say the base of its rotations; "
            f"{rope.default_base:,.0f} is taken, as transformers 4 and 5 do for this family"
        )
    if rope.fraction:
        given = {"rope_fraction": rope.default_fraction} | given
    return {"rope_base": rope.default_base, "rope_scaling": None} | given


def read_scaling(
    fields: Fields, name: str, values: Any, kinds: Sequence[str], long: bool
) -> RopeScaling | None:
    """The scaling that a `rope_scaling` or the rest of a `rope_parameters` describes; None: there is none."""
    if not isinstance(values, dict):
        raise ValueError(f"{fields.where}: {name}: expected an object, got {values!r}")
    rest = {key: value for key, value in values.items() if value is not None}
    older, newer = rest.pop("type", None), rest.pop("rope_type", None)
    kind = newer or older or "default"
    kind = "longrope" if kind == "su" else kind  # its name when Phi-3 appeared
    if kind not in kinds:
        raise ValueError(
            f"{fields.where}: {name} is of the kind {kind!r}, which is not implemented for this family; only "
            f"{', '.join(kinds)}"
        )

    def number(key: str) -> float:
        value = rest.pop(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{fields.where}: {name}.{key}: expected a number, got {value!r}")
        return value

    scaling = None
    if kind == "linear":
        scaling = RopeScaling("linear", factor=float(number("factor")))
    elif kind == "llama3":
        scaling = RopeScaling(
            "llama3",
            factor=float(number("factor")),
            low_frequency_factor=float(number("low_freq_factor")),
            high_frequency_factor=float(number("high_freq_factor")),
            original_length=int(number("original_max_position_embeddings")),
        )
    elif kind == "longrope":
        scaling = _longrope(fields, name, rest, long)
    if rest:
        raise ValueError(
            f"{fields.where}: {name}.{min(rest)}={rest[min(rest)]!r} is not known for kind {kind!r}"
        )
    return scaling


def _longrope(fields: Fields, name: str, rest: dict[str, Any], long: bool) -> RopeScaling:
    """The field at the top says the original length (Phi-3), and the ratio of lengths says the factors."""
    original = fields.number("original_max_position_embeddings")
    if rest.pop("original_max_position_embeddings", original) != original:
        raise ValueError(
            f"{fields.where}: two original_max_position_embeddings that differ; correct the file"
        )
    ratio = fields.number("max_position_embeddings") / original
    implied = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    given = rest.pop("attention_factor", implied)
    if rest.pop("factor", ratio) != ratio or not math.isclose(given, implied, rel_tol=1e-12):
        raise ValueError(
            f"{fields.where}: {name}: a factor or attention_factor other than the lengths give (factor "
            f"{ratio}, attention_factor {implied}): transformers 4 and 5 differ, and it is not read here"
        )
    lists = []
    for key in ("short_factor", "long_factor"):
        values = rest.pop(key, None)
        if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
            raise ValueError(f"{fields.where}: {name}.{key}: expected a list of numbers, got {values!r}")
        lists.append(tuple(map(float, values)))
    return RopeScaling(
        "longrope",
        factor=ratio,
        original_length=original,
        short_factors=lists[0],
        long_factors=lists[1],
        attention_factor=implied,
        long=long,
    )


def write_rope(sizes: TransformerSizes, rope: Rope) -> dict[str, Any]:
    """The fields of both generations."""
    scaling = sizes.rope_scaling
    older: dict[str, Any] = dict.fromkeys(rope.base, sizes.rope_base)
    newer: dict[str, Any] = {"rope_theta": sizes.rope_base}
    if rope.fraction:
        older |= dict.fromkeys(rope.fraction, sizes.rope_fraction)
        newer["partial_rotary_factor"] = sizes.rope_fraction
    described = scaling_fields(scaling)
    older["rope_scaling"] = described
    if scaling is not None and scaling.kind == "longrope":
        older["original_max_position_embeddings"] = scaling.original_length
        older["max_position_embeddings"] = round(scaling.original_length * scaling.factor)
        # The 4 generation refuses a fourth field, and `rope_type`.
        older["rope_scaling"] = {"type": "longrope"} | {
            k: v for k, v in (described or {}).items() if "_factor" in k
        }
    newer |= described or {"rope_type": "default"}
    return older | {"rope_parameters": newer}


def scaling_fields(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """What `read_scaling` reads."""
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    if scaling.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    return {
        "rope_type": "longrope",
        "short_factor": list(scaling.short_factors),
        "long_factor": list(scaling.long_factors),
        "original_max_position_embeddings": scaling.original_length,
    }


def layer_pattern(window: int | None, local: Sequence[bool]) -> Mapping[str, Any]:
    """`sliding_window` and the period or pattern of `TransformerSizes`, in the shortest form that says it."""
    if window is None or not any(local):
        return {}
    if all(local):
        return {"sliding_window": window}
    for period in range(2, len(local) + 1):
        if all(one == ((i + 1) % period != 0) for i, one in enumerate(local)):
            return {"sliding_window": window, "global_every": period}
    return {"sliding_window": window, "local_pattern": tuple(local)}


def layer_types(fields: Fields, layers: int, default: Sequence[bool]) -> list[bool]:
    """Which layers are local: by the field `layer_types`, else `default`."""
    types = fields.take("layer_types", None)
    if types is None:
        return list(default)
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {FULL, LOCAL}:
        raise ValueError(
            f"{fields.where}: layer_types={types!r}: expected {FULL!r} or {LOCAL!r} for each of "
            f"{layers} layers"
        )
    return [one == LOCAL for one in types]
