"""One weight of a row and of a response, in losses, metrics and gradients alike."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from every_method import SGD, algorithm_of, batch_of, responses_of, small_transformer

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.reported import reward_metrics
from jaxpref.methods import METHODS
from jaxpref.metrics import Mean, merge, to_floats
from jaxpref.policies.tabular import tabular
from jaxpref.types import Completions, Segments, check_completions

KEY = jax.random.key(0)
WEIGHTS = jnp.array([1.0, 0.5, 2.0, 0.25])
TABLE = tabular(prompts=3, vocab=5)


def weighted(batch, weights):
    return dataclasses.replace(batch, columns=batch.columns | {"weights": jnp.asarray(weights, jnp.float32)})


def rows(batch, index):
    """The rows of these numbers; -1 is a row that only pads."""
    index = jnp.asarray(index)
    taken = jax.tree.map(lambda x: x[index], batch)
    return dataclasses.replace(taken, response_mask=taken.response_mask & (index >= 0)[:, None, None])


def stepped(method):
    """`batch -> (metrics, params' change and loss state after an SGD step)`, compiled once for a method."""
    return _stepped(method.name)


@functools.cache
def _stepped(name):
    policy, build = algorithm_of(next(method for method in METHODS if method.name == name))
    algorithm = build(policy)
    state = algorithm.init(policy.init(KEY))

    @jax.jit
    def step(batch):
        after, metrics = algorithm.step(state, batch, jax.random.key(1))
        # The norm is a property of the gradient, which the params show; it does not merge.
        kept = {name: mean for name, mean in metrics.items() if name not in ("grad_norm", "num_tokens")}
        return kept, jax.tree.map(jnp.subtract, after.params, state.params), after.loss_state

    return step


def values(metrics):
    return {name: float(mean.value) for name, mean in metrics.items()}


def assert_same(one, other):
    for name, value in values(other[0]).items():
        assert values(one[0])[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
    jax.tree.map(partial(np.testing.assert_allclose, rtol=5e-4, atol=2e-6), one[1:], other[1:])


def over(methods):
    """One in four always, and those that mutations name; the others with -m exhaustive."""
    always = {*(m.name for m in methods[::4]), "ppo", "relative_po"}
    marked = [
        pytest.param(m, marks=() if m.name in always else pytest.mark.exhaustive, id=m.name) for m in methods
    ]
    return pytest.mark.parametrize("method", marked)


@over(METHODS)
def test_weights_mean_the_same_to_every_objective(method):
    """A weight of 0 is absence, to state and metrics too, whatever couples the rows; scale and order mean
    nothing."""
    step, batch = stepped(method), batch_of(max(responses_of(method), 2))
    absent = step(weighted(rows(batch, [0, -1, 2, 3]), WEIGHTS))
    assert_same(step(weighted(batch, WEIGHTS * jnp.array([1, 0, 1, 1]))), absent)
    whole = step(weighted(batch, WEIGHTS))
    scaled = step(weighted(batch, 0.01 * WEIGHTS))
    assert_same(scaled, whole)
    if "key" not in method.inputs:  # else each place has its own noise
        order = [2, 0, 3, 1]
        assert_same(step(weighted(rows(batch, order), WEIGHTS[jnp.array(order)])), whole)


ALONE = [m for m in METHODS if not m.coupled and "key" not in m.inputs]  # a key is noise for each place


@over(ALONE)
def test_a_row_of_weight_2_is_there_twice_and_halves_merge(method):
    """Where every example stands for itself."""
    step, batch = stepped(method), batch_of(max(responses_of(method), 2))
    twice = step(weighted(rows(batch, [0, 1, 1, 2]), jnp.ones(4)))
    assert_same(step(weighted(rows(batch, [0, 1, 2, -1]), jnp.array([1.0, 2, 1, 1]))), twice)
    whole = step(weighted(batch, WEIGHTS))
    first, second = ([0, 1, -1, -1], [2, 3, -1, -1])
    halves = [step(weighted(rows(batch, index), WEIGHTS[jnp.array(index)]))[0] for index in (first, second)]
    merged = merge(*halves)
    for name, value in values(whole[0]).items():
        assert values(merged)[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_supervised_rows_weigh_what_their_column_says():
    """Two rows of weights 1 and 0 are the first alone; a weight is of a row's tokens."""
    policy, batch = small_transformer(), batch_of(k=1, b=2)
    algorithm = sft(policy, optimizer=SGD)
    state = algorithm.init(policy.init(KEY))
    evaluate = jax.jit(lambda batch: algorithm.step(state, batch, KEY))
    first = rows(batch, [0, -1])
    after, metrics = evaluate(weighted(batch, [1, 0]))
    alone, expected = evaluate(weighted(first, [1, 1]))
    for name in ("loss", "logps/chosen", "response_length", "grad_norm"):
        assert float(metrics[name].value) == pytest.approx(float(expected[name].value), rel=1e-6), name
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), after.params, alone.params)
    lengths = np.asarray(batch.lengths[:, 0])
    nll = -np.asarray(policy.token_logps(state.params, batch).sum((1, 2)))
    found = float(evaluate(weighted(batch, [3, 0.5]))[1]["loss"].value)
    assert found == pytest.approx((3 * nll[0] + 0.5 * nll[1]) / (3 * lengths[0] + 0.5 * lengths[1]), rel=1e-6)


