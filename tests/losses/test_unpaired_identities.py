"""What losses of single labelled responses must obey, in float64; KTO and APO against TRL's numbers."""

import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from scipy.optimize import minimize
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind

TRL = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "trl" / "dpo_loss_values.json"


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss, batch=8, seed=0):
    x = {n: jnp.asarray(v) for n, v in inputs_for(loss, batch, seed=seed).items()}
    return x | {"labels": jnp.arange(batch) % 2}


def _ratio(x, prefix=""):
    return x[f"{prefix}logps"] - x[f"reference_{prefix}logps"]


def _kto_at(u, label, z=0.0, **arguments):
    """Loss of one response at log-ratio u, where the baseline is z."""
    one, zero = jnp.ones(1), jnp.zeros(1)
    where, labels = jnp.ones(1, bool), jnp.full(1, label)
    return losses.kto(u * one, zero, labels, z * one, zero, where, **arguments)[0]


# KTO


@pytest.mark.parametrize(("label", "slope"), [(1, -1), (0, 1)])
def test_kto_at_the_baseline(label, slope):
    value, found = jax.value_and_grad(_kto_at)(3.0, label, 3.0, beta=0.3)
    np.testing.assert_allclose([value, found], [0.5, slope * 0.3 / 4], rtol=1e-14)


def test_kto_is_bounded_and_its_gradient_symmetric():
    for label in (0, 1):
        at = partial(_kto_at, label=label, z=2.0, desirable_weight=1.5, undesirable_weight=0.7)
        bound = (0.7, 1.5)[label]
        values = jnp.stack([at(u) for u in (-1e4, -50.0, 2.0, 50.0, 1e4)])
        assert (values >= 0).all()
        assert (values <= bound).all()
        np.testing.assert_allclose(sorted(values)[::4], [0, bound], atol=1e-12)
        above, below = jax.grad(at)(2.0 + 17.0), jax.grad(at)(2.0 - 17.0)
        np.testing.assert_allclose(above, below, rtol=1e-12)
        assert abs(jax.grad(at)(1e4)) < 1e-100


def test_kto_baseline_is_the_mean_of_valid_rows_and_not_below_zero():
    x = _inputs(losses.kto)
    x["where"] = jnp.arange(8) != 2
    x["mismatched_logps"] = x["reference_mismatched_logps"].at[:4].add(5.0)  # zero ratios count: 15 / 7
    baseline, u = 15 / 7, _ratio(x)
    expected = jnp.where(
        x["labels"] == 1, jax.nn.sigmoid(0.1 * (baseline - u)), jax.nn.sigmoid(0.1 * (u - baseline))
    )
    np.testing.assert_allclose(bind(losses.kto, x), jnp.where(x["where"], expected, 0), rtol=1e-12)
    x["mismatched_logps"] = x["reference_mismatched_logps"] - 5.0
    clamped = jnp.where(x["where"], bind(losses.apo_zero_unpaired, x), 0)
    np.testing.assert_allclose(bind(losses.kto, x), clamped, rtol=1e-12)


def test_kto_without_valid_rows_is_zero():
    x = _inputs(losses.kto) | {"where": jnp.zeros(8, bool)}
    np.testing.assert_array_equal(bind(losses.kto, x), 0)


@pytest.mark.parametrize("name", ["kto", "kto_weighted"])
def test_kto_equals_trl(name):
    document = json.loads(TRL.read_text())
    case = next(c for c in document["cases"] if c["name"] == name)
    given = {n: np.array(v[:10]) for n, v in document["inputs"].items()}
    parameters = dict(case["parameters"])
    kl_shift = parameters.pop("kl_shift")
    reference = np.concatenate([given["reference_chosen_logps"], given["reference_rejected_logps"]])

    def value(chosen, rejected):
        # TRL's mismatched responses: ten, here twice, so that the mean is the same.
        mismatched = np.tile(given["chosen_logps"] + kl_shift, 2), np.tile(given["reference_chosen_logps"], 2)
        labels, logps = jnp.repeat(jnp.array([1, 0]), 10), jnp.concatenate([chosen, rejected])
        return losses.kto(logps, reference, labels, *mismatched, jnp.ones(20, bool), **parameters)

    sides = jnp.asarray(given["chosen_logps"]), jnp.asarray(given["rejected_logps"])
    np.testing.assert_allclose(value(*sides), case["losses"], rtol=1e-11)
    chosen, rejected = jax.grad(lambda *s: value(*s).sum(), (0, 1))(*sides)
    np.testing.assert_allclose(chosen, case["gradient_chosen_logps"], rtol=1e-9)
    np.testing.assert_allclose(rejected, case["gradient_rejected_logps"], rtol=1e-9)


