"""Which pairs a selector makes of k responses, its limits, and what it drops."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_records import pairs_of, picked, record, scored
from toys import scored_table_policy
from x64 import enable_x64

from jaxpref import selection

KEY = jax.random.key(3)


def _p(*upper):
    """P of three or two responses from its upper triangle."""
    k = {1: 2, 3: 3}[len(upper)]
    p = np.full((k, k), 0.5)
    p[np.triu_indices(k, 1)] = upper
    p.T[np.triu_indices(k, 1)] = 1 - np.array(upper)
    return p


BUILDERS = {
    "soft_pair": (selection.soft_pair, 2),
    "two_samples": (selection.two_samples, 2),
    "two_samples_drawn": (selection.two_samples_drawn, 2),
    "random_pair": (selection.random_pair, 3),
    "max_min": (selection.max_min, 3),
    "max_random": (selection.max_random, 3),
    "max_target": (selection.max_target, 3),
    "divpo": (selection.divpo, 3),
    "ranked_pairs": (selection.ranked_pairs, 3),
    "offline_and_self": (selection.offline_and_self, 3),
    "refined_vs_original": (selection.refined_vs_original, 2),
    "step_siblings": (selection.step_siblings, 2),
    "margin_between": (partial(selection.margin_between, low=0.5), 2),
    "margin_fraction": (selection.margin_fraction, 2),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_jit_changes_nothing_and_what_is_dropped_stays_out(name):
    build, k = BUILDERS[name]
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, k)).astype(np.float32)
    p = np.asarray(jax.nn.sigmoid(scores[:, :, None] - scores[:, None]))
    lengths = rng.integers(1, 4, (6, k))
    lengths[1] = 0  # padding
    lengths[2, 1:] = 0  # one response is there
    logps = rng.normal(size=(6, k))
    batch = record(lengths, preferences=p, scores=scores, behaviour_logps=logps)
    # Row 3: all responses are the same one.
    batch = dataclasses.replace(
        batch,
        response_tokens=batch.response_tokens.at[3].set(batch.response_tokens[3, :1]),
        response_mask=batch.response_mask.at[3].set(batch.response_mask[3, :1]),
    )
    eager, jitted = build(batch, KEY), jax.jit(build)(batch, KEY)
    for one, other in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_array_equal(one, other)
    assert eager.response_tokens.shape[1] == 2
    valid = np.asarray(eager.valid).reshape(6, -1)
    assert not valid[1:3].any()
    assert valid[[0, 4, 5]].any()
    if not name.startswith("margin"):
        assert not valid[3].any(), "two equal responses are no pair"


@pytest.mark.parametrize("name", ["max_min", "max_random", "max_target", "divpo", "ranked_pairs"])
def test_absent_responses_are_never_chosen(name):
    """Their columns may hold anything, the largest and the smallest value too."""
    batch = record([[3, 3, 0, 0]] * 5, scores=[[1.0, 2.0, 9.0, -9.0]] * 5, behaviour_logps=np.ones((5, 4)))
    build = partial(BUILDERS[name][0], by="scores")
    assert {p for p in pairs_of(build, batch) if p} == {(1, 0)}


def test_the_winner_is_chosen_and_ties_are_dropped_or_tossed():
    batch = record([[3, 3]] * 3, preferences=[_p(0.7), _p(0.2), _p(0.5)], scores=[[1, 2]] * 3)
    two_samples = jax.jit(selection.two_samples, static_argnames="break_ties")
    out = two_samples(batch, KEY)
    assert picked(batch, out) == [(0, 1), (1, 0), None]
    assert out.preferences[:, 0, 1].tolist() == pytest.approx([0.7, 0.8, 0.5])
    assert out.columns["scores"].tolist()[1] == [2, 1]
    many = selection.take_rows(batch, jnp.repeat(jnp.arange(3), 400))
    tossed = two_samples(many, KEY, break_ties=True)
    same = (tossed.response_tokens == many.response_tokens).all((1, 2)).reshape(3, 400).mean(-1)
    assert bool(tossed.valid.all())
    assert same[:2].tolist() == [1, 0]
    assert abs(same[2] - 0.5) < 4 * 0.5 / 20
    with pytest.raises(ValueError, match="random_pair"):
        selection.two_samples(record([[3, 3, 3]]), KEY)
    with pytest.raises(ValueError, match="judge it first"):
        selection.two_samples(record([[3, 3]]), KEY)


def test_a_drawn_label_has_the_probability_of_the_judge():
    n = 2000
    batch = record(np.full((n, 2), 2), preferences=np.broadcast_to(_p(0.8), (n, 2, 2)))
    out = jax.jit(selection.two_samples_drawn)(batch, KEY)
    kept = (out.response_tokens == batch.response_tokens).all((1, 2)).mean()
    assert abs(kept - 0.8) < 4 * np.sqrt(0.16 / n)
    np.testing.assert_array_equal(selection.soft_pair(batch, KEY).response_tokens, batch.response_tokens)


def test_a_random_pair_is_any_ordered_pair():
    batch = record(np.full((600, 3), 2))
    counts = np.zeros((3, 3))
    for i, j in pairs_of(selection.random_pair, batch):
        counts[i, j] += 1
    off = counts[~np.eye(3, dtype=bool)] / 600
    assert np.diag(counts).sum() == 0
    assert np.abs(off - 1 / 6).max() < 4 * np.sqrt(5 / 36 / 600)


def test_best_of_takes_the_first_of_the_best_that_exist():
    batch = scored([[1, 5, 3], [2, 2, 2], [0, 1, 9]])
    absent = dataclasses.replace(batch, response_mask=batch.response_mask.at[2, 2].set(False))
    best = selection.best_of(absent, KEY, by="scores")
    np.testing.assert_array_equal(best.columns["scores"], [[5], [2], [1]])
    np.testing.assert_array_equal(best.response_tokens[1], batch.response_tokens[1, :1])


def test_max_min_by_scores_and_by_win_rates():
    batch = scored([[1, 5, 3], [2, 2, 2], [0, 1, 1]])
    assert pairs_of(selection.max_min, batch, by="scores") == [(1, 2 - 2), None, (1, 0)]
    # Response 2 beats both; 0 and 1 each lose to it, and 0 beats 1.
    judged = record([[3, 3, 3]], preferences=[_p(0.6, 0.1, 0.2)])
    assert pairs_of(selection.max_min, judged) == [(2, 1)]
    # A rock-paper-scissors cycle has no best: all win rates are one half.
    cycle = record([[3, 3, 3]], preferences=[_p(1, 0, 1)])
    assert pairs_of(selection.max_min, cycle) == [None]
    with pytest.raises(ValueError, match="no such column"):
        selection.max_min(batch, KEY, by="socres")
    with pytest.raises(ValueError, match="judge it first"):
        selection.max_min(batch, KEY)


def test_max_random_takes_every_worse_response():
    batch = scored([[1, 5, 3, 5]] * 60)
    assert set(pairs_of(selection.max_random, batch, by="scores")) == {(1, 0), (1, 2)}


@pytest.mark.parametrize(("n", "sigmas"), [(8, -1.42), (32, -2.07), (100, -2.51), (400, -2.97)])
def test_the_least_of_n_normals(n, sigmas):
    """Why max_target is max_min for few samples: E[min of n] reaches -2 near n = 30."""
    x = np.linspace(-9, 9, 20001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(density) * (x[1] - x[0])
    least = (x * n * (1 - below) ** (n - 1) * density).sum() * (x[1] - x[0])
    assert least == pytest.approx(sigmas, abs=0.006)


def test_max_target_is_max_min_for_few_and_leaves_the_tail_of_many():
    few = scored(np.random.default_rng(0).normal(size=(20, 5)))
    same = [
        a == b
        for a, b in zip(
            pairs_of(selection.max_target, few), pairs_of(selection.max_min, few, by="scores"), strict=True
        )
    ]
    assert all(same), "five samples lie within two of their own standard deviations"
    many = np.random.default_rng(1).normal(3, 1, size=(3, 400)).astype(np.float32)
    batch = record(np.full(many.shape, 1), r=1, scores=many)
    for row, (best, other) in zip(many, pairs_of(selection.max_target, batch), strict=True):
        assert best == row.argmax()
        assert other == np.abs(row - (row.mean() - 2 * row.std())).argmin()
        assert row[other] > row.min()


def test_max_target_needs_a_worse_response():
    """One outlier far below: the nearest to the target may be the best itself, which is no pair."""
    batch = scored([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    assert pairs_of(selection.max_target, batch, sigmas=0.0) == [(0, 4), None]


def test_divpo_at_fraction_0_is_max_min_and_prefers_the_rare():
    rng = np.random.default_rng(2)
    scores, logps = rng.normal(size=(2, 8, 5)).astype(np.float32)
    batch = scored(scores, behaviour_logps=logps)
    expected = pairs_of(selection.max_min, batch, by="scores")
    assert pairs_of(selection.divpo, batch, fraction=0.0) == expected
    assert pairs_of(selection.divpo, batch, fraction=0.5) != expected
    equal = scored([[1, 1]], behaviour_logps=[[-1.0, -3.0]], rare=[[2.0, 1.0]], axes=(("rare", "b k"),))
    assert pairs_of(selection.divpo, equal) == [(1, 0)]
    assert pairs_of(selection.divpo, equal, diversity="rare") == [(0, 1)]
    # Range 10, fraction .2: good are >= 8, bad <= 2.
    wide = scored([[0, 2, 5, 8, 10]], behaviour_logps=[[-1.0, -2.0, -9.0, -8.0, -7.0]])
    assert pairs_of(selection.divpo, wide, fraction=0.2) == [(3, 0)]
    with pytest.raises(ValueError, match="fraction"):
        selection.divpo(wide, KEY, fraction=0.6)


def test_ranked_pairs_unfold_a_list():
    batch = scored([[1, 3, 2], [5, 5, 4]], annotators=np.array([7, 8]))
    out = jax.jit(partial(selection.ranked_pairs, by="scores"))(batch, KEY)
    assert out.response_tokens.shape[:2] == (6, 2)
    assert out.columns["annotators"].tolist() == [7, 7, 7, 8, 8, 8]
    assert picked(batch, out) == [(1, 2), (1, 0), (2, 0), None, (0, 2), (1, 2)]
    ends = pairs_of(selection.ranked_pairs, batch, by="scores", places=[(0, 2)])
    assert ends == pairs_of(selection.max_min, batch, by="scores")
    with pytest.raises(ValueError, match="places"):
        selection.ranked_pairs(batch, KEY, by="scores", places=[(2, 0)])


def test_hybrid_records_and_self_play():
    recorded, samples = record([[3, 2]] * 2, seed=1), record([[5, 4, 2]] * 2, r=6, seed=2)
    both = selection.hybrid(recorded, samples)
    assert both.response_tokens.shape == (2, 5, 6)
    assert both.lengths.tolist() == [[3, 2, 5, 4, 2]] * 2
    assert pairs_of(selection.offline_and_self, both) == [(0, 2)] * 2
    assert pairs_of(selection.offline_and_self, both, sample=4) == [(0, 4)] * 2
    with pytest.raises(ValueError, match="recorded pairs"):
        selection.hybrid(samples, recorded)
    with pytest.raises(ValueError, match="below 5"):
        selection.offline_and_self(both, KEY, sample=5)


def test_a_refinement_must_be_better_where_that_is_known():
    batch = record([[3, 3]] * 3, preferences=[_p(0.1), _p(0.9), _p(0.5)])
    assert pairs_of(selection.refined_vs_original, batch) == [(1, 0), None, None]
    unknown = dataclasses.replace(batch, preferences=None)
    assert pairs_of(selection.refined_vs_original, unknown) == [(1, 0)] * 3


def test_a_shared_prefix_is_not_scored_and_has_no_gradient_in_the_margin():
    batch = record([[4, 3], [3, 3], [2, 4]], r=4, behaviour_logps=np.ones((3, 2)))
    batch.columns["behaviour_token_logps"] = jnp.ones((3, 2, 4))
    tokens = np.array(batch.response_tokens) % 6
    tokens[0, :] = [[1, 2, 3, 4], [1, 2, 5, 0]]
    tokens[1, :] = [[1, 2, 3, 0], [1, 2, 3, 0]]  # the same step
    tokens[2, :] = [[1, 2, 0, 0], [1, 2, 3, 4]]  # one goes on where the other ends
    batch = dataclasses.replace(
        batch, prompt_tokens=batch.prompt_tokens % 6, response_tokens=jnp.asarray(tokens)
    )
    steps = jax.jit(selection.step_siblings)(batch, KEY)
    assert steps.response_mask[0].tolist() == [[False, False, True, True], [False, False, True, False]]
    assert steps.valid.tolist() == [True, False, False]
    assert "behaviour_logps" not in steps.columns
    assert steps.columns["behaviour_token_logps"][0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    with enable_x64():
        policy = scored_table_policy(6)
        params = {"logits": jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))}

        def margin(params, rows):
            logps = policy.token_logps(params, rows).sum(-1)
            return logps[0, 0] - logps[0, 1]

        whole, masked = (jax.grad(margin)(params, rows)["logits"] for rows in (batch, steps))
    np.testing.assert_allclose(whole, masked, atol=1e-12)
    assert not np.any(masked[1]), "tokens of the prefix are predicted by token 1, which is in no step"
    assert np.abs(masked[2]).max() > 0.1


def test_margins_are_filtered_by_threshold_or_by_rank():
    batch = scored([[0, 1], [3, 0], [2, 0], [0.5, 0], [9, 0]])
    batch = selection.drop_rows(batch, jnp.array([True, True, True, True, False]))
    between = selection.margin_between(batch, KEY, low=1.0, high=2.0)
    assert between.valid.tolist() == [True, False, True, False, False]
    keep = partial(selection.margin_fraction, batch, KEY)
    assert keep(fraction=0.5).valid.tolist() == [False, True, True, False, False]
    assert keep(fraction=0.5, largest=False).valid.tolist() == [True, False, False, True, False]
    assert keep(fraction=1.0).valid.tolist() == batch.valid.tolist()
    ten = scored(np.stack([np.arange(10.0), np.zeros(10)], 1))
    assert int(selection.margin_fraction(ten, KEY, fraction=0.3).valid.sum()) == 3
    assert int(selection.margin_fraction(ten, KEY, fraction=0.31).valid.sum()) == 4
    for wrong in ({"fraction": 0.0}, {"fraction": 1.5}):
        with pytest.raises(ValueError, match="fraction"):
            keep(**wrong)
    with pytest.raises(ValueError, match="low <= high"):
        selection.margin_between(batch, KEY, low=2.0, high=1.0)
    with pytest.raises(ValueError, match="select pairs first"):
        selection.margin_between(scored([[1, 2, 3]]), KEY)
