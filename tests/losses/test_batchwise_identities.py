"""Losses that couple the rows of a batch, against all pairings, double loops and TRL's numbers."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for, is_float
from x64 import enable_x64

from jaxpref import losses

FILE = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "trl" / "dpo_loss_values.json"


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss, batch=5, seed=0, **more):
    x = inputs_for(loss, batch, seed=seed) | {"valid": np.ones(batch, bool)}
    return {n: jnp.asarray(v, jnp.float64) if is_float(v) else jnp.asarray(v) for n, v in x.items()} | more


def _dpo(x, **arguments):
    return losses.dpo(**{n: x[n] for n in inputs_for(losses.dpo)}, **arguments)


def _sides(loss, x):
    """What is sorted on either side, as numpy."""
    x = {n: np.asarray(v) for n, v in x.items()}
    if loss is losses.aot:
        first = x["chosen_logps"] - x["rejected_logps"]
        return first, x["reference_chosen_logps"] - x["reference_rejected_logps"]
    u = {s: x[f"{s}_logps"] - x[f"reference_{s}_logps"] for s in ("chosen", "rejected")}
    return u["chosen"], u["rejected"]


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
@pytest.mark.parametrize("loss", [losses.aot, losses.aot_unpaired])
def test_aot_is_the_least_mean_over_all_pairings(loss, batch):
    x = _inputs(loss, batch, seed=batch)
    first, second = _sides(loss, x)
    means = [
        np.log1p(np.exp(-0.4 * (first - second[list(order)]))).mean()
        for order in itertools.permutations(range(batch))
    ]
    ours = loss(**x, beta=0.4).mean()
    np.testing.assert_allclose(ours, min(means), rtol=1e-12)
    if batch > 2:
        assert max(means) > min(means) + 1e-3


@pytest.mark.parametrize("loss", [losses.aot, losses.aot_unpaired, losses.relative_po])
def test_one_row_is_dpo(loss):
    x = _inputs(loss, 1)
    np.testing.assert_allclose(loss(**x, beta=0.3), _dpo(x, beta=0.3), rtol=1e-12)
    padded = _inputs(loss, 4) | {"valid": jnp.arange(4) == 2}
    padded["chosen_logps"] = padded["chosen_logps"].at[0].set(jnp.nan)
    np.testing.assert_allclose(loss(**padded, beta=0.3)[2], _dpo(padded, beta=0.3)[2], rtol=1e-12)
    np.testing.assert_array_equal(loss(**padded)[jnp.array([0, 1, 3])], 0)


@pytest.mark.parametrize("loss", [losses.aot, losses.aot_unpaired])
def test_aot_with_one_row_smoothed_is_cdpo(loss):
    x = _inputs(loss, 1)
    expected = losses.cdpo(**{n: x[n] for n in inputs_for(losses.dpo)}, beta=0.3, label_smoothing=0.2)
    np.testing.assert_allclose(loss(**x, beta=0.3, label_smoothing=0.2), expected, rtol=1e-12)


def test_aot_sides_that_are_sorted_alike_give_dpo():
    x = _inputs(losses.aot_unpaired)
    sides = {n: jnp.sort(v) for n, v in x.items() if n in ("chosen_logps", "rejected_logps")}
    zero = {n: jnp.zeros(5) for n in ("reference_chosen_logps", "reference_rejected_logps")}
    x |= sides | zero
    np.testing.assert_allclose(losses.aot_unpaired(**x, beta=0.1), _dpo(x), rtol=1e-12)


def test_aot_unpaired_does_not_see_who_stood_beside_whom():
    x, order = _inputs(losses.aot_unpaired), jnp.array([3, 1, 4, 0, 2])
    moved = x | {n: x[n][order] for n in ("rejected_logps", "reference_rejected_logps")}
    np.testing.assert_allclose(losses.aot_unpaired(**moved), losses.aot_unpaired(**x), rtol=1e-12)
    assert jnp.abs(_dpo(moved) - _dpo(x)).max() > 1e-3


@pytest.mark.parametrize("loss", [losses.aot, losses.aot_unpaired, losses.relative_po])
def test_rows_in_another_order_give_the_same_losses(loss):
    x, order = _inputs(loss), jnp.array([3, 1, 4, 0, 2])
    np.testing.assert_allclose(loss(**{n: v[order] for n, v in x.items()}), loss(**x)[order], rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.aot, losses.aot_unpaired])
def test_aot_ties(loss):
    """Equal values on one side: any of the pairings, and nothing that is not finite."""
    x = _inputs(loss)
    x |= {n: jnp.zeros(5) for n in ("chosen_logps", "reference_chosen_logps")}
    x |= {"rejected_logps": jnp.zeros(5)}
    first, second = _sides(loss, x)
    expected = np.log1p(np.exp(-0.4 * (first - second))).mean()
    np.testing.assert_allclose(loss(**x, beta=0.4).mean(), expected, rtol=1e-12)
    gradient = jax.grad(lambda c: loss(**x | {"chosen_logps": c}).sum())(x["chosen_logps"])
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [losses.aot, losses.aot_unpaired, losses.relative_po])
def test_a_batch_of_padding_is_zero(loss):
    x = _inputs(loss) | {"valid": jnp.zeros(5, bool)}
    x = {n: jnp.full_like(v, jnp.nan) if is_float(v) else v for n, v in x.items()}
    np.testing.assert_array_equal(loss(**x), 0)
    gradient = jax.grad(lambda c: loss(**x | {"chosen_logps": c}).sum())(x["chosen_logps"])
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(("name", "loss"), [("aot", losses.aot), ("aot_pair", losses.aot_unpaired)])
def test_aot_equals_trl(name, loss):
    """TRL 0.24 returns the losses in the order of the sort, and calls the unpaired form `aot_pair`."""
    values = json.loads(FILE.read_text())
    case = next(c for c in values["cases"] if c["name"] == name)
    x = {n: jnp.asarray(values["inputs"][n], jnp.float64) for n in inputs_for(losses.dpo)}
    x["valid"] = jnp.ones(16, bool)
    first, second = _sides(loss, x)
    order = np.argsort(first, kind="stable")
    ours = np.asarray(loss(**x, **{"beta": case["parameters"]["beta"]}))
    np.testing.assert_allclose(ours[order], case["losses"], rtol=1e-11, atol=1e-13)
    sorts = {"chosen_logps": first, "rejected_logps": first if loss is losses.aot else second}
    for side, keys in sorts.items():
        # Equal keys may be ranked either way, so rows that share one are compared as a sum.
        gradient = jax.grad(lambda v, s=side: loss(**x | {s: v}, beta=0.1).sum())(x[side])
        expected = np.array(case[f"gradient_{side}"], float)
        _, group = np.unique(keys, return_inverse=True)
        np.testing.assert_allclose(
            np.bincount(group, gradient), np.bincount(group, expected), rtol=1e-9, atol=1e-13
        )
        assert group.max() >= 11


def test_relative_po_by_loops():
    x = _inputs(losses.relative_po)
    x["valid"] = jnp.array([True, True, False, True, True])
    u_w, u_l = _sides(losses.relative_po, x)
    e = np.asarray(x["prompt_embeddings"])
    rows, expected = [0, 1, 3, 4], np.zeros(5)
    for i in rows:
        cosine = [e[i] @ e[j] / np.linalg.norm(e[i]) / np.linalg.norm(e[j]) for j in rows]
        w = np.exp((np.array(cosine) - 1) / 0.25)
        w /= w.sum()
        h = [0.3 * w[k] * (u_w[i] - u_l[j]) for k, j in enumerate(rows)]
        expected[i] = np.mean([np.log1p(np.exp(-v)) for v in h])
    np.testing.assert_allclose(losses.relative_po(**x, beta=0.3, tau=0.25), expected, rtol=1e-11)


def test_relative_po_limits_of_tau():
    x, n = _inputs(losses.relative_po), 5
    u_w, u_l = _sides(losses.relative_po, x)
    alone = (_dpo(x, beta=0.3) + (n - 1) * np.log(2)) / n
    np.testing.assert_allclose(losses.relative_po(**x, beta=0.3, tau=1e-7), alone, rtol=1e-10)
    # Equal weights: beta acts as beta / n.
    h = 0.3 / n * (u_w[:, None] - u_l[None, :])
    expected = np.log1p(np.exp(-h)).mean(1)
    np.testing.assert_allclose(losses.relative_po(**x, beta=0.3, tau=1e12), expected, rtol=1e-10)
    same = x | {"prompt_embeddings": jnp.ones((n, 3))}
    np.testing.assert_allclose(losses.relative_po(**same, beta=0.3), expected, rtol=1e-10)


def test_relative_po_sees_directions_of_embeddings_only():
    x = _inputs(losses.relative_po)
    e = x["prompt_embeddings"]
    scaled = x | {"prompt_embeddings": e * jnp.array([1e-6, 1.0, 3.0, 1e5, 7.0])[:, None]}
    np.testing.assert_allclose(losses.relative_po(**scaled), losses.relative_po(**x), rtol=1e-12)
    gradient = jax.grad(lambda e: losses.relative_po(**x | {"prompt_embeddings": e}).sum())
    np.testing.assert_array_equal(gradient(e), 0)
    zero = x | {"prompt_embeddings": e.at[1].set(0)}
    assert jnp.isfinite(losses.relative_po(**zero)).all()
