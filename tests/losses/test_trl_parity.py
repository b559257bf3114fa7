"""Our losses against TRL 0.24's own numbers (third_party/trl), value and gradient, in float64."""

import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind

FILE = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "trl" / "dpo_loss_values.json"
VALUES = json.loads(FILE.read_text())
CASES = {case["name"]: case for case in VALUES["cases"]}

BETA = {"beta": 0.1}

PARITY = {
    "sigmoid": losses.dpo,
    "sigmoid_beta_0.5": partial(losses.dpo, beta=0.5),
    "sigmoid_smoothed": partial(losses.cdpo, label_smoothing=0.1),
    "robust": partial(losses.robust_dpo, label_smoothing=0.1),
    "hinge": partial(losses.rso_hinge, **BETA),
    "ipo_sum": losses.ipo,
    "ipo_mean": losses.ipo_mean,
    "exo_pair": partial(losses.exo, **BETA, label_smoothing=0.1),
    "nca_pair": partial(losses.nca, **BETA),
    "sppo_hard": partial(losses.sppo_hard, **BETA),
    "apo_zero": losses.apo_zero,
    "apo_down": losses.apo_down,
    "discopop": partial(losses.discopop, **BETA),
    "js_divergence": losses.js_dpo,
    "alpha_divergence": losses.alpha_dpo,
    "cpo_sigmoid": partial(losses.cpo, sft_weight=0.0),
    "cpo_hinge": partial(losses.slic_hf, delta=10.0, sft_weight=0.0),  # max(0, 1 - beta x), beta = 1 / delta
    # TRL takes gamma itself, we take gamma / beta.
    "cpo_simpo": partial(losses.simpo, beta=2.0, gamma_beta_ratio=0.25),
    "cpo_simpo_paper": partial(losses.simpo, beta=2.5, gamma_beta_ratio=0.55),
    "cpo_alphapo": partial(losses.alpha_po, beta=2.5, gamma_beta_ratio=0.1, alpha=0.25),
    "orpo_odds_ratio": losses.orpo,
}

# TRL's number is this many times ours (its odds-ratio term is the one that its trainer subtracts).
FACTOR = {"sppo_hard": 2.0, "orpo_odds_ratio": -1.0, "cpo_hinge": 0.1}


def _inputs():
    """As the file has them."""
    return {k: jnp.asarray(v, jnp.float64 if "logps" in k else int) for k, v in VALUES["inputs"].items()}


def _comparable(name, inputs, expected):
    """Rows where both mean the same number."""
    rows = np.isfinite(expected)
    if name == "alpha_divergence":  # exponentials are held constant, there beyond 80 nats and here beyond 40
        for side in ("chosen", "rejected"):
            rows &= np.abs(inputs[f"{side}_logps"] - inputs[f"reference_{side}_logps"]) < 80
    if name == "cpo_alphapo":  # exponentials are held constant, here beyond 40 nats
        for side in ("chosen", "rejected"):
            rows &= np.abs(0.25 * inputs[f"{side}_logps"] / inputs[f"{side}_lengths"]) < 40
    if name == "orpo_odds_ratio":  # odds are held at p = 1 - 1e-6, there not at all
        for side in ("chosen", "rejected"):
            rows &= np.asarray(inputs[f"{side}_logps"] / inputs[f"{side}_lengths"]) < -1e-5
    return rows


@pytest.mark.parametrize("name", PARITY)
def test_equals_trl(name):
    case, loss = CASES[name], PARITY[name]
    with enable_x64():
        inputs = _inputs()
        if name == "orpo_odds_ratio":  # the term alone: without the NLL

            def loss(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths):
                given = (chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
                return losses.orpo(*given) - losses.orpo(*given, odds_weight=0.0)

        factor, expected = FACTOR.get(name, 1.0), np.array(case["losses"], float)
        rows = _comparable(name, inputs, expected)
        assert rows.sum() >= 12
        values = factor * bind(loss, inputs)
        np.testing.assert_allclose(values[rows], expected[rows], rtol=1e-11, atol=1e-13)
        for side in ("chosen_logps", "rejected_logps"):
            gradient = jax.grad(lambda x, s=side: factor * bind(loss, inputs | {s: x}).sum())(inputs[side])
            expected = np.array(case[f"gradient_{side}"], float)
            np.testing.assert_allclose(gradient[rows], expected[rows], rtol=1e-9, atol=1e-13)


def test_orpo_counts_the_likelihood_per_token():
    with enable_x64():
        inputs = _inputs()
        value = losses.orpo(
            *(inputs[n] for n in ("chosen_logps", "rejected_logps", "chosen_lengths", "rejected_lengths")),
            odds_weight=0.0,
        )
        np.testing.assert_allclose(value, -inputs["chosen_logps"] / inputs["chosen_lengths"], rtol=1e-14)
