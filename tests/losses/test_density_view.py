"""Exact optima: annotators with a density of their own, all pairs of a finite set, and what our losses learn.

The density view of preferences of Dumoulin et al. 2023, arXiv:2311.14115. Newton's method on the mean loss
over all ordered pairs, each weighted by its probability, must arrive at the density that theory names.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import losses

ITEMS, BETA, ALPHA = 6, 0.7, 0.4
FIRST, SECOND = (np.array(i) for i in zip(*itertools.permutations(range(ITEMS), 2), strict=True))
TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _density(seed, scale=1.0):
    return jax.nn.log_softmax(jnp.asarray(np.random.default_rng(seed).normal(0, scale, ITEMS)))


TARGET, PRETRAINED = (lambda: _density(0)), (lambda: _density(1))


def _luce(log_p):
    """P(first beats second) of all ordered pairs."""
    return jax.nn.sigmoid(log_p[FIRST] - log_p[SECOND])


def _population(loss, preferences):
    """The mean loss of a policy or a reward (its free numbers) where annotators prefer so."""

    def value(free):
        logps = jax.nn.log_softmax(jnp.concatenate([free, jnp.zeros(1)]))
        return (preferences * loss(logps)).sum() / len(FIRST)

    return value


def _minimum(value):
    """log-probs at the minimum that Newton's method finds, which is shown to be one."""
    slopes = jax.jit(lambda x: (jax.grad(value)(x), jax.hessian(value)(x)))
    free = np.zeros(ITEMS - 1)
    for _ in range(50):
        gradient, hessian = slopes(free)
        change = np.linalg.solve(hessian, gradient)
        free = free - change * min(1, 1 / np.abs(change).max(initial=1e-300))  # damped far away
    gradient, hessian = slopes(free)
    assert np.abs(gradient).max() < 1e-14
    assert np.linalg.eigvalsh(hessian).min() > 1e-5
    return jax.nn.log_softmax(jnp.concatenate([free, jnp.zeros(1)]))


def _close(found, expected):
    np.testing.assert_allclose(found, jax.nn.log_softmax(expected), rtol=0, atol=TOLERANCE)


def _dpo(reference, loss=losses.dpo, **arguments):
    return lambda logps: loss(logps[FIRST], logps[SECOND], reference[FIRST], reference[SECOND], **arguments)


def test_bradley_terry_finds_the_density():
    found = _minimum(_population(lambda r: losses.bradley_terry(r[FIRST], r[SECOND]), _luce(TARGET())))
    _close(found, TARGET())


def test_soft_labels_find_it_from_one_order_of_each_pair():
    once = FIRST < SECOND
    first, second, p = FIRST[once], SECOND[once], _luce(TARGET())[once]

    def value(free):
        r = jnp.concatenate([free, jnp.zeros(1)])
        return losses.bradley_terry_soft(r[first], r[second], p).mean()

    _close(_minimum(value), TARGET())


@pytest.mark.parametrize("beta", [BETA, 0.2])
def test_dpo_sharpens_the_annotators(beta):
    """pi proportional to pi_ref p^(1 / beta): the annotators' density only if beta is 1 and pi_ref flat."""
    found = _minimum(_population(_dpo(PRETRAINED(), beta=beta), _luce(TARGET())))
    _close(found, PRETRAINED() + TARGET() / beta)
    assert np.abs(found - TARGET()).max() > 0.1


def test_geometric_mixture():
    """Reward (log pi - log pi_ref) / alpha + log pi_ref: pi proportional to p^alpha pi_ref^(1 - alpha)."""
    reference = PRETRAINED()
    margins = reference[SECOND] - reference[FIRST]

    def loss(logps):
        ratios = (logps - reference) / ALPHA
        return losses.bradley_terry_margin(ratios[FIRST], ratios[SECOND], margins)

    _close(_minimum(_population(loss, _luce(TARGET()))), ALPHA * TARGET() + (1 - ALPHA) * reference)


def test_dpo_of_annotators_who_compare_with_the_reference():
    """Preferences by beta (log p - log pi_ref): then DPO at the same beta finds p."""
    preferences = _luce(BETA * (TARGET() - PRETRAINED()))
    _close(_minimum(_population(_dpo(PRETRAINED(), beta=BETA), preferences)), TARGET())
    other = _minimum(_population(_dpo(PRETRAINED(), beta=2 * BETA), preferences))
    _close(other, (TARGET() + PRETRAINED()) / 2)


