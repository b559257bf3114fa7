"""HyPO: DPO where its KL weighs nothing, the gradient of the KL, and its optimum where pairs are few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_token_tree as tree
from loss_inputs import inputs_for
from scipy.optimize import root
from two_token_tree import REFERENCE, THETA, Rows
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.hypo import sampled_kl


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def test_without_weight_it_is_dpo():
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.hypo, 7).items()}
    found = losses.hypo(**x, kl_weight=0.0, beta=0.3)
    np.testing.assert_array_equal(found, losses.dpo(*(x[n] for n in list(x)[:4]), beta=0.3))


def _kl_rows(estimate, reference=REFERENCE):
    """`estimate(sampled, reference)` on tuples of responses, of the KL's part of `hypo` alone."""

    def of_rows(theta, index):
        return estimate(tree.logps(theta)[index], tree.logps(jnp.asarray(reference))[index])

    return of_rows


def _part(sampled, reference):
    zero = jnp.zeros(len(sampled))
    return losses.hypo(zero, zero, zero, zero, sampled, reference, kl_weight=1.0)


@pytest.mark.parametrize("samples", [1, 2])
def test_mean_gradient_is_that_of_the_kl(samples):
    rows, exact = Rows(*(THETA,) * samples), np.asarray(jax.jit(jax.grad(tree.kl))(THETA))
    each = rows.gradients(_kl_rows(_part))
    np.testing.assert_allclose(rows.weights @ each, exact, atol=1e-14)
    assert rows.errors(each, exact) < 4
    as_loss = rows.gradients(_kl_rows(lambda sampled, reference: (sampled - reference).mean(-1)))
    np.testing.assert_allclose(rows.weights @ as_loss, 0, atol=1e-14)
    assert rows.errors(as_loss, exact) > 20


@pytest.mark.parametrize(("distance", "helps"), [(0.1, False), (4.0, True)])
def test_another_sample_as_baseline_helps_far_from_the_reference(distance, helps):
    """Its own noise is as large as the log-ratio's: near the reference no baseline is better."""
    rows, reference = Rows(THETA, THETA), THETA * (1 - distance)

    def alone(s, r):
        return (_part(s[:, :1], r[:, :1]) + _part(s[:, 1:], r[:, 1:])) / 2

    with_it, without = (rows.gradients(_kl_rows(of, reference)) for of in (_part, alone))
    np.testing.assert_allclose(rows.weights @ with_it, rows.weights @ without, atol=1e-13)
    noise = [(rows.weights @ (g - rows.weights @ with_it) ** 2).sum() for g in (with_it, without)]
    assert (noise[0] < noise[1]) == helps


def test_two_samples_by_hand():
    sampled, reference = jnp.array([[-1.0, -4.0]]), jnp.array([[-3.0, -3.0]])  # log-ratios 2 and -1
    slopes = jax.jit(jax.grad(lambda s: sampled_kl(s, reference).sum()))(sampled)
    np.testing.assert_allclose(slopes, [[1.5, -1.5]])
    clipped = jax.jit(jax.grad(lambda s: sampled_kl(s, reference, clip=1.5).sum()))(sampled)
    np.testing.assert_allclose(clipped, [[1.25, -1.25]])


PAIRS = np.array([[0, 1], [1, 0]])
LABELS = np.array([0.8, 0.2])
COVERED_BY = np.log([0.4, 0.4, 0.2])
TUPLES = np.array([(pair, i, j) for pair in range(2) for i in range(3) for j in range(3)])


@jax.jit
def _coverage_gradient(logits, kl_weight):
    """Mean gradient of the loss over pairs of the first two actions, and two samples of the policy itself."""
    reference = jnp.asarray(COVERED_BY)
    drawn = jax.nn.softmax(logits)
    weights = jnp.asarray(LABELS)[TUPLES[:, 0]] * drawn[TUPLES[:, 1]] * drawn[TUPLES[:, 2]]

    def mean(logits):
        logps = jax.nn.log_softmax(logits)
        chosen, rejected = PAIRS[TUPLES[:, 0]].T
        own = TUPLES[:, 1:]
        sides = (logps[chosen], logps[rejected], reference[chosen], reference[rejected])
        # The weight of the KL is a hyper-parameter: a traced one cannot be checked.
        pairs = losses.hypo(*sides, logps[own], reference[own], beta=1.0, kl_weight=0.0)
        both = losses.hypo(*sides, logps[own], reference[own], beta=1.0, kl_weight=1.0)
        return (weights * (pairs + kl_weight * (both - pairs))).sum()

    return jax.grad(mean)(logits)


@pytest.mark.parametrize(
    ("kl_weight", "expected", "margin", "ratio"),
    [
        (0.01, (0.612930, 0.154865, 0.232206), 1.375698, 0.149306),
        (0.1, (0.604112, 0.167248, 0.228641), 1.284282, 0.133834),
        (1.0, (0.532378, 0.257549, 0.210073), 0.726142, 0.049136),
        (1e4, (0.4, 0.4, 0.2), 0.0, 0.0),
    ],
)
def test_where_pairs_cover_two_of_three_actions(kl_weight, expected, margin, ratio):
    start = COVERED_BY[:2] - COVERED_BY[2]
    found = root(lambda x: _coverage_gradient(np.append(x, 0.0), kl_weight)[:2], start, tol=1e-13)
    logps = np.asarray(jax.nn.log_softmax(np.append(found.x, 0.0)))
    digits = 6e-7 if kl_weight < 10 else 2e-4
    np.testing.assert_allclose(np.exp(logps), expected, atol=digits)
    u = logps - COVERED_BY
    np.testing.assert_allclose([u[0] - u[1], u[2]], [margin, ratio], atol=digits)
    np.testing.assert_allclose(u[2], np.exp(logps) @ u, atol=1e-10, err_msg="uncovered log-ratio is the KL")
    np.testing.assert_allclose(_coverage_gradient(np.append(found.x, 0.0), kl_weight), 0, atol=1e-9)


def test_dpo_leaves_the_uncovered_action_free():
    for free in (-5.0, 0.0, 5.0):
        logits = COVERED_BY + np.array([np.log(4.0), 0.0, free])
        np.testing.assert_allclose(_coverage_gradient(logits, 0.0), 0, atol=1e-15)
        assert np.abs(_coverage_gradient(logits, 0.1)).max() > 1e-3


@pytest.mark.parametrize(
    ("beta", "expected"), [(1.0, (0.0476, 0.1905, 0.7619)), (0.5, (0.0037, 0.0586, 0.9377))]
)
def test_features_carry_dpo_beyond_its_pairs(beta, expected):
    """Log-linear policy, features (1, 0), (1/2, 1/2), (0, 1); the second action beats the first, no third."""
    features = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])

    def mean(theta, beta):
        logps = jax.nn.log_softmax(features @ theta)
        chosen, rejected = np.array([1, 0]), np.array([0, 1])
        zero = jnp.full(2, -jnp.log(3.0))
        h = losses.dpo(logps[chosen], logps[rejected], zero, zero, beta=beta)
        return LABELS @ h

    gradient = jax.jit(jax.grad(mean), static_argnums=1)
    found = root(lambda x: gradient(np.array([0.0, x[0]]), beta)[1:], [1.0], tol=1e-12)
    p = np.exp(features @ [0.0, found.x[0]])
    p /= p.sum()
    np.testing.assert_allclose(p, expected, atol=6e-5)
    np.testing.assert_allclose(p, p[0] * np.exp(np.arange(3) * np.log(4) / beta), rtol=1e-8)
    assert p[1] < 1 / 3, "the chosen action fell, for the unseen one"