# BCO


def _bco(x, state=None, loss=losses.bco, **arguments):
    return bind(partial(loss, state=losses.bco_state() if state is None else state, **arguments), x)


def _class_means(x, beta=0.1):
    rewards = beta * _ratio(x)
    return [float(rewards[(x["labels"] == c) & x["where"]].mean()) for c in (0, 1)]


def _bce(x, shift, beta=0.1):
    rewards = beta * _ratio(x)
    margins = jnp.where(x["labels"] == 1, rewards - shift, shift - rewards)
    return jnp.where(x["where"], jax.nn.softplus(-margins), 0)


def test_bco_first_shift_is_balanced_over_the_labels():
    x = _inputs(losses.bco) | {"labels": jnp.array([1, 1, 1, 1, 1, 0, 0, 1])}
    shift = np.mean(_class_means(x))
    assert abs(shift - float((0.1 * _ratio(x)).mean())) > 1e-3, "not the mean of all rewards"
    np.testing.assert_allclose(_bco(x)[0], _bce(x, shift), rtol=1e-12)


def test_bco_shift_is_a_moving_average_updated_before_use():
    state, means = losses.bco_state(), [[], []]
    batches = [_inputs(losses.bco, seed=s) for s in range(4)]
    batches[1]["labels"] = jnp.ones(8, int)  # no undesirable one: its average stays
    for x in batches:
        for c in (0, 1):
            if (x["labels"] == c).any():
                means[c].append(_class_means(x)[c])
        averages = []
        for past in means:
            weights = 0.3 * 0.7 ** np.arange(len(past))[::-1]
            averages.append(np.dot(weights, past) / weights.sum())
        values, state = _bco(x, state, decay=0.7)
        np.testing.assert_allclose(values, _bce(x, np.mean(averages)), rtol=1e-6)
    assert [len(m) for m in means] == [3, 4]
    assert state.sums.dtype == losses.bco_state().sums.dtype


def test_bco_before_a_label_was_seen():
    x = _inputs(losses.bco) | {"labels": jnp.ones(8, int)}
    np.testing.assert_allclose(_bco(x)[0], _bce(x, _class_means(x)[1]), rtol=1e-12)
    nothing = x | {"where": jnp.zeros(8, bool)}
    values, state = _bco(nothing)
    np.testing.assert_array_equal(values, 0)
    for now, start in zip(state, losses.bco_state(), strict=True):
        np.testing.assert_array_equal(now, start)


def test_bco_bounds_dpo():
    """exp(l(r_w - d) + l(d - r_l)) = exp(dpo) + exp(d - r_w) + exp(r_l - d), for any d."""
    x = _inputs(losses.bco, batch=2)
    x |= {"labels": jnp.array([1, 0]), "where": jnp.ones(2, bool)}
    win, lose = 0.1 * _ratio(x)
    shift = (win + lose) / 2
    total = jnp.exp(_bco(x)[0].sum())
    expected = jnp.exp(jax.nn.softplus(lose - win)) + jnp.exp(shift - win) + jnp.exp(lose - shift)
    np.testing.assert_allclose(total, expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.bco, losses.bco_weighted])
