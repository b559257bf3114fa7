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

PARITY = {
    "sigmoid": losses.dpo,
    "sigmoid_beta_0.5": partial(losses.dpo, beta=0.5),
    "sigmoid_smoothed": partial(losses.cdpo, label_smoothing=0.1),
    "ipo_sum": losses.ipo,
    "ipo_mean": losses.ipo_mean,
    # TRL takes gamma itself, we take gamma / beta.
    "cpo_simpo": partial(losses.simpo, beta=2.0, gamma_beta_ratio=0.25),
    "cpo_simpo_paper": partial(losses.simpo, beta=2.5, gamma_beta_ratio=0.55),
}


@pytest.mark.parametrize("name", PARITY)
def test_equals_trl(name):
    case, loss = CASES[name], PARITY[name]
    with enable_x64():
        inputs = {
            k: jnp.asarray(v, jnp.float64 if "logps" in k else int) for k, v in VALUES["inputs"].items()
        }
        values = bind(loss, inputs)
        np.testing.assert_allclose(values, np.array(case["losses"], float), rtol=1e-12, atol=1e-14)
        for side in ("chosen_logps", "rejected_logps"):
            gradient = jax.grad(lambda x, s=side: bind(loss, inputs | {s: x}).sum())(inputs[side])
            expected = np.array(case[f"gradient_{side}"], float)
            np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-14)
