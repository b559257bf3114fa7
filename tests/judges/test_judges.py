"""Judges keep one contract whatever they are made of, and pairs are read in both orders."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import scored_table_policy

from jaxpref import judges, losses
from jaxpref.algorithms import offline
from jaxpref.losses.preference_model import check_preferences
from jaxpref.metrics import to_floats
from jaxpref.models.sizes import tiny
from jaxpref.policies.comparing import comparing, ordered_pairs
from jaxpref.policies.transformer import transformer
from jaxpref.types import Completions

KEY = jax.random.key(0)
SIZES = tiny(vocab=9, embed=16, heads=2, kv_heads=1, layers=1, mlp=32)


def _policy(outputs):
    return transformer(sizes=SIZES, outputs=outputs, eos_id=1)


def _batch(lengths, seed=0):
    lengths = np.asarray(lengths)
    b, k = lengths.shape
    rng = np.random.default_rng(seed)
    return Completions(
        jnp.asarray(rng.integers(2, 8, (b, 2))),
        jnp.ones((b, 2), bool),
        jnp.asarray(rng.integers(2, 8, (b, k, 4))),
        jnp.asarray(np.arange(4) < lengths[..., None]),
    )


JUDGES = {
    "reward": (judges.reward_judge, lambda: _policy(1)),
    "general": (judges.general_preference_judge, lambda: _policy(4)),
    "pair": (judges.pair_judge, lambda: comparing(policy=_policy(1), separator_id=8)),
}


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_keeps_the_contract(name):
    build, policy = JUDGES[name]
    policy = policy()
    params = policy.init(KEY)
    params = params | {"head": 40 * params["head"]}
    batch = _batch([[1, 2, 4], [3, 3, 2]])
    policies = {"judge": params}
    judge = jax.jit(build(policy))
    p = judge(policies, batch)
    check_preferences(p, tolerance=1e-6)
    assert np.abs(p - 0.5).max() > 0.01
    # Another order of the responses is the same matrix, permuted.
    order = jnp.array([2, 0, 1])
    moved = Completions(
        batch.prompt_tokens, batch.prompt_mask, batch.response_tokens[:, order], batch.response_mask[:, order]
    )
    np.testing.assert_allclose(judge(policies, moved), p[:, order][:, :, order], atol=1e-6)


def test_a_rule_counts_ties_as_one_half():
    judge = judges.rule_judge(lambda batch: batch.lengths)
    p = judge({}, _batch([[1, 2, 2]]))
    np.testing.assert_array_equal(p[0], [[0.5, 0, 0], [1, 0.5, 0.5], [1, 0.5, 0.5]])
    check_preferences(p)


def test_a_judge_reads_the_member_it_is_told():
    policy = scored_table_policy(9, outputs=1)
    one, other = (policy.init(jax.random.key(i)) for i in (1, 2))
    batch = _batch([[2, 3]])
    mine = judges.reward_judge(policy, member="mine")
    expected = judges.reward_judge(policy)({"judge": other}, batch)
    np.testing.assert_array_equal(mine({"judge": one, "mine": other}, batch), expected)
    with pytest.raises(ValueError, match=r"params called 'mine', got \['judge'\]"):
        mine({"judge": one}, batch)
    with pytest.raises(ValueError, match="expected params called"):
        mine(jnp.zeros(3), batch)
    gradient = jax.grad(lambda params: mine({"mine": params}, batch)[0, 0, 1])(one)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient)), "what judges is frozen"


@pytest.mark.parametrize("name", JUDGES)
def test_the_wrong_head_is_refused(name):
    with pytest.raises(ValueError, match=r"head has|no head"):
        JUDGES[name][0](_policy(0) if name != "general" else _policy(3))


def test_a_judge_of_pairs_needs_a_policy_that_compares():
    policy = _policy(1)
    params = policy.init(KEY)
    with pytest.raises(ValueError, match="comparing"):
        judges.pair_judge(policy)({"judge": params}, _batch([[1, 2, 3, 3]]))
    with pytest.raises(ValueError, match="no head"):
        comparing(policy=_policy(0), separator_id=8)
    with pytest.raises(ValueError, match="separator_id"):
        comparing(policy=_policy(1), separator_id=9)


def test_ordered_pairs_are_packed_and_equal_separate_sequences():
    batch = _batch([[1, 3, 2]])
    tokens = np.asarray(batch.response_tokens[0])
    pairs = ordered_pairs(batch, separator_id=8)
    expected = [
        [*tokens[i][:n], 8, *tokens[j][:m]]
        for i, n in enumerate((1, 3, 2))
        for j, m in enumerate((1, 3, 2))
        if i != j
    ]
    for row, mask, wanted in zip(pairs.response_tokens[0], pairs.response_mask[0], expected, strict=True):
        np.testing.assert_array_equal(row[mask], wanted)
        assert mask[: len(wanted)].all()
    empty = ordered_pairs(_batch([[0, 3]]), separator_id=8)
    assert not empty.response_mask.any(), "no pair with a response that is not there"


def test_a_preference_model_of_pairs_learns_a_cycle():
    """Rock, paper, scissors: no score of single responses orders them, a reader of both does."""
    beats = [(2, 4), (4, 3), (3, 2)]
    responses = jnp.asarray(beats)[:, :, None]
    batch = Completions(
        jnp.full((3, 1), 5), jnp.ones((3, 1), bool), responses, jnp.ones(responses.shape, bool)
    )
    accuracy = {}
    for name, policy, loss in (
        ("single", _policy(1), losses.bradley_terry),
        ("pair", comparing(policy=_policy(1), separator_id=8), losses.pair_preference),
    ):
        algorithm = offline(policy, loss=loss, optimizer=partial(optax.adam, 1e-2), reference=None)
        state, step = algorithm.init(policy.init(KEY)), jax.jit(algorithm.step)
        for _ in range(150):
            state, metrics = step(state, batch, KEY)
        accuracy[name] = to_floats(metrics)["rewards/accuracies"]
    assert accuracy["pair"] == 1.0
    assert accuracy["single"] <= 2 / 3 + 1e-6
