"""Learning rates that methods were published with, each with its source."""

from typing import NamedTuple

__all__ = ["ADAPTER_FACTOR", "rate_of"]


class Rate(NamedTuple):
    """Peak learning rate of all weights with Adam, and where it is from."""

    value: float
    source: str


_HANDBOOK = Rate(5e-7, "alignment-handbook, recipes/zephyr-7b-beta/dpo/config_full.yaml")
RATES = {
    "sft": Rate(2e-5, "alignment-handbook, recipes/zephyr-7b-beta/sft/config_full.yaml"),
    "dpo": _HANDBOOK,
    "ipo": _HANDBOOK,
    "kto": Rate(5e-6, "arXiv:2402.01306"),
    "bco": Rate(5e-7, "arXiv:2404.04656, App. C"),
    "bco_pair": Rate(5e-7, "arXiv:2404.04656, App. C"),
    "simpo": Rate(1e-6, "arXiv:2405.14734, App. B (Llama-3-Instruct)"),
    "orpo": Rate(5e-6, "arXiv:2403.07691, App. C"),
    "cpo": Rate(1e-4, "arXiv:2401.08417, released code"),
    "nca": Rate(5e-6, "arXiv:2402.05369, App. C"),
    "exo": Rate(1e-6, "arXiv:2402.00856, App. B"),
    "apo_zero": Rate(2e-7, "arXiv:2408.06266"),
    "apo_down": Rate(2e-7, "arXiv:2408.06266"),
    "discopop": Rate(5e-7, "arXiv:2406.08414"),
    "dpop": Rate(5e-5, "arXiv:2402.13228"),
    "alpha_po": Rate(7e-7, "arXiv:2501.03884, Table 3"),
    "mipo": Rate(5e-7, "arXiv:2409.17545, released configuration"),
    "ln_dpo": Rate(5e-7, "arXiv:2411.15124, Tulu 3's recipe (8B)"),
    "mixed_po": Rate(5e-6, "arXiv:2411.10442, Sec. 7"),
    "sppo_hard": Rate(5e-7, "arXiv:2405.00675, Sec. 5"),
    "dpo_sft": Rate(5e-7, "arXiv:2405.16436, App. E.1"),
    "wpo": Rate(5e-7, "arXiv:2406.11827, released script (Mistral)"),
    "pro": Rate(5e-6, "arXiv:2306.17492, released code"),
    "general_preference": Rate(2e-6, "arXiv:2410.02197, App. E.3"),
    "bradley_terry": Rate(2e-6, "arXiv:2410.02197, App. E.3 (its Bradley-Terry model)"),
}
# Adapters learn with ten times the rate: config_qlora.yaml of the handbook has 5e-6, config_full.yaml 5e-7.
ADAPTER_FACTOR = 10.0


def rate_of(method: str) -> Rate:
    """That of the method, else DPO's."""
    none = f"none published for {method}; DPO's, {_HANDBOOK.source}"
    return RATES.get(method, Rate(_HANDBOOK.value, none))
