"""Loss values and gradients of TRL, as committed numbers to test against.

    python3.11 -m venv trl-values && . trl-values/bin/activate
    pip install torch==2.13.0 trl==0.24.0 transformers==4.57.1 datasets==4.4.1 accelerate==1.11.0
    python third_party/trl/dpo_loss_values.py third_party/trl/dpo_loss_values.json

TRL 0.24 is the last version whose loss is a callable method. The methods are called unbound, with a
stand-in for the trainer that carries only the attributes they read; the formulas are TRL's, none is
written here. Arithmetic is float64 on the CPU. `gradient_*` is the gradient of the summed losses.

Two lines of TRL's trainers lie outside the methods and are repeated here: logps are divided by the
number of response tokens before `ipo` (dpo_trainer.py, line 1674) and before CPO's `ipo` and `simpo`
(cpo_trainer.py, line 839). The cases `ipo_sum` skip that division, as TRL did before it was added.
"""

import importlib.metadata
import json
import math
import pathlib
import sys
import types

import torch
from trl import CPOTrainer, DPOTrainer, KTOTrainer, ORPOTrainer
from trl.trainer.dpo_config import FDivergenceType

NAMES = ("chosen_logps", "rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
PACKAGES = ("trl", "torch", "transformers")


def rows() -> dict[str, torch.Tensor]:
    """Sixteen rows of summed logps (nats) and lengths: ten ordinary ones, six extreme ones."""
    generator = torch.Generator().manual_seed(20231218)
    lengths = torch.randint(3, 40, (2, 10), generator=generator)
    per_token = -0.2 - 2 * torch.rand((2, 10), generator=generator, dtype=torch.float64)
    drift = 0.15 * torch.randn((2, 10), generator=generator, dtype=torch.float64)
    reference = (per_token * lengths).round(decimals=6)
    policy = torch.clamp(((per_token + drift) * lengths).round(decimals=6), max=-1e-3)
    extreme = torch.tensor(
        [
            [-12.5, -40.0, -12.5, -40.0],  # policy equals reference
            [-30.0, -30.0, -30.0, -30.0],  # all equal
            [-1.0, -10_000.0, -5_000.0, -5_000.0],  # chosen far ahead
            [-10_000.0, -1.0, -5_000.0, -5_000.0],  # rejected far ahead
            [-1e-3, -2e-3, -3e-3, -4e-3],  # near certainty
            [-745.25, -0.5, -0.25, -745.0],  # exp underflows
        ],
        dtype=torch.float64,
    )
    logps = torch.cat([torch.stack([policy[0], policy[1], reference[0], reference[1]], 1), extreme])
    extreme_lengths = torch.tensor([[5, 16], [7, 9], [1, 400], [400, 1], [2, 3], [31, 1]])
    lengths = torch.cat([lengths.T, extreme_lengths])
    return {
        **{name: logps[:, column] for column, name in enumerate(NAMES)},
        "chosen_lengths": lengths[:, 0],
        "rejected_lengths": lengths[:, 1],
    }


def trainer(**attributes: object) -> types.SimpleNamespace:
    """What the methods read from `self`."""
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"), use_distributed=False, gather_for_metrics=lambda values: values
    )
    return types.SimpleNamespace(accelerator=accelerator, reference_free=False, **attributes)


def numbers(values: torch.Tensor) -> list[float | None]:
    """JSON has no infinity and no NaN: null where TRL's value is not finite."""
    return [value if math.isfinite(value) else None for value in values.detach().tolist()]


def case(name: str, source: str, parameters: dict, evaluate, leaves: dict[str, torch.Tensor]) -> dict:
    leaves = {key: value.clone().requires_grad_() for key, value in leaves.items()}
    losses = evaluate(leaves)
    gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    result: dict = {"name": name, "source": source, "parameters": parameters, "losses": numbers(losses)}
    for key, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            result[f"gradient_{key}"] = numbers(gradient)
    return result


def dpo_case(name: str, data: dict, loss_type: str, *, mean: bool = False, **parameters) -> dict:
    def evaluate(leaves):
        policy_chosen, policy_rejected, reference_chosen, reference_rejected = (
            leaves[key] / (data["chosen_lengths" if "chosen" in key else "rejected_lengths"] if mean else 1)
            for key in NAMES
        )
        stand_in = trainer(
            beta=parameters["beta"],
            label_smoothing=parameters.get("label_smoothing", 0.0),
            f_divergence_type=FDivergenceType(parameters.get("f_divergence_type", "reverse_kl")),
            f_divergence_params=parameters.get("f_divergence_params"),
            args=types.SimpleNamespace(discopop_tau=parameters.get("discopop_tau", 0.05)),
        )
        losses, _, _ = DPOTrainer.dpo_loss(
            stand_in, policy_chosen, policy_rejected, reference_chosen, reference_rejected, loss_type
        )
        return losses

    leaves = {key: data[key] for key in NAMES}
    return case(
        name, f"DPOTrainer.dpo_loss, {loss_type}", {**parameters, "per_token": mean}, evaluate, leaves
    )


