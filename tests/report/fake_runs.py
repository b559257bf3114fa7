"""Writes run directories like those of training, without training."""

import json
import pathlib

import numpy as np

DOCSTRING = """SFT then DPO on sums that a checker can grade: does preference training help?

Paper     Rafailov et al. (2023), arXiv:2305.18290, Sec. 6.
Run       jaxpref train experiments/quickstart.py workdir=runs/quickstart
Change    beta=0.3 stages.dpo.num_steps=800
Cost      3 min 40 s on 2 cores          Expect   accuracy .61 -> .83
"""


def config(beta: float, seed: int = 0) -> dict:
    """Nested as `jaxpref.config.describe` nests it."""
    schedule = {"function": "optax.warmup_cosine_decay_schedule", "peak_value": 3e-4, "warmup_steps": 20}
    optimizer = {"function": "optax.adamw", "learning_rate": schedule, "b1": 0.9, "b2": 0.999}
    loss = {"function": "jaxpref.losses.pairwise.dpo", "beta": beta}
    stages = [
        {"name": "sft", "algorithm": {"function": "jaxpref.algorithms.offline.sft", "optimizer": optimizer}},
        {
            "name": "dpo",
            "algorithm": {
                "function": "jaxpref.algorithms.offline.offline",
                "loss": loss,
                "optimizer": optimizer,
                "reference": "initial",
            },
            "prompt_buckets": [32, 64],
        },
    ]
    for stage in stages:
        stage |= {
            "num_steps": 400,
            "batch_size": 64,
            "train": {"function": "jaxpref.data.text.synthetic.sums"},
        }
    policy = {
        "function": "jaxpref.policies.transformer.transformer",
        "size": {"layers": 4, "hidden": 256, "heads": 4, "vocabulary": 259},
        "dtype": "float32",
    }
    mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    return {
        "name": "quickstart",
        "policy": policy,
        "stages": stages,
        "mesh": mesh,
        "seed": seed,
        "weights": None,
    }


def write_run(
    directory: pathlib.Path,
    *,
    name: str = "quickstart",
    beta: float = 0.1,
    seed: int = 0,
    num_steps: int = 400,
    final_accuracy: float = 0.83,
    num_samples: int = 14,
    brief: bool = False,
) -> pathlib.Path:
    """A finished run of two stages. Numbers are made up, and the same for the same arguments.

    `brief` leaves most metrics out, because drawing them is what takes time.
    """
    directory.mkdir(parents=True)
    random = np.random.default_rng(seed)
    experiment = {
        "name": name,
        "docstring": DOCSTRING,
        "arxiv": ["2305.18290", "arXiv:2402.03300v3", "cs.LG/0000001x"],
        "config": config(beta, seed),
        "versions": {
            "jaxpref": "0.1.0",
            "python": "3.11.7",
            "jax": "0.10.2",
            "flax": "0.12.8",
            "optax": "0.2.8",
        },
        "device": "8 x cpu",
        "command": ["jaxpref", "train", "experiments/quickstart.py", f"beta={beta}", "workdir=runs/a b"],
    }
    (directory / "experiment.json").write_text(json.dumps(experiment, indent=1))
    rows = _metrics(random, num_steps, beta)
    if brief:
        kept = ("stage", "step", "split", "time", "loss", "rewards/margins", "grad_norm")
        rows = [{key: row[key] for key in kept if key in row} for row in rows]
    _lines(directory / "metrics.jsonl", rows)
    _lines(directory / "evaluations.jsonl", _evaluations(num_steps, final_accuracy))
    _lines(directory / "samples.jsonl", _samples(random, num_steps, num_samples, final_accuracy))
    return directory


