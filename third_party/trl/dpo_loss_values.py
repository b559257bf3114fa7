"""Loss values and gradients of TRL, as committed numbers to test against.

    python3.11 -m venv trl-values && . trl-values/bin/activate
    pip install torch==2.13.0 trl==0.24.0 transformers==4.57.1 datasets==4.4.1 accelerate==1.11.0
    python third_party/trl/dpo_loss_values.py third_party/trl/dpo_loss_values.json

The losses of 0.24 are callable methods (from 0.29 on they stand inline; see dpo_loss_values_new.py). The
methods are called unbound, with a stand-in for the trainer that carries only the attributes they read; the
formulas are TRL's, none is written here. Arithmetic is float64 on the CPU, but TRL keeps BCO's running mean
in float32. `gradient_*` is the gradient of the summed losses.

`wpo`, `ld_alpha` and `rpo` run the whole `get_batch_loss_metrics`, on logits of eight tokens that are made so
that the response's tokens have the log-probs of `tokens`; each row is a batch of its own.

Two lines of TRL's trainers lie outside the methods and are repeated here: logps are divided by the
number of response tokens before `ipo` (dpo_trainer.py, line 1674) and before CPO's `ipo` and `simpo`
(cpo_trainer.py, line 839). The cases `ipo_sum` skip that division, as TRL did before it was added.
"""

import collections
import functools
import importlib.metadata
import json
import math
import pathlib
import sys
import types

import torch
from trl import BCOTrainer, CPOTrainer, DPOTrainer, KTOTrainer, ORPOTrainer, RewardTrainer
from trl.trainer.dpo_config import FDivergenceType
from trl.trainer.utils import RunningMoments

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


def numbers(values: torch.Tensor) -> list:
    """JSON has no infinity and no NaN: null where TRL's value is not finite."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
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


def bco_pair_cases(data: dict, **parameters) -> list[dict]:
    """Three steps of one trainer, on 4, 4 and 2 ordinary rows; `shift` is the running mean it used."""
    stand_in = trainer(f_divergence_type=FDivergenceType("reverse_kl"), label_smoothing=0.0, **parameters)
    stand_in.running = RunningMoments(stand_in.accelerator)
    found = []
    for step, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 10))):

        def evaluate(leaves):
            return DPOTrainer.dpo_loss(stand_in, *(leaves[key] for key in NAMES), "bco_pair")[0]

        result = case(
            f"bco_pair_step_{step}",
            "DPOTrainer.dpo_loss, bco_pair",
            parameters,
            evaluate,
            {k: data[k][rows] for k in NAMES},
        )
        found.append(result | {"rows": [rows.start, rows.stop], "shift": float(stand_in.running.mean)})
    return found


def bco_cases(data: dict, **parameters) -> list[dict]:
    """Two steps of unpaired BCO, the second with classes of unequal size. Losses: the desirable first."""
    stand_in = trainer(match_underlying_distribution=False, **parameters)
    stand_in.running = RunningMoments(stand_in.accelerator)
    found = []
    for step, (chosen, rejected) in enumerate(((slice(0, 5), slice(0, 5)), (slice(5, 10), slice(5, 8)))):

        def evaluate(leaves):
            return BCOTrainer.bco_loss(stand_in, *(leaves[key] for key in NAMES), None, None)[0]

        leaves = {key: data[key][rejected if "rejected" in key else chosen] for key in NAMES}
        result = case(f"bco_step_{step}", "BCOTrainer.bco_loss", parameters, evaluate, leaves)
        rows = {"chosen_rows": [chosen.start, chosen.stop], "rejected_rows": [rejected.start, rejected.stop]}
        found.append(result | rows | {"shift": float(stand_in.running.mean)})
    return found


def unpaired_apo_case(name: str, data: dict, **parameters) -> dict:
    """Twenty losses, as in `kto_case`."""

    def evaluate(leaves):
        stand_in = trainer(calculate_KL=False, loss_type="apo_zero_unpaired", **parameters)
        policy, reference = [leaves[key] for key in NAMES[:2]], [leaves[key] for key in NAMES[2:]]
        return KTOTrainer.kto_loss(stand_in, *policy, None, *reference, None)[0]

    leaves = {key: data[key][:10] for key in NAMES}
    return case(name, "KTOTrainer.kto_loss, apo_zero_unpaired", parameters, evaluate, leaves)


def reward_case(name: str, rewards: dict, centering: float | None = None, *, margins: bool = False) -> dict:
    """The reward trainer's loss; it returns a mean, so each row is a batch of its own."""

    def evaluate(leaves):
        losses = []
        for row in range(len(rewards["margins"])):
            logits = torch.stack([leaves["chosen_rewards"][row], leaves["rejected_rewards"][row]])[:, None]
            model = types.SimpleNamespace(training=False)
            stand_in = trainer(
                model=model,
                args=types.SimpleNamespace(center_rewards_coefficient=centering),
                _total_train_tokens=0,
                _metrics={"eval": collections.defaultdict(list)},
            )
            stand_in.accelerator.gather = stand_in.accelerator.gather_for_metrics
            given = {"margin": rewards["margins"][row : row + 1]} if margins else {}

            def forward(logits=logits, **_):
                return types.SimpleNamespace(logits=logits)

            losses.append(RewardTrainer.compute_loss(stand_in, forward, given))
        return torch.stack(losses)

    leaves = {key: rewards[key] for key in ("chosen_rewards", "rejected_rewards")}
    parameters = {"center_rewards_coefficient": centering, "margins": margins}
    return case(name, "RewardTrainer.compute_loss", parameters, evaluate, leaves)


