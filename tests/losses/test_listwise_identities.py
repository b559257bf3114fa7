"""What each loss of lists must obey, in float64: against loops, pairs, permutations, padding and ties."""

import functools
import itertools
import json
import math
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import DATA, inputs_for, is_float
from x64 import enable_x64

from jaxpref import losses
from jaxpref.algorithms.inputs import bind
from jaxpref.losses.list_averages import step_rewards
from jaxpref.losses.rankings import lambda_weights, model_ranks
from jaxpref.methods import METHODS

TRL = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "trl" / "dpo_loss_values.json"

LIPO = [
    losses.lipo_lambda,
    losses.list_pair_logistic,
    losses.list_pair_hinge,
    losses.list_mle,
    losses.list_softmax,
    losses.list_point_mse,
    losses.list_point_sigmoid,
]
CONTRASTIVE = [losses.info_nca, losses.nca_list, losses.exo_list]
REWARDS = [
    losses.reward_plackett_luce,
    losses.reward_list_pairs,
    losses.reward_softmax,
    losses.reward_list_net,
]
ALL = [*LIPO, *CONTRASTIVE, losses.pro, losses.tree_po, *REWARDS]
# Without a pair of different targets there is nothing to learn.
RANKINGS = [
    losses.lipo_lambda,
    losses.list_pair_logistic,
    losses.list_pair_hinge,
    losses.list_mle,
    losses.pro,
    losses.tree_po,
    losses.reward_plackett_luce,
    losses.reward_list_pairs,
    losses.reward_softmax,
]


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def over(chosen):
    return pytest.mark.parametrize("loss", chosen, ids=lambda f: f.__name__)


def _inputs(loss, batch=6, seed=0):
    """Scores in [0, 1], all different."""
    x = {n: jnp.asarray(v) for n, v in inputs_for(loss, batch, seed=seed).items()}
    return x | {"scores": jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (batch, 4)))}


def _full(loss, **more):
    return _inputs(loss, **more) | {"where": jnp.ones((6, 4), bool)}


def _moves(x):
    return {n: v for n, v in x.items() if is_float(v) and not DATA.match(n)}


@functools.cache
def _compiled(loss):
    """Losses and gradients of `(moves, x)`: one program a loss and shape, for all tests here."""

    def total(moves, x):
        values = bind(loss, x | moves)
        return values.sum(), values

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def _value(loss, x):
    return _compiled(loss)(_moves(x), x)[0][1]


def _gradient(loss, x):
    return _compiled(loss)(_moves(x), x)[1]


def _pair(x):
    """The first two responses as a pair, the one of the higher score chosen."""
    order = jnp.argsort(-x["scores"][:, :2], axis=1)
    sides = {}
    for name in ("logps", "reference_logps"):
        chosen, rejected = jnp.take_along_axis(x[name][:, :2], order, 1).T
        head, base = ("reference_", "logps") if name.startswith("reference") else ("", "logps")
        sides |= {f"{head}chosen_{base}": chosen, f"{head}rejected_{base}": rejected}
    return sides


def _two(x):
    return {n: v[:, :2] for n, v in x.items()}


def _rearranged(x, order):
    return np.stack([row[i] for row, i in zip(np.asarray(x), order, strict=True)])


def test_every_list_loss_is_here():
    assert {m.name for m in METHODS if "scores" in m.inputs and "where" in m.inputs} >= {
        f.__name__ for f in ALL
    }


# What all share.


@over(ALL)
def test_missing_responses_have_no_influence(loss):
    """Not even NaN; a list that is shorter by them has the same value; their gradient is 0."""
    x = _inputs(loss)
    x["where"] = (
        jnp.array([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0]]) == 1
    )
    dirty = {}
    for n, v in x.items():
        gone = ~x["where"].reshape(6, 4, *(1,) * (v.ndim - 2))
        dirty[n] = jnp.where(gone, jnp.nan, v) if is_float(v) else v
    values = _value(loss, dirty)
    np.testing.assert_allclose(values, _value(loss, x), rtol=1e-14)
    for b in (0, 1):
        there = np.flatnonzero(x["where"][b])
        np.testing.assert_allclose(
            values[b], _value(loss, {n: v[b : b + 1, there] for n, v in x.items()})[0], rtol=1e-12
        )
    for n, g in _gradient(loss, dirty).items():
        assert np.isfinite(g).all(), n
        np.testing.assert_array_equal(g[~x["where"]], 0)


