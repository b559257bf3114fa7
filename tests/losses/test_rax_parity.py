"""Our ranking losses against Rax 0.4's own numbers (third_party/rax), value and gradient, in float64."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import losses

FILE = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "rax" / "listwise_values.json"
VALUES = json.loads(FILE.read_text())
CASES = {case["name"]: case for case in VALUES["cases"]}
SCORES, LABELS = (np.array(VALUES["inputs"][n]) for n in ("scores", "labels"))
WHERE = np.array(VALUES["inputs"]["where"])
K = SCORES.shape[1]


def _pairs():
    above = LABELS[:, :, None] > LABELS[:, None, :]
    return (above & WHERE[:, :, None] & WHERE[:, None, :]).sum((1, 2))


# Rax's number is this many times ours.
ONE = np.ones(len(SCORES))
LAMBDA = K * np.log(2) * ONE
TOTAL = np.where(WHERE, LABELS, 0).sum(1)
# Rax breaks ties by position.
NO_TIES, NO_TIE_AT_THE_TOP = np.arange(12) < 9, np.arange(12) != 10
NO_TIES[11] = True

PARITY = [
    ("pairwise_logistic", losses.list_pair_logistic, ONE, None),
    ("pairwise_logistic", losses.reward_list_pairs, ONE, None),
    ("pairwise_logistic_dcg_lambda", losses.lipo_lambda, LAMBDA, None),
    ("pairwise_logistic_dcg_lambda_sum", losses.lipo_lambda, LAMBDA * _pairs(), None),
    ("pairwise_hinge", losses.list_pair_hinge, ONE, None),
    ("listmle", losses.list_mle, ONE, NO_TIES),
    ("listmle", losses.reward_plackett_luce, ONE, NO_TIES),
    ("unique_softmax", losses.list_mle, ONE, None),
    ("unique_softmax", losses.reward_plackett_luce, ONE, None),
    ("softmax", losses.list_softmax, TOTAL, None),
    ("softmax_normalised", losses.list_softmax, ONE, None),
    ("softmax_best", losses.reward_softmax, ONE, NO_TIE_AT_THE_TOP),
    ("softmax_softened", losses.reward_list_net, ONE, None),
    ("pointwise_mse", losses.list_point_mse, ONE, None),
    ("pointwise_sigmoid", losses.list_point_sigmoid, ONE, None),
]


@pytest.mark.parametrize(
    ("name", "loss", "factor", "rows"), PARITY, ids=[f"{p[0]}-{p[1].__name__}" for p in PARITY]
)
def test_equals_rax(name, loss, factor, rows):
    case, rows = CASES[name], slice(None) if rows is None else rows
    with enable_x64():

        def value(scores):
            if loss.__name__.startswith("reward"):
                return factor * loss(scores, jnp.asarray(LABELS), jnp.asarray(WHERE))
            # A policy whose reference log-probs are 0 and whose beta is 1 has Rax's scores.
            return factor * loss(scores, 0 * scores, jnp.asarray(LABELS), jnp.asarray(WHERE), beta=1.0)

        scores = jnp.asarray(SCORES)
        np.testing.assert_allclose(
            value(scores)[rows], np.array(case["losses"])[rows], rtol=1e-11, atol=1e-13
        )
        gradient = jax.grad(lambda s: value(s).sum())(scores)
        np.testing.assert_allclose(gradient[rows], np.array(case["gradients"])[rows], rtol=1e-9, atol=1e-13)


def test_every_number_of_rax_is_used():
    assert {p[0] for p in PARITY} == set(CASES)
    assert NO_TIES.sum() == 10
