"""What is labelled first: by entropy, by margin, by disagreement, and from all over the pool."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_records import record
from x64 import enable_x64

from jaxpref.selection import (
    active_preferences,
    bald,
    balpm,
    margins,
    neighbour_distances,
    predictive_entropy,
    top_rows,
)

KEY = jax.random.key(0)


def test_top_rows_are_the_best_ones_and_padding_is_last():
    batch = record([[2, 2], [2, 2], [0, 0], [2, 2]], annotators=np.arange(4))
    out = jax.jit(partial(top_rows, budget=4))(batch, jnp.array([1.0, 3.0, 9.0, 2.0]))
    assert out.columns["annotators"].tolist() == [1, 3, 0, 2]
    assert out.valid.tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="budget"):
        top_rows(batch, jnp.zeros(4), 5)


def test_entropy_has_both_signs():
    logps = jnp.log(jnp.array([[0.5, 0.25], [0.1, 0.1]]))
    np.testing.assert_allclose(predictive_entropy(logps), [1.5 * np.log(2), np.log(10)], rtol=1e-6)
    np.testing.assert_array_equal(predictive_entropy(logps, entropy_sign=-1), -predictive_entropy(logps))
    where = jnp.array([[True, False], [True, True]])
    np.testing.assert_allclose(predictive_entropy(logps, where=where)[0], np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match="entropy_sign"):
        predictive_entropy(logps, entropy_sign=0)


def test_active_preferences_takes_uncertain_prompts_then_sure_pairs():
    batch = record(
        np.full((5, 2), 2),
        behaviour_logps=[[-1.0, -1], [-5, -5], [-4, -4], [-3, -3], [-9, -9]],
        implicit_rewards=[[9.0, 0], [0, 0.1], [0, 3], [2, 0], [0, 8]],
        annotators=np.arange(5),
    )
    batch = dataclasses.replace(batch, response_mask=batch.response_mask.at[4].set(False))

    def chosen(**more):
        build = jax.jit(partial(active_preferences, candidates=3, budget=2, **more))
        return build(batch, KEY).columns["annotators"].tolist()

    assert chosen() == [2, 3]  # rows 1, 2, 3 have the highest entropy; 2 and 3 the largest margins
    assert chosen(largest=False) == [1, 3]  # margins nearest 0 first
    assert chosen(entropy_sign=-1) == [0, 2]
    assert margins(batch.columns["implicit_rewards"])[:2].tolist() == pytest.approx([9, 0.1])
    with pytest.raises(ValueError, match="candidates"):
        active_preferences(batch, KEY, candidates=1, budget=2)


def test_bald_is_mutual_information():
    p = jnp.array([[0.5, 0.9, 0.0, 0.2], [0.5, 0.9, 1.0, 0.6]])
    found = bald(p)
    np.testing.assert_allclose(found[:3], [0, 0, np.log(2)], atol=1e-6)
    # I(member; label) = mean KL(p_e || mean p), by hand for (.2, .6).
    by_hand = np.mean([q * np.log(q / 0.4) + (1 - q) * np.log((1 - q) / 0.6) for q in (0.2, 0.6)])
    assert float(found[3]) == pytest.approx(by_hand, rel=1e-5)


def test_neighbours_are_others():
    points = jnp.array([[0.0], [1.0], [3.0], [3.0]])
    np.testing.assert_allclose(neighbour_distances(points, 1), [1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(neighbour_distances(points, 2), [3, 2, 2, 2], atol=1e-6)
    with pytest.raises(ValueError, match="neighbours"):
        neighbour_distances(points, 4)


def _clusters(sizes, seed=0):
    """Clusters far from one another, each a circle, so that all of its points look alike."""
    centres = np.array([[0.0, 0], [50, 0], [0, 50], [50, 50]])
    points, of = [], []
    for c, n in enumerate(sizes):
        angles = 2 * np.pi * np.arange(n) / n
        points.append(centres[c] + np.stack([np.cos(angles), np.sin(angles)], 1))
        of += [c] * n
    return np.concatenate(points), np.array(of)


def test_an_agreeing_ensemble_is_sent_to_new_regions():
    """No disagreement: a point of every region comes before a second one of any."""
    points, of = _clusters((4, 4, 4, 4))
    order = np.asarray(balpm(jnp.zeros(16), jnp.asarray(points), budget=16, neighbours=3))
    assert sorted(order) == list(range(16))
    for start in range(0, 16, 4):
        assert sorted(of[order[start : start + 4]]) == [0, 1, 2, 3]


def test_sparse_regions_come_first_and_labels_count():
    points, of = _clusters((4, 4, 4, 4))
    points[of == 2] = [0, 50] + 2 * (points[of == 2] - [0, 50])
    pick = partial(balpm, jnp.zeros(16), jnp.asarray(points), neighbours=3)
    assert of[pick(budget=1)[0]] == 2
    labelled = jnp.asarray(of != 1)
    assert sorted(np.asarray(pick(budget=4, labelled=labelled))) == list(np.flatnonzero(of == 1))
    some = jnp.zeros(16, bool).at[jnp.array([0, 1, 8, 9])].set(True)  # two of region 0, two of region 2
    first = of[np.asarray(pick(budget=2, labelled=some))]
    assert sorted(first) == [1, 3]


def test_duplicates_are_not_picked_twice_early():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 2))
    points[1:4] = points[0]  # four copies
    order = np.asarray(balpm(jnp.zeros(12), jnp.asarray(points), budget=12, neighbours=4))
    copies = [i for i, row in enumerate(order) if row < 4]
    assert copies[1] >= 6, order
    # Disagreement outweighs it.
    eager = balpm(jnp.zeros(12).at[:4].set(1.0), jnp.asarray(points), budget=4, neighbours=4)
    assert sorted(np.asarray(eager)) == [0, 1, 2, 3]


def test_features_are_standardised():
    """Scale and offset of a feature change nothing; a constant feature is no feature."""
    rng = np.random.default_rng(1)
    points, uncertainty = rng.normal(size=(20, 3)), jnp.asarray(rng.uniform(size=20) * 0.05)
    with enable_x64():
        one = balpm(uncertainty, jnp.asarray(points), budget=8, neighbours=3)
        moved = np.concatenate([points * [100, 0.01, 3] + [5, -2, 900], np.full((20, 1), 4.0)], 1)
        other = balpm(uncertainty, jnp.asarray(moved), budget=8, neighbours=3)
    assert one.tolist() == other.tolist()
    with pytest.raises(ValueError, match="budget"):
        balpm(uncertainty, jnp.asarray(points), budget=21)