@over(ALL)
def test_empty_lists_are_zero(loss):
    x = _inputs(loss)
    x |= {"where": jnp.zeros((6, 4), bool)}
    np.testing.assert_array_equal(_value(loss, x), 0)
    for g in _gradient(loss, x).values():
        np.testing.assert_array_equal(g, 0)


@over([*RANKINGS, losses.list_softmax, losses.info_nca, losses.exo_list, losses.reward_list_net])
def test_a_list_of_one_is_zero(loss):
    x = _inputs(loss)
    x |= {"where": jnp.arange(4)[None] == jnp.arange(6)[:, None] % 4}
    np.testing.assert_allclose(_value(loss, x), 0, atol=1e-14)
    for g in _gradient(loss, x).values():
        np.testing.assert_allclose(g, 0, atol=1e-14)


@over(RANKINGS)
def test_ties_only_are_zero(loss):
    x = _full(loss) | {"scores": jnp.full((6, 4), 0.7)}
    np.testing.assert_array_equal(_value(loss, x), 0)
    for g in _gradient(loss, x).values():
        np.testing.assert_array_equal(g, 0)


@over(ALL)
@pytest.mark.parametrize("ties", [False, True])
def test_the_order_of_a_list_does_not_matter(loss, ties):
    x = _full(loss)
    if ties:
        x["scores"] = jnp.round(x["scores"] * 2) / 2
    order = np.random.default_rng(3).permuted(np.tile(np.arange(4), (6, 1)), axis=1)
    moved = {n: jnp.asarray(_rearranged(v, order)) for n, v in x.items()}
    np.testing.assert_allclose(_value(loss, moved), _value(loss, x), rtol=1e-12)
    before, after = _gradient(loss, x), _gradient(loss, moved)
    for n, g in before.items():
        np.testing.assert_allclose(after[n], _rearranged(g, order), rtol=1e-9, atol=1e-14)


# LiPO


@pytest.mark.parametrize(
    ("loss", "pairwise"),
    [
        (losses.list_pair_logistic, partial(losses.dpo, beta=0.05)),
        (losses.list_mle, partial(losses.dpo, beta=0.05)),
        (losses.list_pair_hinge, partial(losses.rso_hinge, beta=0.05)),
        (partial(losses.info_nca, temperature=1e-6), partial(losses.dpo, beta=0.01)),
        (partial(losses.nca_list, temperature=1e-6), losses.nca),
    ],
)
def test_two_responses_are_a_pair(loss, pairwise):
    x = _full(losses.list_mle)
    np.testing.assert_allclose(bind(loss, _two(x)), bind(pairwise, _pair(x)), rtol=1e-12)


def test_list_softmax_of_two_with_one_winner_is_dpo():
    x = _two(_full(losses.list_softmax))
    pair, winner = _pair(x), x["scores"] == x["scores"].max(1, keepdims=True)
    expected = bind(partial(losses.dpo, beta=0.05), pair)
    np.testing.assert_allclose(bind(losses.list_softmax, x | {"scores": 3.0 * winner}), expected, rtol=1e-12)


def test_lipo_lambda_of_two_is_a_constant_times_dpo():
    x = _two(_full(losses.lipo_lambda))
    gain = jnp.abs(2 ** x["scores"][:, 0] - 2 ** x["scores"][:, 1])
    constant = gain * (1 / math.log(2) - 1 / math.log(3))
    expected = constant * bind(partial(losses.dpo, beta=0.05), _pair(x))
    np.testing.assert_allclose(bind(losses.lipo_lambda, x), expected, rtol=1e-12)


def test_pairs_of_a_list_by_loops():
    x = _inputs(losses.lipo_lambda)
    x["scores"] = x["scores"].at[0, 1].set(x["scores"][0, 0])
    s, psi = 0.05 * np.asarray(x["logps"] - x["reference_logps"]), np.asarray(x["scores"])
    for b in range(6):
        there = np.flatnonzero(x["where"][b])
        rank = {i: 1 + sum(s[b, j] > s[b, i] for j in there) for i in there}
        sums, count = np.zeros(3), 0
        for i, j in itertools.permutations(there, 2):
            if psi[b, i] > psi[b, j]:
                logistic = math.log(1 + math.exp(s[b, j] - s[b, i]))
                discount = abs(1 / math.log(1 + rank[i]) - 1 / math.log(1 + rank[j]))
                weight = abs((2 ** psi[b, i] - 1) - (2 ** psi[b, j] - 1)) * discount
                sums += [weight * logistic, logistic, max(0, 1 - (s[b, i] - s[b, j]))]
                count += 1
        found = [
            bind(f, x)[b] for f in (losses.lipo_lambda, losses.list_pair_logistic, losses.list_pair_hinge)
        ]
        np.testing.assert_allclose(found, sums / count, rtol=1e-12)


