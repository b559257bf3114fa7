"""Losses that read one more column of the data: limits, optima, and what a bad column does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for, is_float
from x64 import enable_x64

from jaxpref import losses


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss, batch=6, seed=0):
    x = inputs_for(loss, batch, seed=seed)
    return {n: jnp.asarray(v, jnp.float64) if is_float(v) else jnp.asarray(v) for n, v in x.items()}


def _pair(x):
    return {n: v for n, v in x.items() if n in inputs_for(losses.dpo)}


def _dpo(x, beta=0.1):
    return losses.dpo(**_pair(x), beta=beta)


def _margins(x):
    u = {s: x[f"{s}_logps"] - x[f"reference_{s}_logps"] for s in ("chosen", "rejected")}
    return u["chosen"] - u["rejected"]


def test_odpo_limits():
    x = _inputs(losses.odpo)
    np.testing.assert_allclose(losses.odpo(**x, beta=0.3, alpha=0.0), _dpo(x, 0.3), rtol=1e-13)
    unit = x | {"chosen_scores": x["rejected_scores"] + 1}
    np.testing.assert_allclose(losses.odpo(**unit, beta=0.3, alpha=2.0), _dpo(x, 0.3), rtol=1e-12)


def test_odpo_offset_is_the_logarithm_of_the_gap():
    x = _inputs(losses.odpo) | {"rejected_scores": jnp.zeros(6)}
    x["chosen_scores"] = jnp.array([0.1, 0.5, 1.0, 2.0, np.e, 30.0])
    h = 0.3 * np.asarray(_margins(x)) - 0.7 * np.log(x["chosen_scores"])
    np.testing.assert_allclose(losses.odpo(**x, beta=0.3, alpha=0.7), np.log1p(np.exp(-h)), rtol=1e-12)
    # A gap below one asks for less than dpo does.
    assert (losses.odpo(**x, beta=0.3, alpha=0.7) < _dpo(x, 0.3))[:2].all()


@pytest.mark.parametrize(
    ("loss", "high", "low"),
    [
        (losses.odpo, 1.0, 1.0),
        (losses.odpo, 1.0, 1.5),
        (partial(losses.odpo, alpha=0.0), 1.0, 1.0),
        (losses.odpo_ratio, 1.0, 1.5),
        (losses.odpo_ratio, 1.0, 0.0),
        (losses.odpo_ratio, 1.0, -1.0),
        (losses.odpo_ratio, -1.0, -2.0),
    ],
)
def test_scores_that_contradict_the_label_give_exactly_nothing(loss, high, low):
    x = _inputs(loss) | {"chosen_scores": jnp.full(6, 2.0), "rejected_scores": jnp.full(6, 0.5)}
    bad = jnp.arange(6) == 3
    x["chosen_scores"] = jnp.where(bad, high, x["chosen_scores"])
    x["rejected_scores"] = jnp.where(bad, low, x["rejected_scores"])
    values = loss(**x)
    assert values[3] == 0
    assert (jnp.delete(values, 3) > 0).all()
    for name, g in jax.grad(lambda x: loss(**x).sum())(x).items():
        assert jnp.isfinite(g).all(), name
        assert g[3] == 0, name


def test_odpo_ratio_sees_ratios_only():
    x = _inputs(losses.odpo_ratio)
    x |= {"chosen_scores": jnp.linspace(1.0, 4, 6), "rejected_scores": jnp.linspace(0.2, 1, 6)}
    scaled = x | {n: 17 * x[n] for n in ("chosen_scores", "rejected_scores")}
    np.testing.assert_allclose(losses.odpo_ratio(**scaled), losses.odpo_ratio(**x), rtol=1e-12)
    gaps = x | {"chosen_scores": x["chosen_scores"] / x["rejected_scores"], "rejected_scores": jnp.zeros(6)}
    np.testing.assert_allclose(losses.odpo_ratio(**x), losses.odpo(**gaps), rtol=1e-12)
    same = x | {"rejected_scores": x["chosen_scores"]}
    np.testing.assert_allclose(losses.odpo_ratio(**same, beta=0.1), _dpo(x), rtol=1e-12)


def test_spo_sequential_limits():
    x = _inputs(losses.spo_sequential)
    np.testing.assert_allclose(losses.spo_sequential(**x, alpha=0.0), _dpo(x), rtol=1e-13)
    none = x | {"margins": jnp.zeros(6)}
    np.testing.assert_allclose(losses.spo_sequential(**none, alpha=3.0), _dpo(x), rtol=1e-13)


def test_spo_sequential_optimum_keeps_the_earlier_reward():
    """On a table, with labels from R_2: the policy before times exp((R_2 + alpha R_1) / beta)."""
    rng = np.random.default_rng(0)
    before, first, second = rng.normal(size=(3, 4))
    beta, alpha = 0.7, 0.4
    before = jax.nn.log_softmax(jnp.asarray(before))
    best = jax.nn.log_softmax(before + (second + alpha * first) / beta)
    i, j = (a.ravel() for a in np.meshgrid(range(4), range(4)))

    def expected(logits):
        logps = jax.nn.log_softmax(logits)
        wins = jax.nn.sigmoid(jnp.asarray(second[i] - second[j]))
        margins = jnp.asarray(first[i] - first[j])
        given = (logps[i], logps[j], before[i], before[j], margins)
        return (wins * losses.spo_sequential(*given, beta=beta, alpha=alpha)).sum()

    np.testing.assert_allclose(jax.grad(expected)(best), 0, atol=1e-12)
    assert jnp.abs(jax.grad(expected)(before)).max() > 0.1


def test_osp_is_soft_dpo():
    x = _inputs(losses.osp)
    np.testing.assert_allclose(losses.osp(**x | {"pair_preferences": jnp.ones(6)}), _dpo(x), rtol=1e-13)
    constant = x | {"pair_preferences": jnp.full(6, 0.8)}
    expected = losses.cdpo(**_pair(x), label_smoothing=0.2)
    np.testing.assert_allclose(losses.osp(**constant), expected, rtol=1e-12)
    swap = {"chosen": "rejected", "rejected": "chosen"}
    other = {n.replace(s, swap[s]): x[n] for n in _pair(x) for s in swap if s in n}
    other["pair_preferences"] = 1 - x["pair_preferences"]
    np.testing.assert_allclose(losses.osp(**other), losses.osp(**x), rtol=1e-12)


def test_osp_has_its_minimum_at_the_logit_of_the_preference():
    p, zero = jnp.array([0.5, 0.75, 0.99]), jnp.zeros(3)
    at = jnp.log(p / (1 - p)) / 0.2
    slope = jax.grad(lambda c: losses.osp(c, zero, zero, zero, p, beta=0.2).sum())
    np.testing.assert_allclose(slope(at), 0, atol=1e-14)
    assert (slope(at + 1) > 0).all()
    assert (slope(at - 1) < 0).all()


def test_rationale_terms():
    x = _inputs(losses.rationale_dpo)
    np.testing.assert_allclose(losses.rationale_dpo(**x, gamma=0.0), _dpo(x), rtol=1e-13)
    added = losses.rationale_dpo(**x, gamma=0.3) - _dpo(x)
    np.testing.assert_allclose(added, -0.3 * x["rationale_logps"], rtol=1e-10)
    released = losses.rationale_dpo_released(**x, gamma=0.3) - _dpo(x)
    np.testing.assert_allclose(released, np.log1p(np.exp(-0.3 * x["rationale_logps"])), rtol=1e-10)


def test_released_rationale_term_fades_where_the_likelihood_does_not():
    x = _inputs(losses.rationale_dpo, batch=2) | {"rationale_logps": jnp.array([0.0, -1e4])}

    def slope(loss):
        return jax.grad(lambda r: loss(**x | {"rationale_logps": r}, gamma=0.1).sum())(x["rationale_logps"])

    np.testing.assert_allclose(slope(losses.rationale_dpo), [-0.1, -0.1], rtol=1e-12)
    np.testing.assert_allclose(slope(losses.rationale_dpo_released), [-0.05, -0.1], rtol=1e-12)


def test_dove_with_equal_prompts_is_dpo():
    x = _inputs(losses.dove)
    prompt, reference_prompt = -jnp.linspace(3, 90, 6), -jnp.linspace(8, 50, 6)
    joint = {n: v + (reference_prompt if n.startswith("reference") else prompt) for n, v in x.items()}
    np.testing.assert_allclose(losses.dove(**joint), _dpo(x), rtol=1e-11)
    other = joint | {"rejected_logps": x["rejected_logps"] + 2 * prompt}
    assert jnp.abs(losses.dove(**other) - _dpo(x)).min() > 1e-3


def test_spo_degree_is_a_cross_entropy():
    x = _inputs(losses.spo_degree)
    np.testing.assert_allclose(losses.spo_degree(**x, gamma=0.0), _dpo(x), rtol=1e-13)
    uniform = x | {"chosen_embeddings": jnp.full((6, 4), 3.0)}
    np.testing.assert_allclose(losses.spo_degree(**uniform, gamma=0.5) - _dpo(x), 0.5 * np.log(4), rtol=1e-12)
    z = np.asarray(x["chosen_embeddings"])
    by_hand = [np.log(np.exp(z[i]).sum()) - z[i, d] for i, d in enumerate(np.asarray(x["degrees"]))]
    np.testing.assert_allclose(losses.spo_degree(**x) - _dpo(x), by_hand, rtol=1e-10)
    assert len(set(x["degrees"].tolist())) > 1


@pytest.mark.parametrize("degree", [-1, 4, 1000])
def test_degrees_out_of_range_add_exactly_nothing(degree):
    x = _inputs(losses.spo_degree)
    x["degrees"] = jnp.full(6, degree)
    np.testing.assert_array_equal(losses.spo_degree(**x), _dpo(x))
    gradient = jax.grad(lambda z: losses.spo_degree(**x | {"chosen_embeddings": z}).sum())
    np.testing.assert_array_equal(gradient(x["chosen_embeddings"]), 0)


@pytest.mark.parametrize(
    ("loss", "column"),
    [
        (losses.odpo, "chosen_scores"),
        (losses.odpo_ratio, "rejected_scores"),
        (losses.spo_sequential, "margins"),
        (partial(losses.osp, beta=1.0), "pair_preferences"),
    ],
)
def test_columns_of_the_data_get_no_gradient(loss, column):
    x = _inputs(loss)
    gradient = jax.grad(lambda c: loss(**x | {column: c}).sum())(x[column])
    np.testing.assert_array_equal(gradient, 0)
