"""The logical view of losses: named structures equal named losses, entailment orders values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses import logic

PAIR = ("chosen", "rejected")
POLICY = {name: s for name, s in logic.STRUCTURES.items() if s.propositions == PAIR}


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _log_ps(names, n=400, seed=0):
    """Log-probs from near certain to very unlikely."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(-np.exp(rng.uniform(-6, 3.5, n))) for name in names}


def _close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_cpo():
    x = _log_ps(PAIR)
    ones = jnp.ones(400)
    _close(
        logic.semantic_loss(logic.CPO, **x),
        losses.cpo(x["chosen"], x["rejected"], ones, beta=1.0, sft_weight=0.0),
    )


def test_orpo_is_its_odds_term():
    x, ones = _log_ps(PAIR), jnp.ones(400)
    given = (x["chosen"], x["rejected"], ones, ones)
    odds = losses.orpo(*given, odds_weight=1.0) - losses.orpo(*given, odds_weight=0.0)
    np.testing.assert_allclose(logic.semantic_loss(logic.ORPO, **x), odds, rtol=1e-9, atol=1e-9)


def test_dpo():
    x = _log_ps(logic.DPO.propositions)
    expected = losses.dpo(
        x["chosen"], x["rejected"], x["reference_chosen"], x["reference_rejected"], beta=1.0
    )
    _close(logic.semantic_loss(logic.DPO, **x), expected)


def test_cross_entropy_and_unlikelihood():
    x = _log_ps(PAIR)
    _close(logic.semantic_loss(logic.CROSS_ENTROPY, **x), losses.sft(x["chosen"]))
    expected = -x["chosen"] - jnp.log(-jnp.expm1(x["rejected"]))
    _close(logic.semantic_loss(logic.UNLIKELIHOOD, **x), expected)


def test_gradients_are_those_of_the_named_loss_and_none_of_the_reference():
    x = _log_ps(logic.DPO.propositions)
    ours = jax.grad(lambda x: logic.semantic_loss(logic.DPO, **x).sum())(x)
    named = jax.grad(
        lambda x: losses.dpo(
            x["chosen"], x["rejected"], x["reference_chosen"], x["reference_rejected"], beta=1.0
        ).sum()
    )(x)
    for name in x:
        np.testing.assert_allclose(ours[name], named[name], rtol=1e-8, atol=1e-10)
    for name in ("reference_chosen", "reference_rejected"):
        np.testing.assert_array_equal(ours[name], 0)


@pytest.mark.parametrize("name", logic.STRUCTURES)
def test_finite_in_float32_at_extremes(name):
    structure = logic.STRUCTURES[name]
    values = list(itertools.product((0.0, -1e-7, -1.0, -1e4), repeat=len(structure.propositions)))
    columns = jnp.asarray(np.array(values).T, jnp.float32)
    x = dict(zip(structure.propositions, columns, strict=True))
    value, gradient = jax.value_and_grad(lambda x: logic.semantic_loss(structure, **x).sum())(x)
    assert jnp.isfinite(value)
    for g in gradient.values():
        assert jnp.isfinite(g).all()


def test_counts_are_probabilities():
    """Brute force over assignments; all of them have probability 1."""
    x = _log_ps(("a", "b", "c"), n=50)
    every = list(itertools.product((False, True), repeat=3))
    _close(logic.log_weighted_count(every, list(x.values())), np.zeros(50))
    some = every[1:6]
    p = np.exp(np.stack(list(x.values())))
    brute = sum(np.prod([p[i] if t else 1 - p[i] for i, t in enumerate(m)], 0) for m in some)
    np.testing.assert_allclose(
        logic.log_weighted_count(some, list(x.values())), np.log(brute), rtol=1e-9, atol=1e-9
    )


def test_every_pair_of_sets_is_a_structure():
    """4^(2^n) of them: all 256 for two propositions, told apart by their sets."""
    every = list(itertools.product((False, True), repeat=2))
    sets = [frozenset(c) for n in range(5) for c in itertools.combinations(every, n)]
    seen = set()
    for first, second in itertools.product(sets, sets):
        s = logic.structure_of(PAIR, first, second)
        assert (s.models_for, s.models_against) == (first, second)
        seen.add((s.models_for, s.models_against))
    assert len(seen) == 4 ** (2**2)


def test_equal_sets_in_other_words():
    """`chosen and not rejected` is `rejected implies chosen`, where exactly one holds."""
    other = logic.PreferenceStructure(PAIR, lambda w, x: w and not x, lambda w, x: w != x)
    assert logic.equivalent(other, logic.ORPO)
    x = _log_ps(PAIR)
    _close(logic.semantic_loss(other, **x), logic.semantic_loss(logic.ORPO, **x))
    assert not any(logic.equivalent(a, b) for a, b in itertools.combinations(POLICY.values(), 2))


def test_equal_values_do_not_need_equal_sets():
    """Propositions are independent, so a condition on the rejected one cancels."""
    conditioned = logic.PreferenceStructure(PAIR, lambda w, x: w, lambda w, x: x)
    assert not logic.equivalent(conditioned, logic.CROSS_ENTROPY)
    x = _log_ps(PAIR)
    _close(logic.semantic_loss(conditioned, **x), logic.semantic_loss(logic.CROSS_ENTROPY, **x))


ENTAILED = {("unlikelihood", "cpo"), ("unlikelihood", "orpo"), ("unlikelihood", "cross_entropy")}


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(POLICY, 2)))
def test_entailment_orders_values_and_its_absence_has_a_counterexample(one, other):
    x = _log_ps(PAIR)
    first, second = (logic.semantic_loss(POLICY[name], **x) for name in (one, other))
    assert logic.entails(POLICY[one], POLICY[other]) == ((one, other) in ENTAILED)
    if (one, other) in ENTAILED:
        assert (first >= second - 1e-12).all()
        assert (first > second + 1e-6).any()
    else:
        assert (first < second - 1e-6).any()


def test_entailment_orders_values_of_random_structures():
    rng = np.random.default_rng(0)
    every = list(itertools.product((False, True), repeat=2))
    x, checked = _log_ps(PAIR, n=100), 0
    for _ in range(200):
        structures = [
            logic.structure_of(PAIR, *([m for m in every if rng.random() < 0.5] for _ in range(2)))
            for _ in range(2)
        ]
        if not all(s.models_for and s.models_against for s in structures) or not logic.entails(*structures):
            continue
        first, second = (logic.semantic_loss(s, **x) for s in structures)
        assert (first >= second - 1e-9).all()
        checked += 1
    assert checked >= 5


def test_bad_input():
    x = _log_ps(PAIR)
    with pytest.raises(ValueError, match="log_ps"):
        logic.semantic_loss(logic.DPO, **x)
    with pytest.raises(ValueError, match="expected one shape"):
        logic.semantic_loss(logic.CPO, chosen=x["chosen"], rejected=x["rejected"][:1])
    with pytest.raises(ValueError, match="empty side"):
        logic.semantic_loss(logic.structure_of(PAIR, [], [(True, True)]), **x)
    with pytest.raises(ValueError, match="not comparable"):
        logic.entails(logic.CPO, logic.DPO)