def test_lambda_weights_have_no_gradient_and_ties_keep_the_order():
    s = jnp.array([[0.3, 2.0, 0.3, 5.0]])
    there = jnp.array([[True, True, True, False]])
    np.testing.assert_array_equal(model_ranks(s, there)[0, :3], [2, 1, 3])
    psi = jnp.array([[0.1, 0.2, 0.3, 0.4]])
    gradient = jax.grad(lambda s, p: lambda_weights(s, p, there).sum(), (0, 1))(s, psi)
    for g in gradient:
        np.testing.assert_array_equal(g, 0)


def test_descent_on_lipo_lambda_and_tree_po_improves_the_ranking():
    """The released code of Tree PO minimises -log sigmoid of the ranking loss, which does the opposite."""
    for loss in (losses.lipo_lambda, losses.tree_po):
        x = _full(loss)
        x["mask"] = jnp.ones((6, 4, 6), bool)
        x["step_weights"] = jnp.ones((6, 4, 6))
        name = "logps" if loss is losses.lipo_lambda else "token_logps"
        x[name] = 0.1 * x[name]
        x[f"reference_{name}"] = 0.1 * x[f"reference_{name}"]
        step = 5.0 * _gradient(loss, x)[name]

        def alignment(y, x=x, name=name):
            u = y - x[f"reference_{name}"]
            u = u if u.ndim == 2 else u.sum(-1)
            psi = x["scores"] - x["scores"].mean(1, keepdims=True)
            return (psi * u).sum(1)

        assert (alignment(x[name] - step) > alignment(x[name])).all()


def test_point_losses_have_their_minimum_at_the_label():
    psi = jnp.array([[0.2, 0.5, 0.9]])
    zero, there = jnp.zeros((1, 3)), jnp.ones((1, 3), bool)
    for loss, best, value in (
        (losses.list_point_mse, psi, 0.0),
        (losses.list_point_sigmoid, jnp.log(psi / (1 - psi)), None),
    ):
        f = partial(loss, reference_logps=zero, scores=psi, where=there, beta=2.0)
        np.testing.assert_allclose(jax.grad(lambda y, f=f: f(y).sum())(best / 2), 0, atol=1e-15)
        if value is not None:
            assert f(best / 2)[0] == value
    outside = jnp.array([[-1.0, 0.5, 7.0]])  # held in [0, 1]
    f = partial(losses.list_point_sigmoid, psi, zero, where=there)
    np.testing.assert_array_equal(f(scores=outside), f(scores=jnp.clip(outside, 0, 1)))


def test_list_softmax_optimum_and_bad_labels():
    psi = jnp.array([[0.2, 0.6, 0.8]])
    f = partial(
        losses.list_softmax, reference_logps=jnp.zeros((1, 3)), where=jnp.ones((1, 3), bool), beta=1.0
    )
    best = jnp.log(psi) + 3.0
    np.testing.assert_allclose(jax.grad(lambda y: f(y, scores=psi).sum())(best), 0, atol=1e-15)
    share = psi / psi.sum()
    np.testing.assert_allclose(f(best, scores=psi)[0], -(share * jnp.log(share)).sum(), rtol=1e-14)
    np.testing.assert_array_equal(f(best, scores=psi.at[0, 0].set(-5)), f(best, scores=psi.at[0, 0].set(0)))
    np.testing.assert_array_equal(f(best, scores=-psi), 0)


# Contrastive lists


def _at(r, loss, scores, **arguments):
    there = jnp.ones(r.shape, bool)
    return loss(r, jnp.zeros_like(r), scores, there, beta=1.0, **arguments)


SCORES = np.array([[1.0, 3.0, 2.5, -1.0]])


def test_info_nca_optimum_and_shift():
    q = jax.nn.softmax(SCORES / 0.7)
    loss = partial(_at, loss=losses.info_nca, scores=SCORES, temperature=0.7)
    r = jnp.array([[0.3, -2.0, 5.0, 0.0]])
    np.testing.assert_allclose(loss(r + 11.0), loss(r), rtol=1e-12)
    np.testing.assert_allclose(
        jax.grad(lambda r: loss(r).sum())(r), jax.nn.softmax(r) - q, rtol=1e-12, atol=1e-15
    )
    tied = partial(_at, r, losses.info_nca)
    expected = -(jax.nn.log_softmax(r)[0, 1] + jax.nn.log_softmax(r)[0, 2]) / 2
    np.testing.assert_allclose(tied(scores=jnp.array([[0.0, 2, 2, 1]]))[0], expected, rtol=1e-14)


