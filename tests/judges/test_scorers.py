"""Scores of responses: their identities, and judges made of them."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import scored_table_policy
from x64 import enable_x64

from jaxpref import judges
from jaxpref.losses.preference_model import check_preferences
from jaxpref.packing import packed, real
from jaxpref.types import Completions

VOCAB, EOS = 7, 1
POLICY = scored_table_policy(VOCAB, outputs=1)
RPS = [[0.5, 0, 1], [1, 0.5, 0], [0, 1, 0.5]]


def _params(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {"logits": jnp.asarray(scale * rng.normal(size=(VOCAB, VOCAB))), "head": jnp.ones((VOCAB, 1))}


def _batch(lengths, seed=0):
    lengths = np.asarray(lengths)
    b, k = lengths.shape
    rng = np.random.default_rng(seed)
    return Completions(
        jnp.asarray(rng.integers(2, VOCAB, (b, 2))),
        jnp.ones((b, 2), bool),
        jnp.asarray(rng.integers(2, VOCAB, (b, k, 4))),
        jnp.asarray(np.arange(4) < lengths[..., None]),
    )


def _chain(params, tokens):
    """Sum of log p(token | the one before)."""
    logps = jax.nn.log_softmax(params["logits"], -1)
    return float(sum(logps[a, b] for a, b in itertools.pairwise(tokens)))


def _last_real(batch, i, j):
    """The last token read: of the response, else of the prompt."""
    ids = np.asarray(batch.response_tokens[i, j])[np.asarray(batch.response_mask[i, j])]
    return int(ids[-1]) if len(ids) else int(batch.prompt_tokens[i, -1])


def test_the_implicit_reward_is_beta_times_the_log_ratio():
    batch = _batch([[2, 4], [3, 1]])
    policies = {"policy": _params(0), "initial": _params(1)}
    found = jax.jit(judges.implicit_reward(POLICY, beta=0.3))(policies, batch)
    logps = [POLICY.token_logps(policies[m], batch).sum(-1) for m in ("policy", "initial")]
    np.testing.assert_allclose(found, 0.3 * (logps[0] - logps[1]), rtol=1e-5)
    ratio = jax.jit(judges.density_ratio(POLICY, strong="policy", weak="initial"))(policies, batch)
    np.testing.assert_allclose(found, 0.3 * ratio, rtol=1e-5)


def test_a_density_ratio_of_equal_models_is_0_and_an_instruction_is_for_the_strong_one():
    batch = _batch([[2, 4], [3, 1]])
    # A short prompt of 1 real token, so that the instruction stands where padding was.
    batch = dataclasses.replace(batch, prompt_mask=jnp.array([[True, False]] * 2))
    policies = {"strong": _params(0), "weak": _params(0)}
    np.testing.assert_array_equal(judges.density_ratio(POLICY)(policies, batch), 0)
    policies["weak"] = _params(2)
    sums, means = (judges.density_ratio(POLICY, per_token=p)(policies, batch) for p in (False, True))
    np.testing.assert_allclose(means * batch.lengths, sums, rtol=1e-5)

    def token_logps(params, rows):  # of a model that reads the first token of its prompt
        first = jax.nn.log_softmax(params["logits"], -1)[rows.prompt_tokens[:, 0]]
        logps = jnp.take_along_axis(first[:, None, None], rows.response_tokens[..., None], -1)[..., 0]
        return jnp.where(rows.response_mask, logps, 0)

    policy = POLICY._replace(token_logps=token_logps)
    found = judges.density_ratio(policy, instruction=(3, 4))(policies, batch)
    strong = token_logps(policies["strong"], dataclasses.replace(batch, prompt_tokens=jnp.full((2, 2), 3)))
    expected = (strong - token_logps(policies["weak"], batch)).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="one vocabulary"):
        judges.density_ratio(POLICY, weak_policy=scored_table_policy(VOCAB + 1))


def _reads_its_last_token():
    """A table whose prompts are right-padded: the last real token predicts the first of the response."""

    def token_logps(params, rows):
        n = rows.prompt_mask.sum(-1, keepdims=True)
        last = jnp.take_along_axis(rows.prompt_tokens, n - 1, 1)
        return POLICY.token_logps(params, dataclasses.replace(rows, prompt_tokens=last))

    return POLICY._replace(token_logps=token_logps)


def test_follow_ups_are_teacher_forced_and_sides_swap():
    batch, policies, policy = _batch([[2, 4], [0, 3]]), {"judge": _params(3)}, _reads_its_last_token()
    good, bad = [[2, 3, 4], [5]], [[6, 6]]
    ask = partial(judges.follow_up_likelihood, policy, separator=(4,))
    found = jax.jit(ask(positive=good, negative=bad))(policies, batch)
    good_logp = (_chain(policies["judge"], [4, 2, 3, 4]) + _chain(policies["judge"], [4, 5])) / 2
    by_hand = good_logp - _chain(
        policies["judge"], [4, 6, 6]
    )  # whatever the response, which the table forgets
    np.testing.assert_allclose(found, np.full((2, 2), by_hand), rtol=1e-5)
    swapped = jax.jit(ask(positive=bad, negative=good))(policies, batch)
    np.testing.assert_allclose(swapped, -found, rtol=1e-5)
    for wrong in ({"positive": []}, {"negative": [[]]}):
        with pytest.raises(ValueError, match="at least one token"):
            ask(**({"positive": good, "negative": bad} | wrong))


def test_a_response_is_read_before_the_question_without_its_end():
    """Without a separator its last token predicts the follow-up; the prompt's where there is no response."""
    batch, policies, policy = _batch([[2, 4], [0, 3]]), {"judge": _params(3)}, _reads_its_last_token()
    batch = dataclasses.replace(batch, response_tokens=batch.response_tokens.at[0, 0, 1].set(EOS))
    ask = partial(judges.follow_up_likelihood, policy, positive=[[2]], negative=[[3]])
    without, kept = (jax.jit(ask(eos_id=eos))(policies, batch) for eos in (EOS, None))
    last = np.array([[_last_real(batch, i, j) for j in (0, 1)] for i in (0, 1)])
    logps = np.asarray(jax.nn.log_softmax(policies["judge"]["logits"], -1))
    np.testing.assert_allclose(kept, (logps[:, 2] - logps[:, 3])[last], rtol=1e-5)
    assert last[0, 0] == EOS
    last[0, 0] = batch.response_tokens[0, 0, 0]
    np.testing.assert_allclose(without, (logps[:, 2] - logps[:, 3])[last], rtol=1e-5)
    several = jax.jit(ask(eos_id=(5, EOS)))(policies, batch)
    np.testing.assert_array_equal(several, without)
    # Yes or no is the same reading with answers of one token.
    sure = judges.implicit_preference(policy, yes_id=2, no_id=3, eos_id=EOS, member="judge")
    np.testing.assert_allclose(jax.jit(sure)(policies, batch), jax.nn.sigmoid(without), rtol=1e-5)


