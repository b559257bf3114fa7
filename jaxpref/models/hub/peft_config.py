"""`adapter_config.json` of PEFT, as version 0.21 reads it: the fields of a LoRA, and no other adapter's."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["CONFIG", "TENSORS", "PeftConfig", "peft_config"]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_REPEATED_GROUP, _LONGEST = re.compile(r"\)\s*[*+{?]"), 500
# What changes the computation and is not read, with the values that change nothing.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "lora_bias": (False,),
    "megatron_config": (None,),
    "monteclora_config": (None,),
    "peft_type": ("LORA",),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, {}),
    "use_bdlora": (None, False),
    "use_dora": (False,),
    "use_qalora": (False,),
    "velora_config": (None,),
}
_READ = {
    "alpha_pattern",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "use_rslora",
}
# Ways to begin that move the base, so that the adapter stands on another one than the folder has.
_MOVES_THE_BASE = re.compile(r"pissa.*|olora|loftq|corda|lora_ga|milora.*")
# What the tensors say themselves (which modules there are), what only training needs, and who made it.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",  # the file has the head beside the embedding then
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",  # how the base keeps its matrices, not the adapter
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}


class PeftConfig(NamedTuple):
    rank: int
    alpha: float
    rank_stabilised: bool
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module by its name in the model; the first pattern that fits it counts."""
        rank, alpha = _first(self.ranks, module, self.rank), _first(self.alphas, module, self.alpha)
        return rank, alpha / (rank**0.5 if self.rank_stabilised else rank)


def _first(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def peft_config(fields: Mapping[str, Any], where: str, ignore: Sequence[str] = ()) -> PeftConfig:
    """The fields that say how tensors are multiplied.

    Raises:
      ValueError: another kind of adapter, a field that changes the computation and is not read or not known,
        or a value that is none.
    """
    for name, allowed in _MUST_BE.items():
        if name in fields and name not in ignore and fields[name] not in allowed:
            raise ValueError(
                f"{where}: {name}={fields[name]!r} is not read, only {allowed[0]!r}; merge the adapter "
                "with PEFT (merge_and_unload) and give the merged folder"
            )
    start = fields.get("init_lora_weights", True)
    if isinstance(start, str) and _MOVES_THE_BASE.fullmatch(start):
        raise ValueError(
            f"{where}: init_lora_weights={start!r} changed the base as training began, and this is an "
            "adapter of the changed one; save it with path_initial_model_for_weight_conversion= of PEFT"
        )
    known = _READ | _MUST_BE.keys() | _WITHOUT_EFFECT | set(ignore)
    if unknown := sorted(fields.keys() - known):
        raise ValueError(
            f"{where}: the field {unknown[0]}={fields[unknown[0]]!r} is not known here; if it changes "
            f"nothing, pass ignore=({unknown[0]!r},)"
        )
    return PeftConfig(
        _number(fields, "r", 8, where),
        _number(fields, "lora_alpha", 8, where),
        bool(fields.get("use_rslora", False)),
        float(fields.get("lora_dropout") or 0.0),
        _patterns(fields, "rank_pattern", where),
        _patterns(fields, "alpha_pattern", where),
    )


def _number(fields: Mapping[str, Any], name: str, default: int, where: str) -> Any:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{where}: {name}={value!r}: expected a positive number")
    if name == "r" and not isinstance(value, int):
        raise ValueError(f"{where}: r={value!r}: expected an integer")
    return value


def _patterns(fields: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    given = fields.get(name) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{where}: {name}={given!r}: expected patterns of modules with numbers")
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where}: {name}: {pattern!r} is no pattern: {error}") from error
        if len(pattern) > _LONGEST or _REPEATED_GROUP.search(pattern):
            raise ValueError(
                f"{where}: {name}: {pattern[:80]!r}: patterns with a repeated group, which may take for "
                "ever to match, or of more than 500 characters are not read"
            )
        _number(given, pattern, 0, f"{where}: {name}")
    return given