def test_released_bonus_for_response_0_is_not_copied():
    r = jnp.array([[0.3, -2.0]])
    for loss in (losses.info_nca, losses.nca_list):
        value = _at(r, loss, jnp.array([[1.0, 1.0]]))
        np.testing.assert_allclose(value, _at(r[:, ::-1], loss, jnp.array([[1.0, 1.0]])), rtol=1e-14)
        assert _at(r, loss, jnp.array([[1.0, 1.005]])) > value, "response 1 is the best one"


def test_nca_list_optimum():
    q = jax.nn.softmax(SCORES / 0.7)
    best = jnp.log(4 * q)  # sigmoid = q / (q + 1/4)
    gradient = jax.grad(lambda r: _at(r, losses.nca_list, SCORES, temperature=0.7).sum())(best)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    fixed = jax.grad(lambda r: _at(r, losses.nca_list, SCORES[:, :2], temperature=1e-4).sum())
    np.testing.assert_allclose(fixed(jnp.array([[0.0, math.log(2)]]))[0, 1], 0, atol=1e-15)


def test_exo_list_of_two_is_exo():
    x, e = _full(losses.exo_list), 0.03
    gap = 0.5 * math.log((1 - e) / e)
    scores = jnp.where(x["scores"][:, :2] == x["scores"][:, :2].max(1, keepdims=True), gap, 0) + 4.0
    expected = bind(partial(losses.exo, label_smoothing=e), _pair(x))
    np.testing.assert_allclose(bind(losses.exo_list, _two(x) | {"scores": scores}), expected, rtol=1e-9)


def test_exo_list_is_zero_at_the_target_and_ignores_shifts():
    loss = partial(_at, loss=losses.exo_list, scores=SCORES, temperature=0.7)
    best = SCORES / 0.7 + 9.0
    np.testing.assert_allclose(loss(best), 0, atol=1e-14)
    np.testing.assert_allclose(jax.grad(lambda r: loss(r).sum())(best), 0, atol=1e-14)
    r = jnp.array([[0.3, -2.0, 5.0, 0.0]])
    assert loss(r)[0] > 0
    np.testing.assert_allclose(loss(r + 5.0), loss(r), rtol=1e-12)
    p, q = jax.nn.softmax(r), jax.nn.softmax(SCORES / 0.7)
    np.testing.assert_allclose(loss(r), (p * jnp.log(p / q)).sum(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "loss", "gap"),
    [
        ("exo_pair", partial(losses.exo_list, beta=0.1, temperature=1.0), math.log(0.9 / 0.1)),
        ("nca_pair", partial(losses.nca_list, beta=0.1), 1.0),
        ("sigmoid", partial(losses.info_nca, beta=0.1), 1.0),
    ],
)
def test_lists_of_two_equal_trl(name, loss, gap):
    document = json.loads(TRL.read_text())
    case = next(c for c in document["cases"] if c["name"] == name)
    x = {n: jnp.asarray(v) for n, v in document["inputs"].items()}
    logps, reference = (
        jnp.stack([x[f"{model}{side}_logps"] for side in ("chosen", "rejected")], 1)
        for model in ("", "reference_")
    )
    data = jnp.tile(jnp.array([[gap, 0.0]]), (16, 1)), jnp.ones((16, 2), bool)
    np.testing.assert_allclose(loss(logps, reference, *data), case["losses"], rtol=1e-11, atol=1e-13)
    gradient = jax.grad(lambda y: loss(y, reference, *data).sum())(logps)
    for i, side in enumerate(("chosen", "rejected")):
        np.testing.assert_allclose(gradient[:, i], case[f"gradient_{side}_logps"], rtol=1e-9, atol=1e-13)


# PRO