@pytest.mark.parametrize("e", [0.1, 0.3])
def test_robust_dpo_of_flipped_labels_finds_what_dpo_finds_of_clean_ones(e):
    clean = _luce(TARGET())
    flipped = (1 - e) * clean + e * (1 - clean)
    loss = _dpo(PRETRAINED(), losses.robust_dpo, beta=BETA, label_smoothing=e)
    _close(_minimum(_population(loss, flipped)), PRETRAINED() + TARGET() / BETA)
    naive = _minimum(_population(_dpo(PRETRAINED(), beta=BETA), flipped))
    assert np.abs(naive - jax.nn.log_softmax(PRETRAINED() + TARGET() / BETA)).max() > 0.1


def _lengths():
    return jnp.array([1.0, 2.0, 4.0, 3.0, 4.0, 2.0])


def _per_token_annotators():
    """Preferences by log p / |y|, scaled by the largest length."""
    return _luce(_lengths().max() * TARGET() / _lengths())


def test_rewards_of_annotators_who_count_per_token():
    """A reward has its own normaliser, so it takes up log p / |y|; it is not log p."""
    found = _minimum(
        _population(lambda r: losses.bradley_terry(r[FIRST], r[SECOND]), _per_token_annotators())
    )
    _close(found, _lengths().max() * TARGET() / _lengths())
    assert np.abs(found - TARGET()).max() > 1


def test_simpo_of_annotators_who_count_per_token():
    """Same normalisation on both sides: the policy is p itself, since c = 0 alone normalises p exp(c |y|)."""
    lengths = _lengths()

    def loss(logps):
        return losses.simpo(
            logps[FIRST],
            logps[SECOND],
            lengths[FIRST],
            lengths[SECOND],
            beta=float(lengths.max()),
            gamma_beta_ratio=0.0,
        )

    value = _population(loss, _per_token_annotators())
    target = TARGET()
    at = target[:-1] - target[-1]
    assert jnp.abs(jax.grad(value)(at)).max() < 1e-14
    assert jnp.linalg.eigvalsh(jax.hessian(value)(at)).min() > 1e-5


def _mixture():
    """Two annotators of opposite minds, asked equally often; their preferences, and the mixed density."""
    minds = [_density(2, 2.0), _density(3, 2.0)]
    weights = (0.6, 0.4)
    preferences = sum(w * _luce(p) for w, p in zip(weights, minds, strict=True))
    density = jax.nn.logsumexp(jnp.stack([p + np.log(w) for w, p in zip(weights, minds, strict=True)]), 0)
    return preferences, density


def _logits(preferences):
    table = np.zeros((ITEMS, ITEMS))
    table[FIRST, SECOND] = np.log(preferences) - np.log1p(-preferences)
    return table


def test_no_reward_fits_a_mixture_of_annotators():
    """Logits of a density add up to 0 round a triangle; those of a mixture do not."""
    triangles = list(itertools.combinations(range(ITEMS), 3))

    def round_triangles(preferences):
        t = _logits(preferences)
        return np.array([t[i, j] + t[j, k] + t[k, i] for i, j, k in triangles])

    preferences, density = _mixture()
    assert np.abs(round_triangles(_luce(density))).max() < 1e-13
    assert np.abs(round_triangles(preferences)).max() > 0.1
    found = _minimum(_population(lambda r: losses.bradley_terry(r[FIRST], r[SECOND]), preferences))
    assert np.abs(_luce(found) - preferences).max() > 0.01
    assert np.abs(found - density).max() > 0.1, "nor is the best fit the mixture of their densities"


def test_a_skew_score_fits_the_mixture():
    """One block for each two items in general position: any skew table is v^T R^T v of wide enough v."""
    preferences, _ = _mixture()
    target = _logits(preferences)
    # v_i = (x_i, (target x)_i / ...): blocks (e_l, target row l) give sum_l (e_il T_lj - T_li e_jl) = 2 T_ij.
    v = jnp.stack([jnp.eye(ITEMS), jnp.asarray(target).T], -1).reshape(ITEMS, 2 * ITEMS) / np.sqrt(2)
    loss = losses.general_preference_soft(v[FIRST], v[SECOND], preferences, temperature=1.0, normalize=False)
    entropy = -(preferences * np.log(preferences) + (1 - preferences) * np.log1p(-preferences))
    np.testing.assert_allclose(loss, entropy, rtol=1e-12)
    gradient = jax.grad(
        lambda v: losses.general_preference_soft(
            v[FIRST], v[SECOND], preferences, temperature=1.0, normalize=False
        ).sum()
    )(v)
    np.testing.assert_allclose(gradient, 0, atol=1e-13)
