"""Everything a loss may name reaches it: heads, statistics, columns, labels, lists, state, keys."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from every_method import SGD, B, algorithm_of, batch_of, responses_of, small_transformer

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.inputs import Input
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.quantities import mismatched
from jaxpref.methods import METHODS
from jaxpref.metrics import Mean, to_floats
from jaxpref.policies.tabular import tabular
from jaxpref.types import Completions

KEY = jax.random.key(0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_loss_trains_through_the_same_rule(method):
    """Traced with shapes alone: every input is found, and a step gives a state like the one it got."""
    policy, build = algorithm_of(method)
    algorithm, batch = build(policy), batch_of(max(responses_of(method), 2))
    state = jax.eval_shape(algorithm.init, jax.eval_shape(policy.init, KEY))
    after, metrics = jax.eval_shape(algorithm.step, state, batch, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {"loss", "grad_norm", "num_tokens"} <= set(metrics)
    assert any(name.startswith("rewards/") for name in metrics)
    assert jax.eval_shape(algorithm.rewards, state, batch).shape == batch.lengths.shape


@pytest.mark.parametrize(
    ("name", "base", "reference", "response"),
    [
        ("chosen_logps", "logps", False, 0),
        ("reference_rejected_token_logps", "token_logps", True, 1),
        ("reference_logps", "logps", True, None),
        ("rationale_logps", "logps", False, 2),
        ("pair_preferences", "pair_preferences", False, None),
        ("chosen_forward_kl", "forward_kl", False, 0),
        ("my_column", "my_column", False, None),
    ],
)
def test_names_are_read(name, base, reference, response):
    assert Input.of(name) == Input(name, base, reference, response)


def test_names_of_self_samples_are_read():
    assert Input.of("reference_sampled_logps") == Input(
        "reference_sampled_logps", "logps", reference=True, sampled=True
    )


def test_statistics_and_heads_come_from_one_pass_and_are_right():
    policy, batch = small_transformer(outputs=3), batch_of()
    params = policy.init(KEY)
    other = policy.init(jax.random.key(1))
    read = jax.jit(policy.quantities, static_argnums=2)
    found = read(params, batch, ("token_logps", "entropy", "forward_kl", "embeddings"), other)
    logps = jax.jit(policy.token_logps)(params, batch)
    np.testing.assert_allclose(found["token_logps"], logps, rtol=1e-5, atol=1e-6)
    assert (found["forward_kl"] >= -1e-6).all()
    np.testing.assert_array_equal(found["forward_kl"] == 0, ~batch.response_mask)
    same = read(params, batch, ("forward_kl",), params)["forward_kl"]
    np.testing.assert_allclose(same, 0, atol=1e-5)
    assert found["embeddings"].shape == (B, 2, 3)
    # The head reads the last scored token: what comes after it changes nothing.
    junk = jnp.where(batch.response_mask, batch.response_tokens, 7)
    again = read(params, dataclasses.replace(batch, response_tokens=junk), ("embeddings",), None)
    np.testing.assert_allclose(again["embeddings"], found["embeddings"], rtol=1e-5, atol=1e-7)


def test_a_reward_model_learns_through_the_same_rule():
    policy, batch = small_transformer(outputs=1), batch_of(b=8, seed=1)  # no pair is the same twice
    batch = dataclasses.replace(batch, preferences=None)  # the first is the better one
    algorithm = offline(
        policy, loss=losses.bradley_terry, optimizer=partial(optax.adam, 5e-3), reference=None
    )
    state, step = algorithm.init(policy.init(KEY)), jax.jit(algorithm.step)
    history = []
    for _ in range(100):
        state, metrics = step(state, batch, KEY)
        history.append(to_floats(metrics))
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(np.log(2), abs=0.1), "a fresh head gives rewards near 0"
    assert last["rewards/accuracies"] == 1.0
    assert last["loss"] < 0.2
    assert not any(name.startswith("logps/") for name in last), "no log-prob was computed"
    rewards = jax.jit(algorithm.rewards)(state, batch)
    np.testing.assert_array_equal(jnp.sign(rewards[:, 0] - rewards[:, 1]), 1)


def test_the_wrong_head_is_an_error():
    policy = small_transformer(outputs=4)
    algorithm = offline(policy, loss=losses.bradley_terry, optimizer=SGD, reference=None)
    state = algorithm.init(policy.init(KEY))
    with pytest.raises(ValueError, match="head has 4 outputs"):
        algorithm.evaluate(state, batch_of(), KEY)


TABLE = tabular(prompts=3, vocab=5)


def _table(labels=None, k=1, b=6, **columns):
    rng = np.random.default_rng(3)
    mask = jnp.ones((b, k, 1), bool)
    if labels is not None:
        columns["labels"] = jnp.asarray(labels)[:, None]
    return Completions(
        jnp.asarray(rng.integers(0, 3, (b, 1))),
        jnp.ones((b, 1), bool),
        jnp.asarray(rng.integers(0, 5, (b, k, 1))),
        mask,
        columns=columns,
    )


def test_labelled_responses_are_a_mean_over_responses():
    def unpaired(logps, labels):
        return jnp.where(labels == 1, -logps, 2 * logps)

    labels = jnp.array([1, 0, 1, 1, 0, 0])
    batch = _table(labels)
    mask = batch.response_mask.at[5].set(False)
    batch = dataclasses.replace(batch, response_mask=mask)
    algorithm = offline(TABLE, loss=unpaired, optimizer=SGD, reference=None)
    params = TABLE.init(KEY)
    metrics = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))
    logps = np.asarray(TABLE.token_logps(params, batch).sum((1, 2)))
    signs = np.array([-1, 2, -1, -1, 2, 0])
    assert metrics["loss"] == pytest.approx((signs * logps)[:5].mean(), rel=1e-6)
    assert metrics["rewards/chosen"] == pytest.approx(logps[[0, 2, 3]].mean(), rel=1e-6)
    assert metrics["rewards/rejected"] == pytest.approx(logps[[1, 4]].mean(), rel=1e-6)


def test_lists_skip_rows_with_nothing_to_compare_and_count_pairs():
    def spread(logps, scores, where):
        return jnp.where(where, logps * scores, 0).sum(-1)

    scores = jnp.tile(jnp.array([0.5, 0.1, 0.9]), (4, 1))
    batch = _table(k=3, b=4, scores=scores)
    mask = batch.response_mask.at[3, 1:].set(False).at[2, 2].set(False)
    batch = dataclasses.replace(batch, response_mask=mask)
    algorithm = offline(TABLE, loss=spread, optimizer=SGD, reference=None)
    params = TABLE.init(KEY)
    metrics = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))
    logps = np.asarray(TABLE.token_logps(params, batch).sum(-1))
    rows = [(logps[i] * scores[i] * mask[i, :, 0]).sum() for i in range(3)]
    assert metrics["loss"] == pytest.approx(np.mean(rows), rel=1e-6), (
        "the row with one response has no weight"
    )
    pairs = [
        (i, a, c)
        for i in range(4)
        for a in range(3)
        for c in range(3)
        if scores[i, a] > scores[i, c] and mask[i, a, 0] and mask[i, c, 0]
    ]
    wins = [
        1.0 if logps[i, a] > logps[i, c] else 0.5 if logps[i, a] == logps[i, c] else 0.0 for i, a, c in pairs
    ]
    assert metrics["rewards/accuracies"] == pytest.approx(np.mean(wins), rel=1e-6)
    assert metrics["rewards/chosen"] == pytest.approx(
        np.mean([logps[0, 2], logps[1, 2], logps[2, 0]]), rel=1e-6
    )


def test_state_goes_from_step_to_step_and_evaluation_leaves_it_alone():
    def counting(logps, state):
        return -logps[:, 0], state + 1

    algorithm = offline(TABLE, loss=counting, optimizer=SGD, reference=None, loss_state=lambda: jnp.int32(5))
    state = algorithm.init(TABLE.init(KEY))
    for _ in range(3):
        state, _ = algorithm.step(state, _table(), KEY)
        algorithm.evaluate(state, _table(), KEY)
    assert state.loss_state == 8
    for arguments, message in (
        ({}, "set loss_state=losses.counting_state"),
        ({"loss_state": dict, "microbatches": 2}, "microbatches=1"),
    ):
        with pytest.raises(ValueError, match=message):
            offline(TABLE, loss=counting, optimizer=SGD, reference=None, **arguments)


def test_a_loss_that_draws_gets_the_step_key():
    def noisy(logps, key):
        return -logps[:, 0] * jax.random.uniform(key)

    algorithm = offline(TABLE, loss=noisy, optimizer=SGD, reference=None)
    state = algorithm.init(TABLE.init(KEY))
    first, second = (
        to_floats(algorithm.evaluate(state, _table(), jax.random.key(i)))["loss"] for i in (1, 2)
    )
    assert first != second


def test_policy_and_reference_see_the_same_noise_and_another_one_each_step():
    """So that at the start, where the two are equal, whatever is noisy in both cancels."""

    def features(params, batch, key):
        return {"noise": jax.random.normal(key, batch.lengths.shape)}

    def apart(noise, reference_noise):
        return jnp.abs(noise - reference_noise)

    def alone(noise):
        return noise

    def of_step(loss, number, **arguments):
        algorithm = offline(TABLE, loss=loss, optimizer=SGD, features=features, **arguments)
        metrics = algorithm.evaluate(algorithm.init(TABLE.init(KEY)), _table(), jax.random.key(number))
        return float(metrics["loss"].value)

    assert of_step(apart, 1) == 0
    assert of_step(alone, 1, reference=None) != of_step(alone, 2, reference=None)


def test_every_part_of_a_batch_has_a_key_of_its_own():
    """The gradient of a row is the number that its part has drawn."""

    def loss(params, rows, key):
        mean = Mean((rows @ params).sum() * jax.random.uniform(key), jnp.float32(len(rows)))
        return mean, ({}, None)

    drawn, _ = accumulated_gradient(loss, jnp.zeros(6), jnp.eye(6), KEY, microbatches=3)
    np.testing.assert_array_equal(drawn[:3], drawn[3:])  # row i is in part i mod 3
    assert len(np.unique(drawn)) == 3


def test_objectives_are_combined_from_the_gradients_of_the_whole_batch():
    def two(logps, rows):
        return jnp.stack([-logps[:, 0], logps[:, 0] * rows], 1)

    def combine(gradients):
        return jax.tree.map(lambda g: g[0] + 10 * g[1], gradients)

    def one(logps, rows):
        return -logps[:, 0] + 10 * logps[:, 0] * rows

    batch, params = _table(rows=jnp.arange(6.0)), TABLE.init(KEY)
    results = []
    for loss, arguments in (
        (one, {}),
        (two, {"combine": combine}),
        (two, {"combine": combine, "microbatches": 3}),
    ):
        algorithm = offline(TABLE, loss=loss, optimizer=SGD, reference=None, **arguments)
        results.append(algorithm.step(algorithm.init(params), batch, KEY)[0].params["logits"])
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5, atol=1e-6)


def test_mismatched_responses_rotate_among_real_rows():
    batch = _table(k=1, b=5)
    batch = dataclasses.replace(batch, response_mask=batch.response_mask.at[3:].set(False))
    rolled = mismatched(batch)
    np.testing.assert_array_equal(rolled.response_tokens[:3], batch.response_tokens[jnp.array([1, 2, 0])])
    np.testing.assert_array_equal(rolled.response_mask.any((1, 2)), [True, True, True, False, False])


def test_a_missing_column_says_what_to_add():
    def with_mine(chosen_logps, mine):
        return -chosen_logps * mine

    algorithm = offline(TABLE, loss=with_mine, optimizer=SGD, reference=None)
    with pytest.raises(ValueError, match=r"no 'mine': correct the name, or add such a column"):
        algorithm.evaluate(algorithm.init(TABLE.init(KEY)), _table(k=2), KEY)
    algorithm = offline(TABLE, loss=losses.cpo, optimizer=SGD, reference=None)
    with pytest.raises(ValueError, match="needs rejected_logps, response 1"):
        algorithm.evaluate(algorithm.init(TABLE.init(KEY)), _table(k=1), KEY)


@pytest.mark.parametrize(
    "name", ["lengths", "where", "valid", "key", "values", "hidden_states", "mismatched_logps", "entropy"]
)
def test_columns_named_like_quantities_are_refused(name):
    """A file's column of character counts, called lengths, took the place of the numbers of tokens."""
    policy, build = algorithm_of(next(m for m in METHODS if m.name == "simpo"))
    algorithm, batch = build(policy), batch_of(2)
    batch = dataclasses.replace(batch, columns={**batch.columns, name: jnp.ones(batch.mask.shape[0])})
    state = jax.eval_shape(algorithm.init, jax.eval_shape(policy.init, KEY))
    with pytest.raises(ValueError, match=f"column {name} has the name of a computed quantity"):
        jax.eval_shape(algorithm.step, state, batch, KEY)