def test_yes_or_no_is_the_share_of_yes():
    batch, policies = _batch([[2, 4]]), {"policy": _params(4)}
    ask = partial(
        judges.implicit_preference, _reads_its_last_token(), before=(3,), between=(4,), after=(2, 5)
    )
    p = jax.nn.softmax(policies["policy"]["logits"][5])
    found, flipped = (jax.jit(ask(yes_id=y, no_id=n))(policies, batch) for y, n in ((2, 6), (6, 2)))
    np.testing.assert_allclose(found, np.full((1, 2), p[2] / (p[2] + p[6])), rtol=1e-5)
    np.testing.assert_allclose(flipped, 1 - found, rtol=1e-5)
    with pytest.raises(ValueError, match="two ids below 7"):
        ask(yes_id=2, no_id=2)


def test_what_is_read_is_in_order():
    read = []

    def note(tokens, mask):
        read.extend(
            np.asarray(ids)[kept].tolist() for ids, kept in zip(tokens, np.asarray(mask), strict=True)
        )

    def token_logps(params, rows):
        jax.debug.callback(note, rows.prompt_tokens, rows.prompt_mask)
        return jnp.zeros(rows.response_tokens.shape)

    batch = _batch([[2, 1]])
    ask = {"before": (3, 3), "between": (4,), "after": (5, 6, 5)}
    policy = POLICY._replace(token_logps=token_logps)
    judges.implicit_preference(policy, yes_id=2, no_id=6, **ask)({"policy": {}}, batch)
    jax.effects_barrier()
    prompt, said = batch.prompt_tokens[0].tolist(), batch.response_tokens[0]
    assert read == [[3, 3, *prompt, 4, *said[j, :n].tolist(), 5, 6, 5] for j, n in ((0, 2), (1, 1))]