def test_bco_gradient_passes_by_the_shift(loss):
    x = _inputs(loss) | {"where": jnp.ones(8, bool)}
    shift = np.mean(_class_means(x))
    gradient = jax.grad(lambda y: _bco(x | {"logps": y}, loss=loss)[0].sum())(x["logps"])
    weights = 1.0
    if loss is losses.bco_weighted:
        weights = jnp.where(x["labels"] == 0, jnp.clip(x["densities"], 0.5, 10), 1)
    frozen = jax.grad(lambda y: (weights * _bce(x | {"logps": y}, shift)).sum())(x["logps"])
    np.testing.assert_allclose(gradient, frozen, rtol=1e-12)
    leak = jax.grad(lambda y: sum(s.sum() for s in _bco(x | {"logps": y}, loss=loss)[1]))(x["logps"])
    np.testing.assert_array_equal(leak, 0)


def test_bco_weights():
    x = _inputs(losses.bco_weighted) | {"where": jnp.ones(8, bool)}
    plain, state = _bco(x)
    same, same_state = _bco(x | {"densities": jnp.ones(8)}, loss=losses.bco_weighted)
    np.testing.assert_allclose(same, plain, rtol=1e-14)
    np.testing.assert_array_equal(same_state.sums, state.sums)
    densities = jnp.array([0.0, jnp.nan, 2.0, -3.0, 1e9, 0.1, 0.6, jnp.inf])  # desirable: odd places
    expected = jnp.array([0.5, 1, 2, 1, 10, 1, 0.6, 1]) * plain
    values, _ = _bco(x | {"densities": densities}, loss=losses.bco_weighted)
    np.testing.assert_allclose(values, expected, rtol=1e-14)


# APO


def test_apo_zero_unpaired_is_half_of_apo_zero():
    pair = {n: jnp.asarray(v) for n, v in inputs_for(losses.apo_zero, 8).items()}
    sides = [
        losses.apo_zero_unpaired(pair[f"{s}_logps"], pair[f"reference_{s}_logps"], jnp.full(8, label))
        for s, label in (("chosen", 1), ("rejected", 0))
    ]
    np.testing.assert_allclose(sides[0] + sides[1], bind(losses.apo_zero, pair), rtol=1e-14)


