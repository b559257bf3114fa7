"""The offline rule: what it feeds a loss, its exact optimum on a table, and what it refuses."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import pairs

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import (
    adamw,
    constant,
    each_step,
    lasting,
    rmsprop,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
)
from jaxpref.metrics import to_floats
from jaxpref.policies.tabular import tabular

POLICY = tabular(prompts=3, vocab=4)
KEY = jax.random.key(0)


def _algorithm(loss=losses.dpo, **arguments):
    sgd = partial(optax.sgd, 0.1)
    return offline(POLICY, loss=loss, optimizer=arguments.pop("optimizer", sgd), **arguments)


def _batch(n: int = 6):
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 4, n)
    return pairs(rng.integers(0, 3, n), chosen, (chosen + rng.integers(1, 4, n)) % 4)


def test_step_zero_is_exactly_log_two_with_zero_rewards():
    algorithm = _algorithm()
    state = algorithm.init(POLICY.init(KEY))
    metrics = to_floats(algorithm.evaluate(state, _batch(8), KEY))
    assert metrics["loss"] == np.float32(np.log(2))
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert metrics[name] == 0
    assert metrics["rewards/accuracies"] == 0.5, "ties count one half"


def test_the_optimum_on_a_table_is_the_exponential_tilt_of_the_reference():
    """Labels drawn from Bradley-Terry rewards r, in population: pi* is proportional to ref * exp(r / beta)
    (arXiv:2305.18290, Eq. 4 and Theorem 1)."""
    beta, rewards = 0.5, np.array([[0.0, 0.4, -0.3, 0.9], [1.0, -1.0, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]])
    x, i, j = (a.ravel() for a in np.meshgrid(range(3), range(4), range(4), indexing="ij"))
    keep = i != j
    x, i, j = x[keep], i[keep], j[keep]
    weight = jax.nn.sigmoid(rewards[x, i] - rewards[x, j])  # P(i beats j): the population of labels

    def population_loss(*inputs, beta):
        return weight * losses.dpo(*inputs, beta=beta)

    def weighted_dpo(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, *, beta=beta
    ):
        return population_loss(
            chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=beta
        )

    algorithm = _algorithm(weighted_dpo, optimizer=partial(optax.adam, optax.cosine_decay_schedule(0.3, 600)))
    params = POLICY.init(KEY)
    state, step = algorithm.init(params), jax.jit(algorithm.step)
    for _ in range(600):
        state, _ = step(state, pairs(x, i, j), KEY)
    expected = jax.nn.softmax(params["logits"] + rewards / beta, -1)
    np.testing.assert_allclose(jax.nn.softmax(state.params["logits"], -1), expected, atol=2e-4)
    np.testing.assert_array_equal(state.policies["initial"]["logits"], params["logits"])


def test_precomputed_reference_equals_the_frozen_copy():
    frozen, column = _algorithm(reference="initial"), _algorithm(reference="batch")
    params, batch = POLICY.init(KEY), _batch()
    with_column = dataclasses.replace(batch, reference_logps=POLICY.token_logps(params, batch).sum(-1))
    a, b = frozen.init(params), column.init(params)
    for _ in range(3):
        a, first = frozen.step(a, batch, KEY)
        b, second = column.step(b, with_column, KEY)
        assert to_floats(first) == pytest.approx(to_floats(second), rel=1e-6)
    assert not b.policies
    np.testing.assert_allclose(a.params["logits"], b.params["logits"], rtol=1e-6)


def test_microbatches_of_unequal_weight_equal_the_full_batch():
    batch = _batch(8)
    # Rows 5 to 7 only pad the batch, so the parts have unequal numbers of valid rows.
    mask = batch.response_mask & (jnp.arange(8) < 5)[:, None, None]
    batch = dataclasses.replace(batch, response_mask=mask)
    params = POLICY.init(KEY)
    results = []
    for n in (1, 2, 4):
        algorithm = _algorithm(microbatches=n)
        state, metrics = algorithm.step(algorithm.init(params), batch, KEY)
        results.append((state.params["logits"], to_floats(metrics)))
    for logits, metrics in results[1:]:
        np.testing.assert_allclose(logits, results[0][0], rtol=1e-6, atol=1e-7)
        assert metrics == pytest.approx(results[0][1], rel=1e-5, abs=1e-6)
    with pytest.raises(ValueError, match="does not divide a batch"):
        _algorithm(microbatches=3).step(_algorithm().init(params), batch, KEY)


def test_padding_rows_change_nothing():
    batch, params = _batch(4), POLICY.init(KEY)
    padded = jax.tree.map(lambda a: jnp.concatenate([a, jnp.zeros_like(a)]), batch)
    algorithm = _algorithm()
    a, first = algorithm.step(algorithm.init(params), batch, KEY)
    b, second = algorithm.step(algorithm.init(params), padded, KEY)
    np.testing.assert_allclose(a.params["logits"], b.params["logits"], rtol=1e-6, atol=1e-7)
    assert to_floats(first) == pytest.approx(to_floats(second), rel=1e-6)


def test_reference_free_loss_keeps_no_reference():
    algorithm = _algorithm(losses.simpo, reference=None)
    state = algorithm.init(POLICY.init(KEY))
    assert not state.policies
    state, metrics = algorithm.step(state, _batch(), KEY)
    assert to_floats(metrics)["rewards/chosen"] < 0, "beta * logps without a reference"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": losses.dpo, "reference": None}, "needs reference log-probs"),
        ({"loss": losses.simpo, "reference": "initial"}, "takes no reference"),
        ({"loss": losses.bradley_terry, "reference": None}, "build the policy with outputs=1"),
        ({"loss": losses.dpo, "loss_state": dict}, "carries no state"),
        ({"loss": losses.sft, "reference": None, "pair_scan": True}, "no summed_loss"),
        ({"loss": losses.dpo, "reference": "frozen"}, "expected 'initial', 'base', 'batch' or None"),
    ],
)
def test_a_loss_that_cannot_be_fed_is_refused_before_anything_runs(arguments, message):
    with pytest.raises(ValueError, match=message):
        _algorithm(**arguments)


def test_missing_reference_column_says_how_to_write_it():
    algorithm = _algorithm(reference="batch")
    with pytest.raises(ValueError, match="jaxpref prepare"):
        algorithm.step(algorithm.init(POLICY.init(KEY)), _batch(), KEY)


@pytest.mark.parametrize("build", [adamw, rmsprop])
def test_optimizers_report_their_learning_rate(build):
    schedule = partial(warmup_linear, peak=0.1, warmup_steps=2, num_steps=6)
    algorithm = _algorithm(optimizer=partial(build, schedule=schedule))
    state, rates = algorithm.init(POLICY.init(KEY)), []
    for _ in range(6):
        state, metrics = algorithm.step(state, _batch(), KEY)
        rates.append(to_floats(metrics)["learning_rate"])
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.075, 0.05, 0.025], atol=1e-7)


def test_schedules():
    assert constant(value=0.5)(7) == 0.5
    cosine = warmup_cosine(peak=1.0, warmup_steps=10, num_steps=110)
    np.testing.assert_allclose([cosine(0), cosine(10), cosine(60), cosine(110)], [0, 1, 0.5, 0], atol=1e-6)
    with pytest.raises(ValueError, match="warmup_steps"):
        warmup_linear(peak=1.0, warmup_steps=11, num_steps=10)
    with pytest.raises(ValueError, match="outside of a stage"):
        warmup_linear(peak=1.0, warmup_steps=1)


@pytest.mark.parametrize("build", [warmup_cosine, warmup_linear])
def test_a_schedule_ends_with_its_stage(build):
    with lasting(110):
        of_stage = build(peak=1.0, warmup_steps=10, end=0.1)
        shorter = build(peak=1.0, warmup_steps=10, end=0.1, num_steps=50)
        with each_step(4):
            of_updates = build(peak=1.0, warmup_steps=10, end=0.1)
    with lasting(5):
        within = build(peak=1.0, warmup_steps=10)  # as the first steps of a longer one: a smoke test, say
    for built, length in ((of_stage, 110), (shorter, 50), (of_updates, 440)):
        explicit = build(peak=1.0, warmup_steps=10, end=0.1, num_steps=length)
        assert [built(i) for i in range(0, 450, 9)] == [explicit(i) for i in range(0, 450, 9)]
    np.testing.assert_allclose([within(i) for i in range(5)], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_learning_rates_are_numbers_of_zero_or_more(rate):
    for build in (
        partial(constant, value=rate),
        partial(warmup_constant, peak=rate, warmup_steps=1),
        partial(warmup_linear, peak=rate, warmup_steps=1, num_steps=2),
        partial(warmup_cosine, peak=1.0, end=rate, warmup_steps=1, num_steps=2),
    ):
        with pytest.raises(ValueError, match=r"learning rate: expected .* 0 or more"):
            build()


def test_arguments_of_optimizers_are_checked():
    rate = partial(constant, value=1e-3)
    for build, wrong in (
        (adamw, {"b1": 1.0}),
        (adamw, {"b2": -0.1}),
        (adamw, {"clip_norm": 0.0}),
        (rmsprop, {"decay": 1.5}),
        (rmsprop, {"clip_norm": -1.0}),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build(schedule=rate, **wrong)