def test_scores_become_judges():
    batch = _batch([[1, 3, 3]])
    scorer = judges.rule_scorer(lambda rows: rows.lengths.astype(jnp.float32))
    soft = judges.bradley_terry_judge(scorer, temperature=2.0)({}, batch)
    assert float(soft[0, 1, 0]) == pytest.approx(1 / (1 + np.exp(-1)))
    hard = judges.ordering_judge(scorer)({}, batch)
    np.testing.assert_array_equal(hard[0], [[0.5, 0, 0], [1, 0.5, 0.5], [1, 0.5, 0.5]])
    for p in (soft, hard):
        check_preferences(p)
    cold = judges.bradley_terry_judge(scorer, temperature=1e-3)({}, batch)
    np.testing.assert_array_equal(cold, hard)
    with pytest.raises(ValueError, match="temperature"):
        judges.bradley_terry_judge(scorer, temperature=0.0)
    rewards = judges.reward_scorer(POLICY)({"judge": _params(5)}, batch)
    one = judges.reward_judge(POLICY)({"judge": _params(5)}, batch)
    np.testing.assert_allclose(one[0, 0, 1], jax.nn.sigmoid(rewards[0, 0] - rewards[0, 1]), rtol=1e-5)


def test_a_table_of_wins_may_be_cyclic():
    with enable_x64(False):
        judge = judges.matrix_judge(lambda rows: rows.response_tokens[..., 0] - 2, RPS)
        batch = _batch([[1, 1, 1, 1]])
        tokens = batch.response_tokens.at[0, :, 0].set(jnp.array([2, 3, 4, 2]))
        p = jax.jit(judge)({}, dataclasses.replace(batch, response_tokens=tokens))
    check_preferences(p)
    np.testing.assert_array_equal(p[0, :3, :3], RPS)
    np.testing.assert_array_equal(p[0, 3], [0.5, 0, 1, 0.5])
    with pytest.raises(ValueError, match="one half on the diagonal"):
        judges.matrix_judge(lambda rows: rows.lengths, [[1, 0], [0, 1]])


def test_packing_keeps_order_and_puts_padding_last():
    left = jnp.array([[1, 2, 0], [3, 0, 0]]), jnp.array([[True, True, False], [True, False, False]])
    right = jnp.array([[4, 9], [5, 6]]), jnp.array([[True, False], [True, True]])
    tokens, mask = packed(left, right)
    assert tokens.tolist() == [[1, 2, 4, 0, 0], [3, 5, 6, 0, 0]]
    assert mask.sum(-1).tolist() == [3, 3]
    assert real(jnp.array([False, True, False, True, False])).tolist() == [True] * 4 + [False]
    assert not np.any(real(jnp.zeros(3, bool)))


def test_a_learned_judge_is_compiled_where_nobody_compiles_it():
    """`online` calls judges outside of compiled functions: their forward pass must be traced once."""
    traced = []

    def quantities(params, batch, names, reference_params, key):
        traced.append(names)
        return {"embeddings": batch.response_tokens[..., :1] * params}

    reader = POLICY._replace(quantities=quantities)
    ones = jnp.ones((2, 2, 1), bool)
    record = Completions(jnp.zeros((2, 1), jnp.int32), ones[:, 0], jnp.array([[[1], [2]]] * 2), ones)
    scorer = judges.reward_scorer(reader)
    for scale in (1.0, 2.0):
        np.testing.assert_array_equal(scorer({"judge": jnp.float32(scale)}, record), [[scale, 2 * scale]] * 2)
    assert len(traced) == 1
