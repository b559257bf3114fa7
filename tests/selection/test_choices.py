"""Directions, routing between humans and models, affixes of prompts, and the replay buffer."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_records import record

from jaxpref.selection import (
    affixed,
    best_along,
    contrastive_pair,
    direction_text,
    directions_near,
    draw,
    empty_replay,
    fit_routing,
    push,
    route,
    routing_gains,
)
from jaxpref.selection.routing import routing_score
from jaxpref.types import Prompts, check_prompts

KEY = jax.random.key(0)


@pytest.mark.parametrize("m", [2, 4])
def test_directions_are_units_within_the_angle(m):
    target = jnp.arange(1.0, m + 1)
    near = jax.jit(partial(directions_near, num=500, max_angle=math.radians(30)))(target, KEY)
    np.testing.assert_allclose(np.linalg.norm(near, axis=-1), 1, atol=1e-5)
    angles = np.degrees(np.arccos(np.clip(near @ (target / np.linalg.norm(target)), -1, 1)))
    assert 29 < angles.max() < 30.01
    assert abs(angles.mean() - 15) < 4 * 30 / np.sqrt(12 * 500)
    with pytest.raises(ValueError, match="max_angle"):
        directions_near(target, KEY, max_angle=2.0)


def test_no_angle_is_best_of_k_and_picks_turn_with_the_target():
    """Two attributes, responses on a circle: the pick moves round it with the target."""
    target = jnp.array([0.6, 0.8])
    only = directions_near(target, KEY, num=3, max_angle=0.0)
    np.testing.assert_allclose(only, np.broadcast_to(target, (3, 2)), atol=1e-6)
    around = np.linspace(0, np.pi / 2, 9)
    ratings = jnp.asarray(np.stack([np.cos(around), np.sin(around)], -1)[None])
    picks = [int(best_along(ratings, jnp.array([np.cos(t), np.sin(t)]))[0]) for t in around]
    assert picks == list(range(9))
    where = jnp.ones((1, 9), bool).at[0, 4].set(False)
    assert int(best_along(ratings, ratings[0, 4], where)[0]) in (3, 5)


def test_a_direction_in_words():
    assert direction_text([1, 1]) == "maximize weighted rating = helpfulness*71 + verbosity*71"
    assert direction_text([2, 0]) == "maximize weighted rating = helpfulness*100 + verbosity*0"
    with pytest.raises(ValueError, match="vector of 2"):
        direction_text([1, 0, 0])


@pytest.mark.parametrize("quadratic", [False, True])
def test_routing_gains_are_differences_of_the_fit(quadratic):
    rng = np.random.default_rng(0)
    counts, features = rng.integers(0, 30, (60, 4)), rng.integers(0, 2, (10, 4))
    counts, features = counts.astype(np.float32), features.astype(np.float32)
    linear, squares = np.array([0.5, -0.2, 0.1, 0.0]), np.array([-0.01, 0.004, 0.0, 0.02]) * quadratic
    scores = 3 + counts @ linear + counts**2 @ squares
    model = fit_routing(jnp.asarray(counts), jnp.asarray(scores, jnp.float32), quadratic=quadratic)
    np.testing.assert_allclose(model.linear, linear, atol=2e-3)
    np.testing.assert_allclose(model.quadratic, squares, atol=1e-4)
    at = jnp.asarray(counts[0])
    found = routing_gains(model, jnp.asarray(features), at)
    by_difference = routing_score(model, at[None] + features) - routing_score(model, at[None])
    np.testing.assert_allclose(found, by_difference, atol=1e-3)
    if not quadratic:
        np.testing.assert_allclose(found, features @ np.asarray(model.linear), atol=1e-6)


def test_budgets_0_and_1_are_one_kind_of_label():
    gains = jnp.array([0.3, -2.0, 0.5, 0.1])
    assert not np.any(route(gains, 0.0))
    assert np.all(route(gains, 1.0))
    assert route(gains, 0.5).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="budget"):
        route(gains, 2.0)


def test_ridge_shrinks_and_a_constant_feature_has_no_coefficient():
    rng = np.random.default_rng(1)
    counts = np.concatenate([rng.normal(size=(30, 2)), np.full((30, 1), 5.0)], 1).astype(np.float32)
    scores = jnp.asarray(counts @ np.array([1, 2, 0], np.float32))
    plain, shrunk = (fit_routing(jnp.asarray(counts), scores, ridge=r) for r in (0.0, 100.0))
    np.testing.assert_allclose(plain.linear, [1, 2, 0], atol=1e-4)
    assert np.abs(shrunk.linear).max() < 1


def test_affixes_go_around_the_real_tokens():
    prompts = Prompts(
        jnp.array([[1, 5, 6, 0], [1, 7, 0, 0]]), jnp.array([[True] * 3 + [False], [True] * 2 + [False] * 2])
    )
    out = jax.jit(partial(affixed, prefix=(8, 9), suffix=(4,), keep_first=1))(prompts)
    assert out.prompt_tokens.tolist() == [[1, 8, 9, 5, 6, 4, 0], [1, 8, 9, 7, 4, 0, 0]]
    assert out.prompt_mask.sum(-1).tolist() == [6, 5]
    check_prompts(out)
    assert affixed(prompts).prompt_tokens.tolist() == prompts.prompt_tokens.tolist()
    with pytest.raises(ValueError, match="keep_first"):
        affixed(prompts, prefix=(8,), keep_first=5)


def test_contrast_strips_affixes_and_swaps():
    bare = record([[3, 3]] * 2, seed=0)
    good, bad = record([[2]] * 2, r=3, seed=1), record([[5]] * 2, r=5, seed=2)
    pair = contrastive_pair(bare.prompts, good, bad)
    np.testing.assert_array_equal(pair.prompt_tokens, bare.prompt_tokens)
    assert pair.lengths.tolist() == [[2, 5]] * 2
    assert pair.reference_logps is None
    swapped = contrastive_pair(bare.prompts, bad, good)
    np.testing.assert_array_equal(swapped.response_tokens, pair.response_tokens[:, ::-1])
    with pytest.raises(ValueError, match="negative has 1 rows"):
        contrastive_pair(bare.prompts, good, record([[2]]))


def test_a_replay_buffer_keeps_the_newest_rows():
    def batch(start):
        return record(np.full((2, 2), 2), annotators=np.arange(start, start + 2))

    buffer = empty_replay(batch(0), 5)
    assert not np.any(draw(buffer, KEY, 3).valid), "nothing to draw is padding"
    put, take = jax.jit(push), jax.jit(draw, static_argnums=2)
    buffer = put(buffer, batch(0))
    assert set(take(buffer, KEY, 40).columns["annotators"].tolist()) == {0, 1}
    for start in range(2, 40, 2):
        buffer = put(buffer, batch(start))
        newest = set(range(max(0, start + 2 - 5), start + 2))
        held = min(int(buffer.pushed), 5)
        assert set(buffer.rows.columns["annotators"][:held].tolist()) == newest
    assert int(buffer.pushed) < 10
    drawn = np.asarray(take(buffer, KEY, 2000).columns["annotators"])
    counts = np.array([(drawn == i).sum() for i in range(35, 40)])
    assert counts.sum() == 2000
    assert np.abs(counts - 400).max() < 4 * np.sqrt(2000 * 0.2 * 0.8)
    with pytest.raises(ValueError, match="capacity"):
        empty_replay(batch(0), 1)