def test_apo_zero_unpaired_equals_trl():
    document = json.loads(TRL.read_text())
    case = next(c for c in document["cases"] if c["name"] == "apo_zero")
    given = {n: jnp.asarray(v) for n, v in document["inputs"].items()}
    total = 0.0
    for side, label in (("chosen", 1), ("rejected", 0)):
        logps, reference = given[f"{side}_logps"], given[f"reference_{side}_logps"]
        loss = partial(losses.apo_zero_unpaired, labels=jnp.full(16, label))
        total += loss(logps, reference)
        gradient = jax.grad(lambda y, f=loss, r=reference: f(y, r).sum())(logps)
        np.testing.assert_allclose(gradient, case[f"gradient_{side}_logps"], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(total, case["losses"], rtol=1e-11, atol=1e-13)  # TRL forms 1 - sigmoid


@pytest.mark.parametrize(("label", "slope"), [(1, -1), (0, 1)])
def test_apo_zero_unpaired_slope(label, slope):
    def at(u):
        return losses.apo_zero_unpaired(u * jnp.ones(1), jnp.zeros(1), jnp.full(1, label), beta=0.4)[0]

    value, found = jax.value_and_grad(at)(0.0)
    np.testing.assert_allclose([value, found], [0.5, slope * 0.1], rtol=1e-14)


# PMPO


def test_pmpo_is_likelihood_without_the_rest():
    x = _inputs(losses.pmpo)
    values = bind(partial(losses.pmpo, alpha=1.0, beta=0.0), x)
    np.testing.assert_array_equal(values, jnp.where(x["labels"] == 1, -x["logps"], 0))


def test_pmpo_slopes():
    x = _inputs(losses.pmpo)
    by_logps, by_kl = jax.grad(
        lambda y, kl: bind(
            partial(losses.pmpo, alpha=0.3, beta=0.7), x | {"logps": y, "forward_kl": kl}
        ).sum(),
        (0, 1),
    )(x["logps"], x["forward_kl"])
    np.testing.assert_allclose(by_logps, jnp.where(x["labels"] == 1, -0.3, 0.7), rtol=1e-14)
    np.testing.assert_allclose(by_kl, 0.7 * x["mask"], rtol=1e-14)


def test_pmpo_with_bad_responses_alone_needs_beta():
    x = _inputs(losses.pmpo) | {"labels": jnp.zeros(8, int)}
    values = bind(partial(losses.pmpo, alpha=0.0, beta=0.5), x)
    kl = jnp.where(x["mask"], x["forward_kl"], 0).sum(-1)
    np.testing.assert_allclose(values, x["logps"] + 0.5 * kl, rtol=1e-14)
    unbounded = x | {"logps": jnp.full(8, -1e8)}
    assert (bind(partial(losses.pmpo, alpha=0.5, beta=0.0), unbounded) == -5e7).all()


def test_pmpo_optimum_on_a_table():
    """Over four one-token responses: sum_y c_y log p_y is maximal where p_y is proportional to c_y,
    c = alpha p_good - (1 - alpha) p_bad + beta reference, if all c are above 0."""
    good, bad = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    reference = np.array([0.1, 0.3, 0.4, 0.2])
    alpha, beta = 0.6, 1.5
    target = alpha * good - (1 - alpha) * bad + beta * reference
    assert (target > 0).all()

    def objective(logits):
        log_p = jax.nn.log_softmax(logits)
        kl = (reference * (np.log(reference) - log_p)).sum()
        loss = partial(losses.pmpo, forward_kl=jnp.full((4, 1), kl), mask=jnp.ones((4, 1), bool), alpha=alpha)
        likelihood = [loss(log_p, jnp.full(4, label), beta=0.0) for label in (1, 0)]
        total = loss(log_p, jnp.ones(4, int), beta=beta) - likelihood[0]  # the KL part, of every response
        return (good * likelihood[0] + bad * likelihood[1]).sum() + total.mean()

    found = minimize(jax.jit(jax.value_and_grad(objective)), np.zeros(4), jac=True, tol=1e-12).x
    np.testing.assert_allclose(jax.nn.softmax(found), target / target.sum(), rtol=1e-5)


# All of them


@pytest.mark.parametrize(
    "loss", [losses.kto, losses.bco, losses.bco_weighted, losses.apo_zero_unpaired, losses.pmpo]
)
def test_other_labels_take_a_response_out(loss):
    """Loss 0, no gradient, no influence, whatever stands there."""
    stateful = loss in (losses.bco, losses.bco_weighted)

    def value(given):
        return _bco(given, loss=loss)[0] if stateful else bind(loss, given)

    x = _inputs(loss)
    if "where" in x:
        x["where"] = jnp.ones(8, bool)
    odd = x | {"labels": x["labels"].at[jnp.array([1, 6])].set(jnp.array([-100, 2]))}
    rows = np.array([1, 6])
    rest = np.setdiff1d(np.arange(8), rows)
    odd["logps"] = odd["logps"].at[rows].set(jnp.nan)
    values, gradient = value(odd), jax.grad(lambda y: value(odd | {"logps": y}).sum())(odd["logps"])
    np.testing.assert_array_equal(values[rows], 0)
    np.testing.assert_array_equal(gradient[rows], 0)
    assert (np.abs(gradient[rest]) > 0).all()
    if loss is losses.kto:  # z is over mismatched responses: their rows stay in
        np.testing.assert_allclose(values[rest], value(x)[rest], rtol=1e-14)
    else:
        np.testing.assert_allclose(values[rest], value({n: v[rest] for n, v in x.items()}), rtol=1e-14)


@pytest.mark.parametrize(
    "loss", [losses.kto, losses.bco, losses.bco_weighted, losses.apo_zero_unpaired, losses.pmpo]
)
def test_any_shape(loss):
    stateful = loss in (losses.bco, losses.bco_weighted)
    x = _inputs(loss)
    grid = {n: v.reshape(4, 2, *v.shape[1:]) for n, v in x.items()}
    flat, shaped = (_bco(g, loss=loss)[0] if stateful else bind(loss, g) for g in (x, grid))
    assert shaped.shape == (4, 2)
    np.testing.assert_allclose(shaped.reshape(8), flat, rtol=1e-14)