def _lines(file: pathlib.Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _metrics(random: np.random.Generator, num_steps: int, beta: float) -> list[dict]:
    rows = []
    clock = 1.76e9
    for stage in ("sft", "dpo"):
        for step in range(num_steps + 1):
            progress = step / num_steps
            clock += 0.2
            splits = ["train"] * (step > 0) + ["eval"] * (step % 100 == 0)
            for split in splits:
                noise = (
                    (lambda scale: float(random.normal(0, scale)))
                    if split == "train"
                    else (lambda scale: 0.0)
                )
                row = {"stage": stage, "step": step, "split": split, "time": clock}
                if stage == "sft":
                    row["loss"] = 0.4 + 3.2 * np.exp(-6 * progress) + noise(0.08)
                else:
                    margin = 3 * (1 - np.exp(-3 * progress)) * beta / 0.1
                    row["loss"] = float(np.log1p(np.exp(-margin / 2))) + noise(0.04)
                    row["rewards/accuracies"] = min(
                        1.0, 0.5 + 0.35 * (1 - np.exp(-5 * progress)) + noise(0.05)
                    )
                    row["rewards/margins"] = margin + noise(0.3)
                    row["rewards/chosen"] = 0.3 * margin + noise(0.2)
                    row["rewards/rejected"] = -0.7 * margin + noise(0.2)
                    row["logps/chosen"] = -20 - 3 * progress + noise(1)
                    row["logps/rejected"] = -22 - 18 * progress + noise(1)
                if split == "train":
                    row["grad_norm"] = 1 + noise(0.2)
                    row["learning_rate"] = 3e-4 * min(1.0, step / 20) * (1 - 0.9 * progress)
                    row["num_tokens"] = 4096 + int(random.integers(-100, 100))
                    row["tokens_per_second"] = (20_000 if step > 1 else 900) + noise(500)
                    row["mfu"] = 0.31 + noise(0.01)
                rows.append(row)
    return rows


def estimate(mean: float, count: int, better: str | None) -> dict:
    half = 1.96 * np.sqrt(mean * (1 - mean) / count)
    return {
        "mean": mean,
        "low": max(mean - half, 0),
        "high": min(mean + half, 1),
        "count": count,
        "better": better,
    }


def _evaluations(num_steps: int, final_accuracy: float) -> list[dict]:
    points = [("sft", 0, 0.0), ("sft", num_steps, 0.61)]
    points += [
        ("dpo", round(part * num_steps), 0.61 + part * (final_accuracy - 0.61)) for part in (0, 0.5, 1)
    ]
    rows = []
    for stage, step, accuracy in points:
        metrics = {"accuracy": estimate(accuracy, 200, "higher")}
        metrics["response_length"] = {"mean": 14.2 + 2 * accuracy, "low": 13.8, "high": 16.9, "count": 200}
        rows.append({"stage": stage, "step": step, "evaluator": "checker", "metrics": metrics})
    win = {"win_rate": estimate(0.5 + (final_accuracy - 0.61) / 2, 200, "higher")}
    kl = {"kl": {"mean": 4.31, "low": 4.02, "high": 4.63, "count": 200, "better": "lower"}}
    rows.append(
        {"stage": "dpo", "step": num_steps, "evaluator": "against_reference", "metrics": {**win, **kl}}
    )
    return rows


def _samples(random: np.random.Generator, num_steps: int, count: int, final_accuracy: float) -> list[dict]:
    rows = []
    for step, right in ((0, 0.61), (num_steps, final_accuracy)):
        for index in range(count):
            a, b, c = (13 * index + 17) % 90, (29 * index + 8) % 90, (7 * index + 3) % 40
            good = bool(random.random() < right)
            total = a + b - c if good else a + b - c + int(random.integers(1, 9))
            response = f"{a} + {b} = {a + b}.\n{a + b} - {c} = {total}.\nThe answer is {total}."
            prompt = f"Lena has {a} apples, buys {b} more and gives {c} away. How many are left?"
            note = "" if good else f"expected {a + b - c}"
            row = {"stage": "dpo", "step": step, "evaluator": "checker", "id": str(index), "prompt": prompt}
            rows.append({**row, "response": response, "score": float(good), "note": note})
    return rows