def test_pro_by_loops():
    x = _inputs(losses.pro)
    x["scores"] = x["scores"].at[3, 1].set(x["scores"][3, 0])
    lengths = np.asarray(x["lengths"])
    a, score = np.asarray(x["logps"]) / lengths, np.asarray(x["scores"])
    for b in range(6):
        there, expected = np.flatnonzero(x["where"][b]), 0.0
        for k in there:
            worse = [i for i in there if score[b, i] < score[b, k]]
            if worse:
                t = max(score[b, k] - score[b, i] for i in worse)
                total = math.exp(a[b, k] * t) + sum(
                    math.exp(a[b, i] * (score[b, k] - score[b, i])) for i in worse
                )
                expected += math.log(total) - a[b, k] * t
        best = [k for k in there if score[b, k] == score[b, there].max()]
        expected -= 0.05 * (len(there) - 1) ** 2 * np.mean(np.asarray(x["logps"])[b, best])
        np.testing.assert_allclose(bind(losses.pro, x)[b], expected, rtol=1e-12)


def test_pro_of_two():
    x = _two(_full(losses.pro))
    a = x["logps"] / x["lengths"]
    margin = (x["scores"][:, 0] - x["scores"][:, 1]) * (a[:, 0] - a[:, 1])
    np.testing.assert_allclose(
        bind(partial(losses.pro, sft_weight=0.0), x), jax.nn.softplus(-margin), rtol=1e-12
    )


def test_pro_zero_lengths_and_large_gaps():
    x = _full(losses.pro)
    x |= {"lengths": jnp.zeros((6, 4), int), "logps": jnp.zeros((6, 4)), "scores": 1e4 * x["scores"]}
    assert np.isfinite(bind(losses.pro, x)).all(), "the released code would overflow"
    np.testing.assert_allclose(bind(losses.pro, x), math.log(24), rtol=1e-12)


# Tree PO


def test_step_rewards_by_loops():
    x = _inputs(losses.tree_po)
    rng = np.random.default_rng(0)
    ids, per_step = rng.integers(-1, 8, (6, 4, 6)), rng.uniform(0, 2, (6, 4, 9))  # -1, 6 and 7 do not count
    weights = np.take_along_axis(per_step, ids % 9, 2)
    u, mask = np.asarray(x["token_logps"] - x["reference_token_logps"]), np.asarray(x["mask"])
    found = step_rewards(u, mask, jnp.asarray(ids), weights)
    for b, k in itertools.product(range(6), range(4)):
        sums = np.zeros(2)
        for step in range(6):
            tokens = mask[b, k] & (ids[b, k] == step)
            if tokens.any():
                w = per_step[b, k, step]
                sums += [w * u[b, k, tokens].mean(), w]
        np.testing.assert_allclose(found[b, k], sums[0] / sums[1] if sums[1] else 0.0, rtol=1e-12)


def test_tree_po_with_one_step_is_lipo_lambda_on_averages():
    x = _full(losses.tree_po) | {"step_ids": jnp.full((6, 4, 6), 3), "step_weights": jnp.full((6, 4, 6), 1.7)}
    u = jnp.where(x["mask"], x["token_logps"] - x["reference_token_logps"], 0).sum(-1) / x["mask"].sum(-1)
    expected = losses.lipo_lambda(u, 0 * u, x["scores"], x["where"], beta=0.5)
    np.testing.assert_allclose(bind(losses.tree_po, x), expected, rtol=1e-12)


def test_tree_po_ignores_masked_tokens_and_bad_steps():
    x = _full(losses.tree_po)
    dirty = {n: jnp.where(x["mask"], x[n], jnp.nan) for n in ("token_logps", "reference_token_logps")}
    np.testing.assert_allclose(bind(losses.tree_po, x | dirty), bind(losses.tree_po, x), rtol=1e-14)
    for bad in ({"step_ids": jnp.full((6, 4, 6), 6)}, {"step_weights": jnp.full((6, 4, 6), -1.0)}):
        y, zero = x | bad, jnp.zeros((6, 4))  # all rewards are 0
        expected = losses.lipo_lambda(zero, zero, x["scores"], x["where"])
        np.testing.assert_allclose(bind(losses.tree_po, y), expected, rtol=1e-14)
        np.testing.assert_array_equal(_gradient(losses.tree_po, y)["token_logps"], 0)


# Reward models


@over(REWARDS[:3])
def test_two_rewards_are_bradley_terry(loss):
    x = _two(_full(loss))
    chosen, rejected = jnp.take_along_axis(x["rewards"], jnp.argsort(-x["scores"], axis=1), 1).T
    np.testing.assert_allclose(bind(loss, x), losses.bradley_terry(chosen, rejected), rtol=1e-12)


