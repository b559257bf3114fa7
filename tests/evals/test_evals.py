"""Intervals against closed forms and simulation; evaluators on policies whose answers are known."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.data.text.synthetic import (
    arithmetic_pairs,
    arithmetic_tokenizer,
    check_arithmetic,
    worked_answer,
)
from jaxpref.environments import uncovered_bandit
from jaxpref.evals import Context, TextSample, bandit_policy, generation, reward_accuracy
from jaxpref.evals.intervals import clustered, proportion
from jaxpref.policies.base import Policy
from jaxpref.policies.tabular import tabular
from jaxpref.types import Completions, Samples


def test_wilson_interval_is_the_root_of_the_score_test():
    estimate = proportion(7, 20)
    for bound in (estimate.low, estimate.high):
        score = abs(0.35 - bound) / np.sqrt(bound * (1 - bound) / 20)
        assert score == pytest.approx(1.959964, rel=1e-5)
    assert proportion(0, 10).low == 0
    assert proportion(10, 10).high == pytest.approx(1)
    assert proportion(0, 0).count == 0


def test_clustered_interval_equals_the_plain_one_for_groups_of_one():
    values = np.random.default_rng(0).normal(size=50)
    estimate = clustered(values, np.arange(50))
    half = 2.009575 * values.std(ddof=1) / np.sqrt(50)  # Student's t with 49 degrees of freedom
    assert estimate.high - estimate.mean == pytest.approx(half, rel=1e-6)
    assert (estimate.count, estimate.clusters) == (50, None)


def test_clustered_interval_does_not_shrink_when_rows_are_copied():
    values = np.random.default_rng(1).normal(size=40)
    once = clustered(values, np.arange(40))
    copied = clustered(np.tile(values, 5), np.tile(np.arange(40), 5))
    assert (copied.count, copied.clusters) == (200, 40)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-6)


def test_clustered_interval_covers():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        groups = rng.integers(0, 40, 160)
        values = rng.normal(size=40)[groups] + rng.normal(size=160)
        estimate = clustered(values, groups)
        covered += estimate.low < 0 < estimate.high
    assert 0.9 < covered / 400 < 0.98
    assert (estimate.count, estimate.clusters) == (160, len(np.unique(groups)))


def _context(policy: Policy, rewards=None, **more) -> Context:
    return Context(
        policy=policy,
        params={},
        tokenizer=arithmetic_tokenizer(),
        seed=0,
        rewards=rewards or (lambda batch: jnp.zeros(batch.response_mask.shape[:2])),
        put=lambda batch: jax.tree.map(jnp.asarray, batch),
        fetch=jax.device_get,
        **more,
    )


def _oracle(right: bool) -> Policy:
    """Answers every arithmetic prompt right, or every one with a lone 7."""
    tokenizer = arithmetic_tokenizer()

    def answers(tokens, mask):
        out = np.zeros((len(tokens), 1, 12), np.int32)
        for row, (ids, keep) in enumerate(zip(tokens, mask, strict=True)):
            text = tokenizer.decode(ids[keep].tolist())
            answer = (worked_answer(text) if right else "7") if text else ""
            reply = [*tokenizer.encode(answer), tokenizer.eos_id]
            out[row, 0, : len(reply)] = reply
        return out

    def sample(params, prompts, key, *, num_samples=1, max_tokens, **ignored):
        shape = jax.ShapeDtypeStruct((prompts.prompt_tokens.shape[0], 1, 12), jnp.int32)
        tokens = jax.pure_callback(answers, shape, prompts.prompt_tokens, prompts.prompt_mask)
        batch = Completions(prompts.prompt_tokens, prompts.prompt_mask, tokens, tokens != 0)
        zeros = jnp.zeros(tokens.shape)
        return Samples(batch, zeros, zeros, zeros[None], (tokens == tokenizer.eos_id).any(-1))

    return tabular(prompts=2, vocab=2)._replace(sample=sample)


def _held_out():
    return arithmetic_pairs(num_examples=25, part="held_out")


def test_generation_scores_and_win_rate():
    arguments = {"records": _held_out, "checker": check_arithmetic, "max_tokens": 12, "batch_size": 10}
    wrong = generation(_context(_oracle(False)), **arguments)
    assert wrong.metrics["checker accuracy"].mean == 0
    assert "win rate" not in wrong.metrics
    baseline = list(wrong.samples)
    right = generation(_context(_oracle(True), baseline=lambda name: baseline), **arguments)
    assert right.metrics["checker accuracy"].mean == 1
    assert right.metrics["checker accuracy"].count == 25
    assert right.metrics["win rate"].mean == 1
    again = generation(_context(_oracle(True), baseline=lambda name: list(right.samples)), **arguments)
    assert again.metrics["win rate"].mean == 0.5, "ties count one half"
    assert isinstance(right.samples[0], TextSample)
    assert right.samples[0].response == worked_answer(right.samples[0].prompt)


@pytest.mark.parametrize(("sign", "accuracy"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)])
def test_reward_accuracy_counts_ties_as_one_half_and_no_padding(sign, accuracy):
    def rewards(batch):
        return jnp.broadcast_to(sign * jnp.array([[1.0, 0.0]]), batch.response_mask.shape[:2])

    evaluation = reward_accuracy(_context(_oracle(True), rewards), records=_held_out, batch_size=10)
    estimate = evaluation.metrics["reward accuracy"]
    assert (estimate.mean, estimate.count) == (accuracy, 25)
    assert evaluation.metrics["reward margin"].mean == sign
    lengths = _held_out().response_lengths
    expected = np.mean(np.sign(lengths[:, 0] - lengths[:, 1]) / 2 + 0.5)
    assert evaluation.metrics["longer-response baseline"].mean == pytest.approx(expected)


def test_reward_accuracy_follows_the_data_and_their_weights():
    """Pairs that the data call equal are one half, P < 1/2 makes the second response the better one, and rows
    count by their weight."""
    n = 6
    p = np.array([0.9, 0.5, 0.2, 1.0, 0.5, 0.6], np.float32)
    rewards = np.array([[2.0, 1], [3, 1], [0, 4], [1, 2], [0, 9], [5, 5]], np.float32)
    records = _held_out().take(np.arange(n))
    preferences = np.full((n, 2, 2), 0.5, np.float32)
    preferences[:, 0, 1], preferences[:, 1, 0] = p, 1 - p
    weights = np.array([1, 0, 2, 1, 1, 0.5], np.float32)

    def given(batch):
        return jnp.asarray(rewards)[batch.columns["example_ids"] % n]

    plain = records.with_column("preferences", preferences)
    for table, w in ((plain, np.ones(n)), (plain.with_column("weights", weights), weights)):
        source = partial(lambda table: table, table)
        found = reward_accuracy(_context(_oracle(True), given), records=source, batch_size=4).metrics
        assert found["reward accuracy"].mean == pytest.approx(np.average([1, 0.5, 1, 0, 0.5, 0.5], weights=w))
        assert found["reward margin"].mean == pytest.approx(np.average([1, 2, 4, -1, -9, 0], weights=w))
        assert found["reward accuracy"].count == (w > 0).sum()


def test_worth_of_a_table_on_a_bandit():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    policy = tabular(prompts=1, vocab=4, initial=(np.log(p),))
    context = dataclasses.replace(_context(policy), params=policy.init(jax.random.key(0)))
    found = {n: e.mean for n, e in bandit_policy(context, environment=uncovered_bandit).metrics.items()}
    wanted = {"expected reward": 0.51, "largest probability": 0.4, "uncovered mass": 0.4}
    assert found == pytest.approx(wanted | {"entropy": -(p * np.log(p)).sum()}, abs=1e-6)
    small = dataclasses.replace(context, policy=tabular(prompts=1, vocab=3), params={})
    with pytest.raises(ValueError, match="4 responses"):
        bandit_policy(small, environment=uncovered_bandit)