def test_the_gradient_is_that_of_the_reported_mean_whatever_the_weights_sum_to():
    def loss(params, batch, key):
        mean = Mean((batch["w"] * batch["x"] * params).sum(), batch["w"].sum())
        return mean, ({"loss": mean}, None)

    batch = {"x": jnp.array([1.0, 3.0, -1.0, 5.0]), "w": 0.01 * jnp.array([1.0, 1, 2, 0])}
    for parts in (1, 2):
        gradient, (metrics, _) = accumulated_gradient(loss, jnp.float32(2.0), batch, KEY, microbatches=parts)
        np.testing.assert_allclose(gradient, (1 + 3 - 2) / 4, atol=1e-7)
        np.testing.assert_allclose(gradient * 2, metrics["loss"].value, atol=1e-7)
    nothing, _ = accumulated_gradient(loss, jnp.float32(2.0), batch | {"w": jnp.zeros(4)}, KEY)
    assert float(nothing) == 0


def _list_batch(**columns):
    rng = np.random.default_rng(5)
    return Completions(
        jnp.asarray(rng.integers(0, 3, (4, 1))),
        jnp.ones((4, 1), bool),
        jnp.asarray(rng.integers(0, 5, (4, 3, 1))),
        jnp.ones((4, 3, 1), bool).at[1, 2].set(False).at[2, 1:].set(False),
        columns={"scores": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), **columns},
    )


@pytest.mark.parametrize("loss", [losses.reward_list_pairs, losses.list_mle, losses.kto, losses.rloo])
def test_a_list_with_an_absent_response_counts_the_same_with_weights_of_one(loss):
    labels = jnp.tile(jnp.array([1, 0, 1]), (4, 1))
    batch = _list_batch(labels=labels, behaviour_logps=-jnp.ones((4, 3)))
    method = next(m for m in METHODS if m.loss is loss)
    batch = dataclasses.replace(batch, prompt_tokens=batch.prompt_tokens + 2)
    step = stepped(method)
    assert_same(step(weighted(batch, jnp.ones(4))), step(batch))


def test_a_loss_of_all_responses_that_knows_of_no_absence_skips_such_rows():
    """One that names responses wants those alone, one that names the mask any two."""

    def spread(logps):
        return logps.max(-1) - logps.min(-1)

    def first(chosen_logps):
        return -chosen_logps

    def masked(token_logps, mask):
        return jnp.where(mask, token_logps, 0).sum((1, 2))

    params = TABLE.init(KEY)
    batch = _list_batch()
    logps = np.asarray(TABLE.token_logps(params, batch).sum(-1))
    found = {}
    for loss in (spread, first, masked):
        algorithm = offline(TABLE, loss=loss, optimizer=SGD, reference=None)
        found[loss] = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))["loss"]
    whole = logps[[0, 3]]
    assert found[spread] == pytest.approx((whole.max(-1) - whole.min(-1)).mean(), rel=1e-6)
    assert found[first] == pytest.approx(-logps[:, 0].mean(), rel=1e-6)
    assert found[masked] == pytest.approx(logps[[0, 1, 3]].sum() / 3, rel=1e-6)


