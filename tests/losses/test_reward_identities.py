"""What losses of scalar rewards must obey: slopes, minima, limits and shifts, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses.attributes import directional_reward, preference_direction
from jaxpref.losses.odin import correlation
from jaxpref.losses.reward import agreement_margins


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _rewards(seed=0, batch=7):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0, 2, batch)), jnp.asarray(rng.normal(0, 2, batch))


def _slopes(loss, chosen, rejected):
    """Value and both slopes of one pair."""
    one = jnp.ones(1)

    def value(c, r):
        return loss(c * one, r * one)[0]

    return value(chosen, rejected), *jax.grad(value, (0, 1))(float(chosen), float(rejected))


def _stationary(loss, difference):
    """Whether the loss of a pair has its minimum at this difference of rewards."""
    at = [_slopes(loss, difference + step, 0.0)[1] for step in (-1e-3, 0.0, 1e-3)]
    np.testing.assert_allclose(at[1], 0, atol=1e-12)
    assert at[0] < 0 < at[2]


@pytest.mark.parametrize("margin", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_bradley_terry_slopes(margin, temperature):
    loss = partial(losses.bradley_terry, margin=margin, temperature=temperature)
    for difference in (margin, 0.3, -1.2):
        value, chosen, rejected = _slopes(loss, 0.7 + difference, 0.7)
        h = (difference - margin) / temperature
        np.testing.assert_allclose(value, np.log1p(np.exp(-h)), rtol=1e-12)
        np.testing.assert_allclose(chosen, -1 / (1 + np.exp(h)) / temperature, rtol=1e-11)
        assert chosen == -rejected
    np.testing.assert_allclose(_slopes(loss, margin + 5.0, 5.0)[0], np.log(2), rtol=1e-12)


def test_centering_pins_the_constant():
    chosen, rejected = _rewards()
    plain = losses.bradley_terry(chosen, rejected)
    np.testing.assert_allclose(losses.bradley_terry(chosen + 9, rejected + 9), plain, rtol=1e-11)
    pinned = losses.bradley_terry(chosen, rejected, centering=0.01)
    np.testing.assert_allclose(pinned - plain, 0.01 * (chosen + rejected) ** 2, rtol=1e-9)
    assert (losses.bradley_terry(chosen + 9, rejected + 9, centering=0.01) > pinned + 0.1).all()
    same = losses.bradley_terry_margin(chosen, rejected, 0 * chosen, centering=0.01)
    np.testing.assert_allclose(same, pinned, rtol=1e-12)


@pytest.mark.parametrize("e", [0.1, 0.02, 0.4])
@pytest.mark.parametrize(("margin", "temperature"), [(0.0, 1.0), (0.5, 0.2)])
def test_minimum_of_smoothed_labels(e, margin, temperature):
    loss = partial(losses.bradley_terry, margin=margin, temperature=temperature, label_smoothing=e)
    _stationary(loss, margin + temperature * np.log((1 - e) / e))


def test_smoothing_mixes_both_orders():
    chosen, rejected = _rewards()
    mixed = 0.9 * losses.bradley_terry(chosen, rejected) + 0.1 * losses.bradley_terry(rejected, chosen)
    np.testing.assert_allclose(losses.bradley_terry(chosen, rejected, label_smoothing=0.1), mixed, rtol=1e-12)
    np.testing.assert_allclose(
        losses.bradley_terry_soft(chosen, rejected, jnp.full(7, 0.9)), mixed, rtol=1e-12
    )


@pytest.mark.parametrize("p", [0.9, 0.5, 0.2, 0.999])
def test_minimum_of_soft_labels(p):
    for temperature in (1.0, 0.1):
        loss = partial(losses.bradley_terry_soft, pair_preferences=jnp.full(1, p), temperature=temperature)
        _stationary(loss, temperature * np.log(p / (1 - p)))


def test_certain_soft_labels_are_labels():
    chosen, rejected = _rewards()
    won = losses.bradley_terry_soft(chosen, rejected, jnp.ones(7))
    np.testing.assert_allclose(won, losses.bradley_terry(chosen, rejected), rtol=1e-12)
    lost = losses.bradley_terry_soft(chosen, rejected, jnp.zeros(7))
    np.testing.assert_allclose(lost, losses.bradley_terry(rejected, chosen), rtol=1e-12)


def test_constant_margins_are_the_margin():
    chosen, rejected = _rewards()
    given = losses.bradley_terry_margin(chosen, rejected, jnp.full(7, 1.5), temperature=0.3)
    np.testing.assert_allclose(
        given, losses.bradley_terry(chosen, rejected, margin=1.5, temperature=0.3), rtol=1e-12
    )


def test_a_hopeless_pair_keeps_its_gradient():
    """-log(sigmoid + 1e-5), as one released code has it, ends at 11.5 nats and teaches nothing there."""
    rewards = jnp.full(1, -1e4, jnp.float32), jnp.zeros(1, jnp.float32)
    value, gradient = jax.value_and_grad(lambda c, r: losses.bradley_terry(c, r)[0])(*rewards)
    assert (value, gradient[0]) == (1e4, -1)


def test_low_precision_rewards_give_float32():
    rewards = [r.astype(jnp.bfloat16) for r in _rewards()]
    assert losses.bradley_terry(*rewards).dtype == jnp.float32
    exact = losses.bradley_terry(*(r.astype(jnp.float32) for r in rewards))
    np.testing.assert_array_equal(losses.bradley_terry(*rewards), exact)


def test_likelihood_beside_the_ranking():
    chosen, rejected = _rewards()
    logps, lengths = -jnp.arange(7.0), jnp.array([0, 1, 2, 3, 4, 5, 60])
    plain = losses.bradley_terry(chosen, rejected)
    none = losses.bradley_terry_sft(chosen, rejected, logps, lengths, sft_weight=0.0)
    np.testing.assert_allclose(none, plain, rtol=1e-12)
    added = losses.bradley_terry_sft(chosen, rejected, logps, lengths, sft_weight=0.3) - plain
    np.testing.assert_allclose(added, 0.3 * np.array([0, 1, 1, 1, 1, 1, 0.1]), rtol=1e-9)


def test_regression_of_the_margin():
    loss = losses.bradley_terry_regression
    _stationary(loss, 1.0)
    value, chosen, rejected = _slopes(loss, 0.4, 0.1)
    np.testing.assert_allclose([value, chosen, rejected], [49 / 2, -70, 70], rtol=1e-12)
    past = _slopes(loss, 3.0, 0.0)[1]
    assert past > 0, "unlike the logistic loss it turns back"


def test_agreement_of_judges_is_a_margin():
    margins = agreement_margins(jnp.array([0.5, 1.0, 0.0, 0.75]), scale=2.0)
    np.testing.assert_allclose(margins, [0, 2, -2, 1])
    assert jax.grad(lambda a: agreement_margins(a).sum())(jnp.float64(0.3)) == 0


def _odin_inputs(batch=9, **changes):
    x = {n: jnp.asarray(v) for n, v in inputs_for(losses.odin, batch).items()}
    return x | {"valid": jnp.ones(batch, bool)} | changes


def test_odin_against_numpy():
    x = _odin_inputs()
    heads = np.concatenate([x["chosen_embeddings"], x["rejected_embeddings"]])
    lengths = np.concatenate([x["chosen_lengths"], x["rejected_lengths"]])
    follows, leaks = (np.corrcoef(lengths, heads[:, i])[0, 1] for i in range(2))
    margins = heads[:9].sum(1) - heads[9:].sum(1)
    expected = np.log1p(np.exp(-margins)) + 0.4 * (1 - follows + abs(leaks))
    np.testing.assert_allclose(losses.odin(**x, length_weight=0.4), expected, rtol=1e-11)


def test_odin_ranks_each_pair():
    """One logit for the batch, as one released code has it, would give all pairs one ranking term."""
    x = _odin_inputs()
    loss = losses.odin(**x, length_weight=0.0)
    rewards = [x[f"{side}_embeddings"].sum(1) for side in ("chosen", "rejected")]
    np.testing.assert_allclose(loss, losses.bradley_terry(*rewards), rtol=1e-12)
    assert len(np.unique(loss)) == 9


def test_odin_at_its_best():
    """A first head that is length, a second that does not know it: no penalty, and none of its gradient."""
    lengths = jnp.array([1, 2, 3, 4]), jnp.array([4, 3, 2, 1])
    quality = jnp.array([1.0, -1.0, -1.0, 1.0])
    x = {
        "chosen_embeddings": jnp.stack([5 + 2.0 * lengths[0], quality], 1),
        "rejected_embeddings": jnp.stack([5 + 2.0 * lengths[1], quality], 1),
        "chosen_lengths": lengths[0],
        "rejected_lengths": lengths[1],
        "valid": jnp.ones(4, bool),
    }
    penalty = losses.odin(**x) - losses.odin(**x, length_weight=0.0)
    np.testing.assert_allclose(penalty, 0, atol=1e-14)
    worst = losses.odin(**x | {n: -x[n] for n in x if "embeddings" in n}) - losses.odin(
        **x | {n: -x[n] for n in x if "embeddings" in n}, length_weight=0.0
    )
    np.testing.assert_allclose(worst, 2)


def test_correlation_does_not_see_scale_or_shift():
    rng = np.random.default_rng(3)
    first, second, where = rng.normal(size=40), rng.normal(size=40), rng.random(40) < 0.6
    expected = np.corrcoef(first[where], second[where])[0, 1]
    for scale, shift in ((1.0, 0.0), (1e-12, 0.0), (1e12, 0.0), (3.0, 1e3)):
        moved = correlation(scale * first + shift, second, where)
        np.testing.assert_allclose(moved, expected, rtol=1e-9)
    first[~where] = np.nan
    np.testing.assert_allclose(correlation(jnp.asarray(first), second, where), expected, rtol=1e-12)
    assert correlation(first, second, np.zeros(40, bool)) == 0


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
def test_odin_of_constant_heads_or_lengths(constant):
    """No correlation is defined: it counts as 0, and rounding of the mean is no variation."""
    heads = jnp.full((9, 2), constant, jnp.float32)
    x = _odin_inputs(chosen_embeddings=heads, rejected_embeddings=heads)
    np.testing.assert_allclose(losses.odin(**x), np.log(2) + 1, rtol=1e-6)
    gradient = jax.grad(lambda h: losses.odin(**x | {"chosen_embeddings": h}).sum())(heads)
    np.testing.assert_allclose(gradient, -0.5)
    lengths = {n: jnp.full(9, 7) for n in ("chosen_lengths", "rejected_lengths")}
    x = _odin_inputs(**lengths)
    ranking = losses.odin(**x, length_weight=0.0)
    np.testing.assert_allclose(losses.odin(**x) - ranking, 1, rtol=1e-12)


def test_odin_of_rows_that_are_not_valid():
    x = _odin_inputs(valid=jnp.array([True] * 4 + [False] * 5))
    assert (losses.odin(**x)[4:] == 0).all()
    np.testing.assert_array_equal(losses.odin(**x | {"valid": jnp.zeros(9, bool)}), 0)
    with pytest.raises(ValueError, match="two heads"):
        losses.odin(**x | {n: jnp.ones((9, 3)) for n in x if "embeddings" in n})


def test_attribute_regression_skips_what_is_missing():
    rng = np.random.default_rng(0)
    embeddings, ratings = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 2, 4))
    ratings[0, 0, 1] = ratings[1] = np.nan
    where = np.array([[True, True], [True, True], [True, False]])
    expected = [
        np.nanmean((embeddings[0] - ratings[0]) ** 2),
        0,
        np.mean((embeddings[2, 0] - ratings[2, 0]) ** 2),
    ]
    np.testing.assert_allclose(losses.attribute_regression(embeddings, ratings, where), expected)
    embeddings[2, 1] = np.nan  # a response that does not exist may hold anything
    np.testing.assert_allclose(losses.attribute_regression(embeddings, ratings, where), expected)
    gradient = jax.grad(lambda e: losses.attribute_regression(e, ratings, where).sum())(
        jnp.asarray(embeddings)
    )
    present = ~np.isnan(ratings) & where[..., None]
    np.testing.assert_array_equal(gradient[~present], 0)
    counts = present.sum((1, 2), keepdims=True)
    slopes = np.where(present, 2 * (embeddings - ratings) / np.maximum(counts, 1), 0)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-12)


def test_choice_turns_at_the_analytic_angle():
    """Two responses (3, 0) and (1, 2): with weights (cos, sin) they tie at 45 degrees, where tan = 2 / 2."""
    outputs = jnp.array([[3.0, 0.0], [1.0, 2.0]])
    for angle, best in ((np.pi / 4 - 1e-6, 0), (np.pi / 4 + 1e-6, 1)):
        direction = preference_direction(angle)
        np.testing.assert_allclose(jnp.linalg.norm(direction), 1, rtol=1e-15)
        rewards = directional_reward(outputs, direction)
        assert rewards.argmax() == best
        np.testing.assert_allclose(rewards[1], np.cos(angle) + 2 * np.sin(angle), rtol=1e-14)
    fan = preference_direction(jnp.linspace(0, np.pi / 2, 5))
    assert fan.shape == (5, 2)
    chosen = jnp.stack([directional_reward(outputs, direction) for direction in fan]).argmax(1)
    assert (jnp.diff(chosen) >= 0).all(), "one turn, as the angle grows"