def token_logits(logps: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """Normalised logits of eight tokens, token 1 with log-prob `logps`; `rest` divides what remains."""
    others = torch.log(-torch.expm1(logps))[..., None] + torch.log_softmax(rest, -1)
    return torch.cat([others[..., :1], logps[..., None], others[..., 1:]], -1)


def tokens() -> dict[str, torch.Tensor]:
    """Six rows of at most seven tokens (nats), 0 past the end; `*_rest`: logits of the other tokens."""
    generator = torch.Generator().manual_seed(20240617)
    lengths = torch.tensor([[7, 3], [2, 6], [4, 4], [1, 7], [5, 1], [3, 2]]).T
    scored = torch.arange(7) < lengths[..., None]
    policy = (-0.05 - 3 * torch.rand((2, 6, 7), generator=generator, dtype=torch.float64)).round(decimals=6)
    drift = 0.5 * torch.randn((2, 6, 7), generator=generator, dtype=torch.float64)
    reference = torch.clamp((policy + drift).round(decimals=6), max=-0.01)
    rest = torch.randn((2, 6, 7, 7), generator=generator, dtype=torch.float64)
    rest[:, :2] *= 4  # peaked: weights below 1; the other rows are flat and go beyond it
    rest[:, 2:] /= 10
    log_sum_p2 = torch.logsumexp(2 * token_logits(policy, rest), -1)
    found = {}
    for side, name in enumerate(("chosen", "rejected")):
        found[f"{name}_token_logps"] = policy[side] * scored[side]
        found[f"reference_{name}_token_logps"] = reference[side] * scored[side]
        found[f"{name}_log_sum_p2"] = log_sum_p2[side] * scored[side]
        found[f"{name}_lengths"] = lengths[side]
        found[f"{name}_rest"] = rest[side]
    return found


def token_case(name: str, data: dict, **parameters) -> dict:
    """`DPOTrainer.get_batch_loss_metrics` on logits, one prompt token before each response."""
    sides = ("chosen", "rejected")

    def row_loss(leaves, row):
        lengths = [int(data[f"{side}_lengths"][row]) for side in sides]
        # Position i predicts token i + 1, so the prompt's position holds the response's first token.
        logits = torch.zeros((2, max(lengths) + 1, 8), dtype=torch.float64)
        for side, (key, length) in enumerate(zip(sides, lengths, strict=True)):
            own = leaves[f"{key}_token_logps"][row, :length]
            logits[side, :length] = token_logits(own, data[f"{key}_rest"][row, :length])
        stand_in = trainer(
            beta=parameters["beta"],
            label_smoothing=0.0,
            f_divergence_type=FDivergenceType("reverse_kl"),
            f_divergence_params=None,
            loss_type=["sigmoid"],
            loss_weights=None,
            use_weighting=parameters.get("use_weighting", False),
            args=types.SimpleNamespace(
                use_liger_loss=False,
                rpo_alpha=parameters.get("rpo_alpha"),
                ld_alpha=parameters.get("ld_alpha"),
            ),
            aux_loss_enabled=False,
            is_encoder_decoder=False,
            padding_free=False,
            use_logits_to_keep=False,
            max_length=None,
            pad_token_id=0,
            concatenated_inputs=DPOTrainer.concatenated_inputs,
        )
        stand_in.concatenated_forward = functools.partial(DPOTrainer.concatenated_forward, stand_in)
        stand_in.dpo_loss = functools.partial(DPOTrainer.dpo_loss, stand_in)
        batch = {}
        for key, length in zip(("prompt", *sides), (1, *lengths), strict=True):
            for part in ("input_ids", "attention_mask"):
                batch[f"{key}_{part}"] = torch.ones((1, length), dtype=torch.long)
        for key in sides:
            batch[f"ref_{key}_logps"] = leaves[f"reference_{key}_token_logps"][row : row + 1].sum(-1)

        def model(*_, **__):
            return types.SimpleNamespace(logits=logits)

        return DPOTrainer.get_batch_loss_metrics(stand_in, model, batch)[0]

    def evaluate(leaves):
        return torch.stack([row_loss(leaves, row) for row in range(len(data["chosen_lengths"]))])

    names = [name.replace("logps", "token_logps") for name in NAMES]
    leaves = {name: data[name] for name in names}
    return case(name, "DPOTrainer.get_batch_loss_metrics, sigmoid", parameters, evaluate, leaves)


def orpo_case(name: str, data: dict, **parameters) -> dict:
    """The odds-ratio term on mean logps per token (TRL's sign: it is subtracted from the NLL)."""

    def evaluate(leaves):
        chosen = leaves["chosen_logps"] / data["chosen_lengths"]
        rejected = leaves["rejected_logps"] / data["rejected_lengths"]
        return ORPOTrainer.odds_ratio_loss(trainer(**parameters), chosen, rejected)[0]

    leaves = {key: data[key] for key in NAMES[:2]}
    return case(name, "ORPOTrainer.odds_ratio_loss", {**parameters, "per_token": True}, evaluate, leaves)


def cases(data: dict, token_data: dict, rewards: dict) -> list[dict]:
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
        *bco_pair_cases(data, beta=0.1),
        *bco_cases(data, beta=0.1),
        unpaired_apo_case("apo_zero_unpaired", data, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        reward_case("reward", rewards),
        reward_case("reward_margins", rewards, margins=True),
        reward_case("reward_centered", rewards, 0.01, margins=True),
        token_case("wpo", token_data, beta=0.1, use_weighting=True),
        token_case("ld_alpha", token_data, beta=0.1, ld_alpha=0.3),
        token_case("rpo", token_data, beta=0.1, rpo_alpha=1.0),
    ]


def main(output: str) -> None:
    data, token_data = rows(), tokens()
    generator = torch.Generator().manual_seed(20170612)
    drawn = torch.randn((3, 8), generator=generator, dtype=torch.float64).round(decimals=6)
    drawn = torch.cat([3 * drawn, torch.tensor([[900.0, -900.0], [-900.0, 900.0], [1.0, 1.0]]).double()], 1)
    rewards = dict(zip(("chosen_rewards", "rejected_rewards", "margins"), drawn, strict=True))
    document = {
        "about": "Loss values and gradients of TRL in float64, made by dpo_loss_values.py",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "units": "logps: nats, summed over response tokens; lengths: tokens; null: not finite in TRL",
        "inputs": {key: value.tolist() for key, value in data.items()},
        "tokens": {key: value.tolist() for key, value in token_data.items() if "rest" not in key},
        "rewards": {key: value.tolist() for key, value in rewards.items()},
        "cases": cases(data, token_data, rewards),
    }
    pathlib.Path(output).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python dpo_loss_values.py OUTPUT.json")
    main(sys.argv[1])