def test_ties_of_the_data_count_one_half():
    """Of two responses: strict pairs are right or wrong, ties are neither, and P < 1/2 says that the second
    wins."""
    p = jnp.array([0.9, 0.5, 0.2, 1.0, 0.5, 0.6])
    half = jnp.full(6, 0.5)
    preferences = jnp.stack([jnp.stack([half, p], -1), jnp.stack([1 - p, half], -1)], 1)
    zeros = jnp.zeros((6, 2, 1), jnp.int32)
    batch = Segments(zeros, zeros, jnp.ones((6, 2, 1), bool), preferences=preferences)
    # Right, tie, right, wrong, tie, reward tied.
    rewards = jnp.array([[2.0, 1], [3, 1], [0, 4], [1, 2], [0, 9], [5, 5]])
    found = to_floats(reward_metrics(rewards, None, batch))
    assert found["rewards/accuracies"] == pytest.approx((1 + 0.5 + 1 + 0 + 0.5 + 0.5) / 6)
    assert found["rewards/chosen"] == pytest.approx((2 + 3 + 4 + 1 + 0 + 5) / 6)
    weights = [1.0, 0, 2, 1, 1, 0]
    found = to_floats(reward_metrics(rewards, None, weighted(batch, weights)))
    assert found["rewards/accuracies"] == pytest.approx((1 + 2 + 0 + 0.5) / 5)


def test_a_loss_may_say_what_it_has_a_number_for():
    from jaxtyping import Array, Float

    def per_response(logps) -> Float[Array, "b k"]:
        return -logps

    def wrong(logps) -> Float[Array, "b"]:
        return -logps

    params, batch = TABLE.init(KEY), _list_batch()
    algorithm = offline(TABLE, loss=per_response, optimizer=SGD, reference=None)
    found = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))["loss"]
    logps = np.asarray(TABLE.token_logps(params, batch).sum(-1))
    assert found == pytest.approx(-logps[np.asarray(batch.present)].mean(), rel=1e-6)
    algorithm = offline(TABLE, loss=wrong, optimizer=SGD, reference=None)
    with pytest.raises(ValueError, match=r"returned shape \[4, 3\]; one number for each prompt is \[b\]"):
        algorithm.evaluate(algorithm.init(params), batch, KEY)


def test_negative_weights_are_an_error():
    batch = weighted(batch_of(), [1.0, -0.5, 1, 1])
    with pytest.raises(ValueError, match=r"column weights: expected 0 or more, got -0.5 in row 1"):
        check_completions(batch)


def test_rewards_of_named_sides_are_those_of_the_pair():
    """A third response beside chosen and rejected ones (a rationale) is not compared with them."""
    batch = dataclasses.replace(_list_batch(), response_mask=jnp.ones((4, 3, 1), bool))
    params = TABLE.init(KEY)

    def loss(chosen_logps, rejected_logps, rationale_logps):
        return rejected_logps - chosen_logps - rationale_logps

    algorithm = offline(TABLE, loss=loss, optimizer=partial(optax.sgd, 0.1), reference=None)
    found = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))
    logps = np.asarray(TABLE.token_logps(params, batch).sum(-1))
    assert found["rewards/chosen"] == pytest.approx(logps[:, 0].mean(), rel=1e-6)
    assert found["rewards/rejected"] == pytest.approx(logps[:, 1].mean(), rel=1e-6)
    expected = np.sign(logps[:, 0] - logps[:, 1]) / 2 + 0.5
    assert found["rewards/accuracies"] == pytest.approx(expected.mean(), rel=1e-6)
