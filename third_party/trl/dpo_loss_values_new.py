"""Loss values and gradients of TRL 1.x, as committed numbers to test against.

    python3.11 -m venv trl-new && . trl-new/bin/activate
    pip install torch==2.13.0 trl==1.16.0 transformers==4.57.1 datasets==4.7.0 accelerate==1.11.0
    cd third_party/trl
    python dpo_loss_values_new.py dpo_loss_values.json dpo_loss_values_1.16.0.json

Since 0.29 the formulas stand inline in `DPOTrainer._compute_loss` (and `KTOTrainer._compute_loss`), which
runs the model and returns the mean of a batch. That method is called unbound, with a stand-in for the trainer
that carries only the attributes it reads, and a stand-in for the model that returns prescribed log-probs per
token (what TRL's fused output layer would return). The formulas are TRL's, none is written here.

* A row's loss is the loss of a batch of that row alone. Losses that couple the rows of a batch (`aot`,
  `aot_unpaired`, `kto`, `sft_batch`) have one number, `batch_loss`, and the gradients of that mean.
* The rows of summed log-probs are those of the first file; a sum is spread evenly over the response's tokens,
  and the gradient is with respect to the sum. `tokens` holds eight rows of log-probs per token, for losses
  (`per_token: true`) that weigh tokens; their gradients are per token.
* Arithmetic is float64 on the CPU, except `alpha_divergence`, whose clamp knows only 16 and 32 bits: float32.
* TRL's fused output layer computes in float32 whatever it is given, so `log_sum_p2` is prescribed as well.
"""

import collections
import importlib.metadata
import json
import math
import pathlib
import sys
import types

import torch
from trl import DPOTrainer, KTOTrainer

SIDES = ("chosen", "rejected")
NAMES = ("chosen_logps", "rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
TOKEN_NAMES = tuple(name.replace("logps", "token_logps") for name in NAMES)
PACKAGES = ("trl", "torch", "transformers")


def tokens() -> dict[str, torch.Tensor]:
    """Eight rows of at most nine tokens (nats), 0 past the end; `log_sum_p2`: log of the sum of p^2."""
    generator = torch.Generator().manual_seed(20260725)
    lengths = torch.tensor([[9, 4], [3, 8], [5, 5], [1, 9], [7, 1], [2, 3], [9, 9], [6, 2]])
    scored = torch.arange(9) < lengths.T[:, :, None]
    uniform = torch.rand((2, 8, 9), generator=generator, dtype=torch.float64)
    policy = -0.05 - 3 * uniform
    reference = torch.clamp(
        policy + 0.5 * torch.randn((2, 8, 9), generator=generator, dtype=torch.float64), max=-0.01
    )
    # Never below p^2. Weights of pairs come out on both sides of 1.
    squares = policy * (0.1 + 1.8 * torch.rand((2, 8, 9), generator=generator, dtype=torch.float64))
    found = {}
    for side, name in enumerate(SIDES):
        for key, values in (("token_logps", policy), ("log_sum_p2", squares)):
            found[f"{name}_{key}"] = (values[side].round(decimals=6)) * scored[side]
        found[f"reference_{name}_token_logps"] = reference[side].round(decimals=6) * scored[side]
        found[f"{name}_lengths"] = lengths[:, side]
    return found


class Model:
    """Stands in for a model: it returns what it was given, padded, whatever the input."""

    training = False  # metrics only
    is_gradient_checkpointing = False

    def __init__(self, log_probs: torch.Tensor, log_sum_sq_probs: torch.Tensor | None = None):
        nothing = torch.zeros_like(log_probs)
        self.output = types.SimpleNamespace(
            log_probs=log_probs,
            log_sum_sq_probs=log_sum_sq_probs,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )

    def __call__(self, **_):
        return self.output


def trainer(model: Model, **attributes: object) -> types.SimpleNamespace:
    """What the methods read from `self`."""
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"), gather=lambda values: values, gather_for_metrics=lambda values: values
    )
    defaults = {
        "label_smoothing": 0.0,
        "loss_weights": [1.0],
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
        "discopop_tau": 0.05,
    }
    attributes = defaults | attributes
    return types.SimpleNamespace(
        model=model,
        accelerator=accelerator,
        aux_loss_enabled=False,
        args=types.SimpleNamespace(
            discopop_tau=attributes.pop("discopop_tau"), gradient_checkpointing_kwargs=None
        ),
        _metrics={"eval": collections.defaultdict(list)},
        _total_train_tokens=0,
        **attributes,
    )