def cpo_case(name: str, data: dict, loss_type: str, *, mean: bool = False, **parameters) -> dict:
    def evaluate(leaves):
        chosen, rejected = leaves["chosen_logps"], leaves["rejected_logps"]
        if mean:
            chosen, rejected = chosen / data["chosen_lengths"], rejected / data["rejected_lengths"]
        stand_in = trainer(
            **{"alpha": 0.0, "label_smoothing": 0.0, "simpo_gamma": 0.5, **parameters, "loss_type": loss_type}
        )
        losses, _, _ = CPOTrainer.cpo_loss(stand_in, chosen, rejected)
        return losses

    leaves = {key: data[key] for key in NAMES[:2]}
    return case(
        name, f"CPOTrainer.cpo_loss, {loss_type}", {**parameters, "per_token": mean}, evaluate, leaves
    )


def kto_case(name: str, data: dict, **parameters) -> dict:
    """KTO on the ten ordinary rows: chosen responses are desirable, rejected ones not.

    Twenty losses, chosen first. The KL estimate is max(mean of the chosen log-ratios + `kl_shift`, 0).
    """

    def evaluate(leaves):
        stand_in = trainer(calculate_KL=True, loss_type="kto", **parameters)
        kl_logps = (leaves["chosen_logps"], leaves["reference_chosen_logps"])
        losses, _, _, _ = KTOTrainer.kto_loss(
            stand_in,
            leaves["chosen_logps"],
            leaves["rejected_logps"],
            kl_logps[0] + parameters["kl_shift"],
            leaves["reference_chosen_logps"],
            leaves["reference_rejected_logps"],
            kl_logps[1],
        )
        return losses

    return case(name, "KTOTrainer.kto_loss", parameters, evaluate, {key: data[key][:10] for key in NAMES})


def orpo_case(name: str, data: dict, **parameters) -> dict:
    """The odds-ratio term on mean logps per token (TRL's sign: it is subtracted from the NLL)."""

    def evaluate(leaves):
        chosen = leaves["chosen_logps"] / data["chosen_lengths"]
        rejected = leaves["rejected_logps"] / data["rejected_lengths"]
        return ORPOTrainer.odds_ratio_loss(trainer(**parameters), chosen, rejected)[0]

    leaves = {key: data[key] for key in NAMES[:2]}
    return case(name, "ORPOTrainer.odds_ratio_loss", {**parameters, "per_token": True}, evaluate, leaves)


def cases(data: dict) -> list[dict]:
    return [
        dpo_case("sigmoid", data, "sigmoid", beta=0.1),
        dpo_case("sigmoid_beta_0.5", data, "sigmoid", beta=0.5),
        dpo_case("sigmoid_smoothed", data, "sigmoid", beta=0.1, label_smoothing=0.1),
        dpo_case("robust", data, "robust", beta=0.1, label_smoothing=0.1),
        dpo_case("hinge", data, "hinge", beta=0.1),
        dpo_case("ipo_mean", data, "ipo", mean=True, beta=0.1),
        dpo_case("ipo_sum", data, "ipo", beta=0.1),
        dpo_case("exo_pair", data, "exo_pair", beta=0.1, label_smoothing=0.1),
        dpo_case("nca_pair", data, "nca_pair", beta=0.1),
        dpo_case("sppo_hard", data, "sppo_hard", beta=0.1),
        dpo_case("aot", data, "aot", beta=0.1),
        dpo_case("aot_pair", data, "aot_pair", beta=0.1),
        dpo_case("apo_zero", data, "apo_zero", beta=0.1),
        dpo_case("apo_down", data, "apo_down", beta=0.1),
        dpo_case("discopop", data, "discopop", beta=0.1, discopop_tau=0.05),
        dpo_case("js_divergence", data, "sigmoid", beta=0.1, f_divergence_type="js_divergence"),
        dpo_case(
            "alpha_divergence",
            data,
            "sigmoid",
            beta=0.1,
            f_divergence_type="alpha_divergence",
            f_divergence_params={"alpha_divergence_coef": 0.5},
        ),
        cpo_case("cpo_sigmoid", data, "sigmoid", beta=0.1),
        cpo_case("cpo_hinge", data, "hinge", beta=0.1),
        cpo_case("cpo_simpo", data, "simpo", mean=True, beta=2.0, simpo_gamma=0.5),
        cpo_case("cpo_simpo_paper", data, "simpo", mean=True, beta=2.5, simpo_gamma=1.375),
        cpo_case("cpo_alphapo", data, "simpo", mean=True, beta=2.5, simpo_gamma=0.25, alpha=0.25),
        kto_case("kto", data, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0, kl_shift=2.0),
        kto_case("kto_weighted", data, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, kl_shift=-9.0),
        orpo_case("orpo_odds_ratio", data, beta=0.1),
    ]


def main(output: str) -> None:
    data = rows()
    document = {
        "about": "Loss values and gradients of TRL in float64, made by dpo_loss_values.py",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "units": "logps: nats, summed over response tokens; lengths: tokens; null: not finite in TRL",
        "inputs": {key: value.tolist() for key, value in data.items()},
        "cases": cases(data),
    }
    pathlib.Path(output).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python dpo_loss_values.py OUTPUT.json")
    main(sys.argv[1])
