"""Preference matrices and the losses that fit them: cycles, symmetries, minima, in float64."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.preference_model import (
    bradley_terry_preferences,
    check_preferences,
    general_preference_scores,
    general_preferences,
    symmetrised,
)
from jaxpref.losses.win_rates import gpo_scores, win_rates


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _on_circle(*degrees):
    angles = np.deg2rad(degrees)
    return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], -1))[None]


def _embeddings(seed=0, shape=(3, 5, 6)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_three_cycle():
    v = _on_circle(0, 120, 240)
    c = np.sqrt(3) / 2
    np.testing.assert_allclose(
        general_preference_scores(v)[0], [[0, c, -c], [-c, 0, c], [c, -c, 0]], atol=1e-15
    )
    p = general_preferences(v)
    check_preferences(p)
    np.testing.assert_allclose(p[0, 0, 1], 0.99983, atol=5e-6)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        assert p[0, i, j] > 0.999


def test_unit_vectors_give_sines():
    degrees = np.array([10.0, 80.0, 200.0, 300.0])
    expected = np.sin(np.deg2rad(degrees[None] - degrees[:, None]))
    np.testing.assert_allclose(general_preference_scores(7 * _on_circle(*degrees))[0], expected, atol=1e-14)


def test_embeds_bradley_terry():
    rewards = jnp.array([[0.3, -2.0, 1.7, 0.0]])
    v = jnp.stack([rewards, jnp.ones_like(rewards)], -1)
    scores = general_preference_scores(v, normalize=False)
    np.testing.assert_array_equal(scores, rewards[:, :, None] - rewards[:, None, :])
    np.testing.assert_allclose(
        general_preferences(v, normalize=False, temperature=0.7),
        bradley_terry_preferences(rewards, temperature=0.7),
        rtol=1e-14,
    )
    loss = losses.general_preference(v[0, :2], v[0, 2:], normalize=False, temperature=0.7, margin=0.2)
    expected = losses.bradley_terry(rewards[0, :2], rewards[0, 2:], temperature=0.7, margin=0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)


@pytest.mark.parametrize("normalize", [False, True])
def test_scores_are_skew_and_match_the_block_form(normalize):
    v = _embeddings()
    scores = general_preference_scores(v, normalize=normalize)
    np.testing.assert_array_equal(scores, -scores.swapaxes(1, 2))
    block = np.kron(np.eye(3), [[0, -1], [1, 0]])
    unit = v / np.linalg.norm(v, axis=-1, keepdims=True) if normalize else v
    np.testing.assert_allclose(scores, unit @ block.T @ unit.swapaxes(1, 2), rtol=1e-12, atol=1e-14)
    pairs = losses.general_preference(v[:, 0], v[:, 1], normalize=normalize)
    np.testing.assert_allclose(pairs, np.log1p(np.exp(-scores[:, 0, 1] / 0.1)), rtol=1e-11)


@pytest.mark.parametrize("normalize", [False, True])
def test_invariant_to_rotations_of_each_block(normalize):
    v = _embeddings()
    turns = np.zeros((6, 6))
    for block, angle in enumerate((0.3, -2.0, 4.0)):
        c, s = np.cos(angle), np.sin(angle)
        turns[2 * block : 2 * block + 2, 2 * block : 2 * block + 2] = [[c, -s], [s, c]]
    np.testing.assert_allclose(
        general_preference_scores(v @ turns, normalize=normalize),
        general_preference_scores(v, normalize=normalize),
        atol=1e-13,
    )
    mixed = general_preference_scores(v @ np.roll(np.eye(6), 1, 0), normalize=normalize)
    assert np.abs(mixed - general_preference_scores(v, normalize=normalize)).max() > 0.1


def test_eigenvalues_weigh_blocks():
    v = _embeddings()
    plain = general_preference_scores(v)
    uniform = jnp.full((3, 3), 1 / 3)
    np.testing.assert_allclose(general_preference_scores(v, uniform), plain, rtol=1e-12, atol=1e-15)
    only = jnp.tile(jnp.array([0.0, 1.0, 0.0]), (3, 1))
    unit = v / np.linalg.norm(v, axis=-1, keepdims=True)
    second = general_preference_scores(unit[..., 2:4], normalize=False)
    np.testing.assert_allclose(general_preference_scores(v, only), 3 * second, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="expected one shape"):
        general_preference_scores(v, uniform[:, :2])


def test_odd_width_is_an_error():
    with pytest.raises(ValueError, match="even"):
        losses.general_preference(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="even"):
        general_preferences(jnp.ones((1, 2, 5)))


def test_embeddings_of_zero():
    """No direction: a score of 0, and no NaN in the gradient."""
    zero, other = jnp.zeros((1, 4)), jnp.ones((1, 4))
    value, gradient = jax.value_and_grad(lambda v: losses.general_preference(v, other)[0])(zero)
    np.testing.assert_allclose(value, np.log(2))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("p", [0.9, 0.35])
def test_minima_of_soft_labels(p):
    """Where the scores reach the logit of p, and not elsewhere."""
    target = np.log(p / (1 - p))
    angle = np.arcsin(0.1 * target)
    labels, first = jnp.full(1, p), _on_circle(0)[0]

    def general(step):
        second = _on_circle(np.rad2deg(angle) + step)[0]
        return losses.general_preference_soft(first, second, labels)[0]

    def pair(step):
        return losses.pair_preference_soft(jnp.full(1, target + 0.4 + step), jnp.full(1, 0.4), labels)[0]

    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    for loss in (general, pair):
        np.testing.assert_allclose(loss(0.0), entropy, rtol=1e-12)
        assert min(loss(-0.1), loss(0.1)) > loss(0.0)
    v = _embeddings(shape=(2, 5, 4))
    certain = losses.general_preference_soft(*v, jnp.ones(5))
    np.testing.assert_allclose(certain, losses.general_preference(*v), rtol=1e-12)


def test_cross_encoder_of_both_orders():
    rng = np.random.default_rng(1)
    first, second = jnp.asarray(rng.normal(size=(2, 6)))
    probability = jnp.exp(-losses.pair_preference(first, second))
    swapped = jnp.exp(-losses.pair_preference(second, first))
    np.testing.assert_allclose(probability + swapped, 1, rtol=1e-14)
    position = jnp.linspace(-3, 3, 6)  # what the model makes of the order adds to both
    biased = losses.pair_preference(first + position, second + position)
    np.testing.assert_allclose(biased, losses.pair_preference(first, second), rtol=1e-12)


def test_penalised_cross_encoder():
    rng = np.random.default_rng(2)
    first, second, p = rng.normal(size=6), rng.normal(size=6), rng.uniform(size=6)
    p12, p21 = 1 / (1 + np.exp(-first)), 1 / (1 + np.exp(-second))
    entropy = -(p * np.log(p12) + (1 - p) * np.log1p(-p12) + (1 - p) * np.log(p21) + p * np.log1p(-p21)) / 2
    for weight in (0.0, 2.5):
        loss = losses.pair_preference_penalised(first, second, p, symmetry_weight=weight)
        np.testing.assert_allclose(loss, entropy + weight * (p12 + p21 - 1) ** 2, rtol=1e-12)
    at = np.log(p / (1 - p))
    best = jax.grad(lambda x: losses.pair_preference_penalised(x[0], x[1], jnp.asarray(p)).sum())
    np.testing.assert_allclose(best(jnp.stack([at, -at])), 0, atol=1e-14)


def test_symmetrised():
    p = np.random.default_rng(0).uniform(size=(2, 4, 4))
    p[:, range(4), range(4)] = np.nan  # a judge is not asked about a response and itself
    ours = symmetrised(p)
    check_preferences(ours)
    np.testing.assert_allclose(ours[1, 2, 0], (p[1, 2, 0] + 1 - p[1, 0, 2]) / 2)
    np.testing.assert_allclose(symmetrised(ours), ours, rtol=1e-15)
    rewards = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)))
    check_preferences(bradley_terry_preferences(rewards))
    with enable_x64(False):
        check_preferences(general_preferences(jnp.asarray(_embeddings(), jnp.float32)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.at[0, 1].set(0.9), r"P \+ P\^T = 1, off by 0.2 at \(0, 1\)"),
        (lambda p: p.at[1, 1].set(0.6), "diagonal"),
        (lambda p: p.at[0, 1].set(1.2), r"\[0, 1\]"),
        (lambda p: p.at[0, 1].set(jnp.nan), r"\[0, 1\]"),
        (lambda p: p[:1], r"\[..., k, k\]"),
    ],
)
def test_what_is_no_preference_matrix(change, message):
    p = jnp.array([[0.5, 0.7], [0.3, 0.5]])
    check_preferences(p)
    with pytest.raises(ValueError, match=message):
        check_preferences(change(p))


def _learn(loss, params):
    update = optax.adam(0.05)
    state = update.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda q: loss(q).mean())(params)
        changes, state = update.update(gradient, state)
        return optax.apply_updates(params, changes), state

    for _ in range(300):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize(("n", "width"), [(3, 2), (5, 4)])
def test_only_embeddings_learn_a_cycle(n, width):
    """Each item beats the (n - 1) / 2 after it: a tournament in which all items are alike.

    (A circle holds five items, too, but a search on it can end with two of them the wrong way round.)
    """
    wins = np.array([(i, (i + d) % n) for i in range(n) for d in range(1, (n + 1) // 2)])
    w, l = wins.T  # noqa: E741
    rng = np.random.default_rng(0)
    rewards = _learn(lambda r: losses.bradley_terry(r[w], r[l]), jnp.asarray(rng.normal(size=n)))
    ordered = max(
        np.mean([o.index(i) < o.index(j) for i, j in wins]) for o in itertools.permutations(range(n))
    )
    np.testing.assert_allclose(ordered, {3: 2 / 3, 5: 7 / 10}[n])
    assert (rewards[w] > rewards[l]).mean() <= ordered
    np.testing.assert_allclose(losses.bradley_terry(rewards[w], rewards[l]).mean(), np.log(2), rtol=1e-4)
    equal = jax.grad(lambda r: losses.bradley_terry(r[w], r[l]).mean())(jnp.zeros(n))
    np.testing.assert_allclose(equal, 0, atol=1e-16)

    v = _learn(lambda v: losses.general_preference(v[w], v[l]), jnp.asarray(rng.normal(size=(n, width))))
    p = general_preferences(v[None])[0]
    assert (p[w, l] > 0.5).all()
    scores = jnp.asarray(rng.normal(size=(n, n)))  # a cross-encoder: any number for any two in any order
    scores = _learn(lambda s: losses.pair_preference(s[w, l], s[l, w]), scores)
    assert (scores[w, l] > scores[l, w]).all()


def test_deterministic_cycle_and_rewards():
    """Whatever the rewards: two of three labels at best, and a mean loss of log 2 or more."""
    w, l = jnp.array([0, 1, 2]), jnp.array([1, 2, 0])  # noqa: E741
    for rewards in itertools.product((-1.0, 0.0, 0.5, 2.0), repeat=3):
        r = jnp.array(rewards)
        assert (r[w] > r[l]).sum() <= 2
        assert losses.bradley_terry(r[w], r[l]).mean() >= np.log(2) - 1e-15


def test_win_rates_count_the_response_itself():
    p = jnp.array([[[0.5, 0.9, 0.8], [0.1, 0.5, 0.6], [0.2, 0.4, 0.5]]])
    np.testing.assert_allclose(win_rates(p)[0], [2.2 / 3, 1.2 / 3, 1.1 / 3])
    unasked = jnp.where(jnp.eye(3, dtype=bool), jnp.nan, p)
    np.testing.assert_allclose(win_rates(unasked), win_rates(p))
    two = win_rates(p.at[0, 2].set(jnp.nan).at[0, :, 2].set(jnp.nan), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(two[0], [0.7, 0.3, 0])
    scores = general_preference_scores(_embeddings())
    np.testing.assert_allclose(gpo_scores(scores), scores.mean(-1), atol=1e-15)
    np.testing.assert_allclose(gpo_scores(scores).sum(-1), 0, atol=1e-14)
    with pytest.raises(ValueError, match="expected one shape"):
        win_rates(p[:, :2])


def _policy_inputs(**changes):
    rng = np.random.default_rng(0)
    names = ("chosen_logps", "rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
    return {n: jnp.asarray(rng.normal(-9, 3, 6)) for n in names} | changes


def test_sppo_limits():
    x = _policy_inputs()
    certain = losses.sppo(**x, chosen_scores=jnp.ones(6), rejected_scores=jnp.zeros(6), beta=0.02)
    np.testing.assert_allclose(certain, losses.sppo_hard(**x, beta=0.02), rtol=1e-12)
    even = losses.sppo(**x, chosen_scores=jnp.full(6, 0.5), rejected_scores=jnp.full(6, 0.5))
    u_w, u_l = (x[f"{s}_logps"] - x[f"reference_{s}_logps"] for s in ("chosen", "rejected"))
    np.testing.assert_allclose(even, (u_w**2 + u_l**2) / 2, rtol=1e-12)
    scores = jnp.linspace(0.5, 1, 6), jnp.linspace(0.5, 0, 6)
    ours = losses.sppo(**x, chosen_scores=scores[0], rejected_scores=scores[1])
    same = losses.gpo(**x, chosen_scores=scores[0] - 0.5, rejected_scores=scores[1] - 0.5)
    np.testing.assert_allclose(ours, same, rtol=1e-12)


def test_sppo_step_is_multiplicative_weights():
    """Zero at pi exp((P - 1/2) / beta), which is not normalised; half a square of the distance elsewhere."""
    rng = np.random.default_rng(0)
    p = symmetrised(rng.uniform(size=(1, 5, 5)))[0]
    rates, beta = win_rates(p[None])[0], 2.0
    old = jax.nn.log_softmax(jnp.asarray(rng.normal(size=5)))
    new = old + (rates - 0.5) / beta
    fields = {"chosen_logps": new, "rejected_logps": new[::-1]}
    fields |= {"reference_chosen_logps": old, "reference_rejected_logps": old[::-1]}
    fields |= {"chosen_scores": rates, "rejected_scores": rates[::-1]}
    loss = partial(losses.sppo, beta=beta)
    np.testing.assert_allclose(loss(**fields), 0, atol=1e-28)
    moved = loss(**fields | {"chosen_logps": new + 0.3})
    np.testing.assert_allclose(moved, 0.045, rtol=1e-12)