def batch(lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """One prompt token, then the response: its first `lengths` positions are scored."""
    scored = torch.arange(int(lengths.max())) < lengths[:, None]
    mask = torch.cat([torch.zeros((len(lengths), 1), dtype=torch.long), scored.long()], 1)
    return {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }


def spread(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Log-probs per token that have these sums."""
    scored = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.where(scored, (sums / lengths)[:, None], 0.0)


def dpo(leaves: dict[str, torch.Tensor], data: dict, **parameters: object) -> torch.Tensor:
    """The scalar that `DPOTrainer._compute_loss` returns for summed log-probs."""
    lengths = torch.cat([data["chosen_lengths"], data["rejected_lengths"]])
    model = Model(spread(torch.cat([leaves["chosen_logps"], leaves["rejected_logps"]]), lengths))
    inputs = batch(lengths) | {f"ref_{s}_logps": leaves[f"reference_{s}_logps"] for s in SIDES}
    return DPOTrainer._compute_loss(
        trainer(model, precompute_ref_logps=True, **parameters), model, inputs, False
    )


def token_dpo(leaves: dict[str, torch.Tensor], data: dict, **parameters: object) -> torch.Tensor:
    """The same for log-probs per token, of the policy and of the reference."""
    lengths = torch.cat([data["chosen_lengths"], data["rejected_lengths"]])
    size = int(lengths.max())  # TRL pads a batch to its own longest row

    scored = torch.arange(size) < lengths[:, None]

    def both(prefix: str, key: str, source: dict) -> torch.Tensor:
        values = torch.cat([source[f"{prefix}{side}_{key}"][:, :size] for side in SIDES])
        return torch.where(scored, values, 0.0)  # as TRL's output layer does

    model = Model(both("", "token_logps", leaves), both("", "log_sum_p2", data))
    reference = Model(both("reference_", "token_logps", leaves))
    stand_in = trainer(model, ref_model=reference, precompute_ref_logps=False, **parameters)
    return DPOTrainer._compute_loss(stand_in, model, batch(lengths), False)


def kto(leaves: dict[str, torch.Tensor], data: dict, **parameters: object) -> torch.Tensor:
    """`KTOTrainer._compute_loss`; the log-probs of the mismatched pairs are prescribed."""
    lengths, labels = data["lengths"], data["labels"]
    model = Model(spread(leaves["logps"], lengths))
    inputs = batch(lengths) | {
        "label": labels,
        "ref_logps": leaves["reference_logps"],
        "ref_KL_logps": data["reference_mismatched_logps"],
    }
    stand_in = trainer(model, precompute_ref_logps=True, calculate_KL=True, **parameters)
    stand_in._compute_kl_logps = lambda *_: data["mismatched_logps"]
    return KTOTrainer._compute_loss(stand_in, model, inputs, False)


def numbers(values: torch.Tensor):
    """JSON has no infinity and no NaN: null where TRL's value is not finite."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
    return [value if math.isfinite(value) else None for value in values.detach().double().tolist()]


def case(
    name: str,
    evaluate,
    data: dict,
    names: tuple[str, ...],
    *,
    coupled: bool = False,
    dtype: torch.dtype = torch.float64,
    rows: int | None = None,
    **parameters: object,
) -> dict:
    leaves = {key: data[key][:rows].to(dtype).clone().requires_grad_() for key in names}
    data = {key: value[:rows] for key, value in data.items()}
    result: dict = {
        "name": name,
        "parameters": parameters,
        "per_token": evaluate is token_dpo,
        "rows": len(next(iter(leaves.values()))),
    }
    if dtype != torch.float64:
        result["dtype"] = str(dtype).removeprefix("torch.")
    if coupled:
        total = evaluate(leaves, data, **parameters)
        result["batch_loss"] = total.item()
    else:
        losses = []
        for row in range(result["rows"]):
            alone = {key: value[row : row + 1] for key, value in data.items()}
            losses.append(
                evaluate(
                    {key: value[row : row + 1] for key, value in leaves.items()}, alone, **parameters
                ).reshape(())
            )
        losses = torch.stack(losses)
        result["losses"], total = numbers(losses), losses.sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for key, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None and not key.startswith("reference"):
            result[f"gradient_{key}"] = numbers(gradient)
    return result


def cases(data: dict, token_data: dict, unpaired: dict) -> list[dict]:
    def one(name: str, *loss_types: str, **parameters: object) -> dict:
        loss_types = loss_types or (name,)
        return case(name, dpo, data, NAMES, loss_types=list(loss_types), **({"beta": 0.1} | parameters))

    def whole(name: str, loss_type: str, **parameters: object) -> dict:
        return case(
            name, dpo, data, NAMES, coupled=True, rows=10, beta=0.1, loss_types=[loss_type], **parameters
        )

    def token(name: str, *loss_types: str, coupled: bool = False, **parameters: object) -> dict:
        return case(
            name,
            token_dpo,
            token_data,
            TOKEN_NAMES,
            coupled=coupled,
            loss_types=list(loss_types),
            **({"beta": 0.1} | parameters),
        )

    def labelled(name: str, loss_type: str, **parameters: object) -> dict:
        return case(
            name, kto, unpaired, ("logps", "reference_logps"), coupled=True, loss_type=loss_type, **parameters
        )

    def alpha(name: str, coefficient: float) -> dict:
        return case(
            name,
            dpo,
            data,
            NAMES,
            dtype=torch.float32,
            beta=0.1,
            loss_types=["sigmoid"],
            f_divergence_type="alpha_divergence",
            f_alpha_divergence_coef=coefficient,
        )

    return [
        one("sigmoid"),
        one("sigmoid_smoothed", "sigmoid", label_smoothing=0.1),
        one("sigmoid_norm", beta=2.5),
        one("robust", label_smoothing=0.1),
        one("hinge"),
        one("ipo"),
        one("exo_pair", label_smoothing=0.1),
        one("nca_pair"),
        one("bco_pair"),
        one("sppo_hard"),
        one("apo_zero"),
        one("apo_down"),
        one("discopop"),
        one("forward_kl", "sigmoid", f_divergence_type="forward_kl"),
        one("js_divergence", "sigmoid", f_divergence_type="js_divergence"),
        alpha("alpha_divergence_0.5", 0.5),
        alpha("alpha_divergence_0.25", 0.25),
        one("sigmoid_sft", "sigmoid", "sft", loss_weights=[1.0, 1.0]),
        one("mpo", "sigmoid", "bco_pair", "sft", loss_weights=[0.8, 0.2, 1.0]),
        whole("aot", "aot"),
        whole("aot_smoothed", "aot", label_smoothing=0.1),
        whole("aot_unpaired", "aot_unpaired"),
        whole("aot_unpaired_smoothed", "aot_unpaired", label_smoothing=0.1),
        labelled("kto", "kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
        labelled("kto_weighted", "kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.5),
        labelled(
            "apo_zero_unpaired", "apo_zero_unpaired", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
        ),
        token("sft", "sft"),
        token("sft_batch", "sft", coupled=True),
        token("wpo", "sigmoid", use_weighting=True),
        token("wpo_ipo", "ipo", use_weighting=True),
        token("ld_alpha", "sigmoid", ld_alpha=0.3),
        token("ld_alpha_0", "sigmoid", ld_alpha=0.0),
    ]


def main(first_file: str, output: str) -> None:
    torch.set_default_dtype(torch.float64)  # `exo_pair` makes a tensor of its label smoothing
    rows = json.loads(pathlib.Path(first_file).read_text())["inputs"]
    data = {
        key: torch.tensor(value, dtype=torch.float64 if "logps" in key else torch.long)
        for key, value in rows.items()
    }
    token_data = tokens()
    # The ordinary rows' responses, labels mixed; other responses' numbers stand for the mismatched pairs.
    first, second = (
        torch.cat([data[f"{prefix}{side}_logps"][:10] for side in SIDES]) for prefix in ("", "reference_")
    )
    order = torch.tensor([0, 10, 1, 2, 11, 12, 3, 4, 5, 13, 14, 15, 16, 6, 17, 7, 18, 8, 9, 19])
    unpaired = {
        "logps": first[order],
        "reference_logps": second[order],
        "lengths": torch.cat([data["chosen_lengths"][:10], data["rejected_lengths"][:10]])[order],
        "labels": (order < 10).long(),
        "mismatched_logps": first[order.roll(1)] + 1.5,
        "reference_mismatched_logps": second[order.roll(1)],
    }
    document = {
        "about": "Loss values and gradients of TRL 1.x in float64, made by dpo_loss_values_new.py",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "units": "logps: nats; lengths: tokens; null: not finite in TRL",
        "inputs": rows,
        "tokens": {key: value.tolist() for key, value in token_data.items()},
        "unpaired": {key: value.tolist() for key, value in unpaired.items()},
        "cases": cases(data, token_data, unpaired),
    }
    pathlib.Path(output).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python dpo_loss_values_new.py FIRST_FILE.json OUTPUT.json")
    main(sys.argv[1], sys.argv[2])