@over(REWARDS)
def test_rewards_may_shift(loss):
    x = _inputs(loss)
    np.testing.assert_allclose(bind(loss, x | {"rewards": x["rewards"] + 7.0}), bind(loss, x), rtol=1e-10)
    np.testing.assert_allclose(_gradient(loss, x)["rewards"].sum(1), 0, atol=1e-14)


def test_plackett_luce_is_a_distribution_over_rankings():
    ranks = jnp.asarray(list(itertools.permutations(range(4))), jnp.float64)
    rewards = jnp.tile(jnp.array([0.3, -1.0, 2.0, 0.7]), (24, 1))
    there = jnp.ones((24, 4), bool)
    p = jnp.exp(-losses.reward_plackett_luce(rewards, -ranks, there))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-14)
    by_hand = []
    for row in np.asarray(ranks, int):
        weights, probability = np.exp(np.asarray(rewards[0]))[np.argsort(row)], 1.0
        for place in range(4):
            probability *= weights[place] / weights[place:].sum()
        by_hand.append(probability)
    np.testing.assert_allclose(p, by_hand, rtol=1e-12)
    # The first two places: every ordered pair of winners stands for two rankings.
    p = jnp.exp(-losses.reward_plackett_luce(rewards, -ranks, there, top=2))
    np.testing.assert_allclose(p.sum() / 2, 1, rtol=1e-14)


@pytest.mark.parametrize(("top", "expected"), [(None, 24), (4, 24), (3, 24), (2, 12), (1, 4)])
def test_plackett_luce_of_equal_rewards(top, expected):
    x = _full(losses.reward_plackett_luce)
    value = losses.reward_plackett_luce(jnp.full((6, 4), 3.0), x["scores"], x["where"], top=top)
    np.testing.assert_allclose(value, math.log(expected), rtol=1e-14)


def test_plackett_luce_with_ties():
    """Tied responses are each chosen from themselves and those below."""
    rewards = jnp.array([[0.3, -1.0, 2.0, 0.7]])
    w = np.exp(np.asarray(rewards[0]))
    scores, there = jnp.array([[5.0, 5.0, 1.0, 0.0]]), jnp.ones((1, 4), bool)
    low = w[2] + w[3]
    top = -math.log(w[0] / (w[0] + low)) - math.log(w[1] / (w[1] + low))
    value = losses.reward_plackett_luce(rewards, scores, there)
    np.testing.assert_allclose(value[0], top - math.log(w[2] / low), rtol=1e-13)
    for places in (1, 2):  # both tie for the first place, and there is no second one
        value = losses.reward_plackett_luce(rewards, scores, there, top=places)
        np.testing.assert_allclose(value[0], top, rtol=1e-13)


def test_conditional_logit_is_the_softmax_of_the_best():
    x = _full(losses.reward_softmax)
    best = x["scores"].argmax(1)
    expected = -jnp.take_along_axis(jax.nn.log_softmax(x["rewards"]), best[:, None], 1)[:, 0]
    np.testing.assert_allclose(bind(losses.reward_softmax, x), expected, rtol=1e-12)
    first = bind(partial(losses.reward_plackett_luce, top=1), x)
    np.testing.assert_array_equal(bind(losses.reward_softmax, x), first)


def test_list_pairs_by_loops():
    x = _inputs(losses.reward_list_pairs)
    x["scores"] = jnp.round(x["scores"] * 3)
    for b in range(6):
        there, r = np.flatnonzero(x["where"][b]), np.asarray(x["rewards"][b])
        terms = [
            math.log(1 + math.exp(r[j] - r[i]))
            for i, j in itertools.permutations(there, 2)
            if x["scores"][b, i] > x["scores"][b, j]
        ]
        np.testing.assert_allclose(bind(losses.reward_list_pairs, x)[b], np.mean(terms or [0]), rtol=1e-12)


def test_list_net_optimum_and_limit():
    x = _full(losses.reward_list_net)
    q = jax.nn.softmax(x["scores"] / 0.5)
    cold = partial(losses.reward_list_net, temperature=0.5)
    best = x | {"rewards": x["scores"] / 0.5 + 2.0}
    np.testing.assert_allclose(_gradient(cold, best)["rewards"], 0, atol=1e-15)
    np.testing.assert_allclose(bind(cold, best), -(q * jnp.log(q)).sum(1), rtol=1e-12)
    frozen = bind(partial(losses.reward_list_net, temperature=1e-6), x)
    np.testing.assert_allclose(frozen, bind(losses.reward_softmax, x), rtol=1e-12)
