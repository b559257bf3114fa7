"""Our losses against TRL 1.16's own numbers (third_party/trl), value and gradient, in float64."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from trl_values import agrees, arrays, cases, document, token_arrays, token_sums
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind
from jaxpref.losses.tokenwise import log_agreement

VALUES = document("dpo_loss_values_1.16.0.json")
CASES = cases(VALUES)
SIDES = ("chosen", "rejected")
BETA = {"beta": 0.1}

PARITY = {
    "sigmoid": losses.dpo,
    "sigmoid_smoothed": losses.dpo,  # label smoothing is ignored: 0.24's is `cdpo`
    "sigmoid_norm": partial(losses.ln_dpo, beta=2.5),
    "robust": partial(losses.robust_dpo, label_smoothing=0.1),
    "hinge": partial(losses.rso_hinge, **BETA),
    "ipo": losses.ipo_mean,  # always per token
    "exo_pair": partial(losses.exo, **BETA, label_smoothing=0.1),
    "nca_pair": partial(losses.nca, **BETA),
    "bco_pair": losses.bco_pair,  # no shift: 0.24's is a running mean
    "sppo_hard": partial(losses.sppo_hard, **BETA),
    "apo_zero": losses.apo_zero,
    "apo_down": losses.apo_down,
    "discopop": partial(losses.discopop, **BETA),
    "forward_kl": losses.forward_kl_dpo,
    "js_divergence": losses.js_dpo,
    # The coefficient a is 1 - alpha; 0.24 takes alpha itself.
    "alpha_divergence_0.5": partial(losses.alpha_dpo, alpha=0.5),
    "alpha_divergence_0.25": partial(losses.alpha_dpo, alpha=0.75),
    "sigmoid_sft": losses.iterative_rpo,
}
FACTOR = {"sppo_hard": 2.0}  # TRL's number is this many times ours
BOUNDED = {"forward_kl": 1, "alpha_divergence_0.5": 0.5, "alpha_divergence_0.25": 0.75}


def _comparable(name, inputs, expected):
    """Rows where both mean the same number: exponentials are held constant beyond 40 nats here."""
    rows = np.isfinite(expected)
    for side in SIDES:
        ratios = inputs[f"{side}_logps"] - inputs[f"reference_{side}_logps"]
        rows &= np.asarray(-BOUNDED.get(name, 0) * ratios) < 40
    return rows


def _gradients(case, suffix="logps", factor=1.0):
    found = {f"{side}_{suffix}": case.get(f"gradient_{side}_{suffix}") for side in SIDES}
    return {name: factor * np.asarray(g, float) for name, g in found.items() if g is not None}


@pytest.mark.parametrize("name", PARITY)
def test_equals_trl(name):
    case, loss = CASES[name], PARITY[name]
    with enable_x64():
        inputs = arrays(VALUES["inputs"])
        expected = np.asarray(case["losses"], float) / FACTOR.get(name, 1)
        rows = _comparable(name, inputs, expected)
        assert rows.sum() >= 12
        single = {"rtol": 1e-5, "gradient_rtol": 1e-4} if case.get("dtype") == "float32" else {}
        agrees(
            partial(bind, loss),
            inputs,
            expected,
            _gradients(case, factor=1 / FACTOR.get(name, 1)),
            rows=rows,
            **single,
        )


def test_every_case_is_compared():
    elsewhere = {"mpo", "aot", "aot_smoothed", "aot_unpaired", "aot_unpaired_smoothed", "kto", "kto_weighted"}
    elsewhere |= {"apo_zero_unpaired", "sft", "sft_batch", "wpo", "wpo_ipo", "ld_alpha", "ld_alpha_0"}
    assert set(CASES) == elsewhere | set(PARITY)


def test_mixed_preferences_equal_trl_where_nothing_shifts():
    """TRL's weights 0.8, 0.2, 1 of sigmoid, bco_pair and sft; a past of zero rewards holds our shift at 0."""
    case = CASES["mpo"]
    with enable_x64():
        inputs = arrays(VALUES["inputs"], slice(0, 10))
        past = losses.mixed_po_state()._replace(count=jnp.asarray(1e30))
        inputs |= {"state": past, "valid": jnp.ones(10, bool)}
        agrees(
            lambda x: bind(losses.mixed_po, x)[0],
            inputs,
            case["losses"][:10],
            {name: g[:10] for name, g in _gradients(case).items()},
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_transport_equals_trl(name, smoothing):
    case = CASES[name + ("_smoothed" if smoothing else "")]
    loss = partial(getattr(losses, name), beta=0.1, label_smoothing=smoothing)
    with enable_x64():
        inputs = arrays(VALUES["inputs"], slice(0, 10)) | {"valid": jnp.ones(10, bool)}
        agrees(lambda x: bind(loss, x).mean(), inputs, case["batch_loss"], _gradients(case))


@pytest.mark.parametrize("name", ["kto", "kto_weighted", "apo_zero_unpaired"])
def test_single_responses_equal_trl(name):
    case = CASES[name]
    given = {k: v for k, v in case["parameters"].items() if k != "loss_type"}
    loss = losses.apo_zero_unpaired if "apo" in name else partial(losses.kto, **given)
    with enable_x64():
        inputs = arrays(VALUES["unpaired"]) | {"where": jnp.ones(20, bool)}
        agrees(lambda x: bind(loss, x).mean(), inputs, case["batch_loss"], {"logps": case["gradient_logps"]})


@pytest.mark.parametrize("name", ["sft", "sft_batch"])
def test_likelihood_equals_trl(name):
    """Ours is a sum; TRL's is the mean over the tokens of a row, or of all rows of a batch."""
    case = CASES[name]

    def per_token(inputs):
        values, lengths = losses.sft(token_sums(inputs)["chosen_logps"]), inputs["chosen_lengths"]
        return values / lengths if name == "sft" else values.sum() / lengths.sum()

    with enable_x64():
        expected = case["losses"] if name == "sft" else case["batch_loss"]
        gradients = {"chosen_token_logps": case["gradient_chosen_token_logps"]}
        agrees(per_token, token_arrays(VALUES["tokens"]), expected, gradients)


@pytest.mark.parametrize("name", ["ld_alpha", "ld_alpha_0"])
def test_length_desensitised_equals_trl(name):
    case = CASES[name]
    loss = partial(losses.ld_dpo, beta=0.1, alpha=case["parameters"]["ld_alpha"])
    with enable_x64():
        inputs = token_arrays(VALUES["tokens"])
        agrees(partial(bind, loss), inputs, case["losses"], _gradients(case, "token_logps"))


@pytest.mark.parametrize("name", ["wpo", "wpo_ipo"])
def test_weighted_equals_trl_up_to_the_bound(name):
    """TRL 1.x does not bound a pair's weight at 1, as 0.24 did and we do: three pairs are beyond it here."""
    case = CASES[name]
    with enable_x64():
        inputs = token_arrays(VALUES["tokens"])

        def log_weights(x):
            names = ("token_logps", "log_sum_p2", "mask")
            return sum(log_agreement(*(x[f"{side}_{n}"] for n in names)) for side in SIDES)

        def weighted(x):
            if name == "wpo":
                return bind(partial(losses.wpo, beta=0.1), x)
            return jnp.exp(jnp.minimum(log_weights(x), 0)) * bind(losses.ipo_mean, x | token_sums(x))

        excess = np.maximum(1, np.exp(np.asarray(log_weights(inputs))))
        assert (excess > 1).sum() == 3
        gradients = {k: g / excess[:, None] for k, g in _gradients(case, "token_logps").items()}
        agrees(weighted, inputs, np.asarray(case["losses"]) / excess, gradients)
