"""Evaluators that draw: KL and entropy against exact values of a table, diversity by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.data.records import Records
from jaxpref.data.text.synthetic import arithmetic_tokenizer
from jaxpref.evals import Context, diversity, sampled_kl
from jaxpref.evals.diversity import distinct, edit_similarity, unique_share
from jaxpref.evals.sampling import draw, prompts_of, texts
from jaxpref.policies.tabular import tabular

PROMPTS, RESPONSES = 5, 7


def prompts(repeats: int) -> Records:
    """Every prompt of the table, `repeats` times, with a response nobody looks at."""
    rows = np.tile(np.arange(PROMPTS), repeats)
    n = len(rows)
    ones = np.ones((n, 1), np.int64)
    return Records(
        prompt_tokens=rows.astype(np.int32),
        prompt_starts=np.arange(n),
        prompt_lengths=ones[:, 0],
        response_tokens=np.ones(n, np.int32),
        response_starts=np.arange(n)[:, None],
        response_lengths=ones,
        unscored=0 * ones,
        group=np.arange(n),
    )


def context(params, initial) -> Context:
    return Context(
        policy=tabular(prompts=PROMPTS, vocab=RESPONSES),
        params=params,
        tokenizer=arithmetic_tokenizer(),
        seed=0,
        rewards=lambda batch: jnp.zeros(batch.response_mask.shape[:2]),
        put=lambda batch: jax.tree.map(jnp.asarray, batch),
        fetch=jax.device_get,
        member={"initial": initial, "sft": params}.__getitem__,
    )


@pytest.fixture(scope="module")
def tables():
    policy = tabular(prompts=PROMPTS, vocab=RESPONSES)
    return policy.init(jax.random.key(1)), policy.init(jax.random.key(2))


def test_sampled_kl_and_entropy_are_those_of_the_table(tables):
    params, initial = tables
    logps, held = (np.asarray(jax.nn.log_softmax(t["logits"], -1), np.float64) for t in tables)
    kl = (np.exp(logps) * (logps - held)).sum(-1).mean()
    entropy = -(np.exp(logps) * logps).sum(-1).mean()
    settings = {"records": lambda: prompts(200), "max_tokens": 1, "num_prompts": 1000, "batch_size": 300}
    metrics = sampled_kl(context(params, initial), num_samples=4, **settings).metrics
    for name, truth in (("KL to initial", kl), ("entropy per token", entropy)):
        error = (metrics[name].high - metrics[name].mean) / 1.959964
        assert abs(metrics[name].mean - truth) < 4 * error < 0.15, name
    assert metrics["KL to initial"].count == 4000
    same = sampled_kl(context(params, initial), reference="sft", **settings).metrics["KL to sft"]
    assert (same.mean, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-6)


def test_sampled_kl_interval_treats_samples_of_a_prompt_as_one_cluster(tables):
    """The responses of a prompt are no more independent than its prompt is one of many: copying prompts
    narrows the interval, and the spread between prompts does not vanish with more samples of each."""
    settings = {"records": lambda: prompts(1), "max_tokens": 1}
    few = sampled_kl(context(*tables), num_samples=2000, **settings).metrics["KL to initial"]
    assert few.high - few.low > 0.2


def test_distinct_and_unique_by_hand():
    responses = [[1, 2, 3], [1, 2], [1, 2]]
    assert distinct(responses, 1) == pytest.approx(3 / 7)
    assert distinct(responses, 2) == pytest.approx(2 / 4)  # 12 23 12 12
    assert np.isnan(distinct([[1], [2]], 2))
    assert unique_share(responses) == pytest.approx(2 / 3)


def test_edit_similarity_by_hand_and_by_the_textbook_recursion():
    kitten, sitting = ([ord(c) for c in word] for word in ("kitten", "sitting"))
    assert edit_similarity(kitten, sitting) == pytest.approx(1 - 3 / 7)
    assert edit_similarity([], []) == 1
    assert edit_similarity([], [1]) == 0

    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (rng.integers(0, 3, rng.integers(1, 6)).tolist() for _ in range(2))
        assert edit_similarity(a, b) == pytest.approx(1 - distance(a, b) / max(len(a), len(b)))


def test_diversity_of_a_sure_policy_and_of_a_uniform_one():
    sure = {"logits": jnp.zeros((PROMPTS, RESPONSES)).at[:, 5].set(50.0)}
    settings = {"records": lambda: prompts(60), "max_tokens": 1, "num_samples": 3, "num_prompts": None}
    metrics = diversity(context(sure, None), **settings).metrics
    assert metrics["similarity of pairs"].mean == 1
    assert metrics["unique responses"].mean == pytest.approx(1 / 3)
    assert metrics["distinct-2"].count == 0, "responses of one token have no pair of tokens"
    uniform = {"logits": jnp.zeros((PROMPTS, RESPONSES))}
    spread = diversity(context(uniform, None), **settings).metrics["unique responses"]
    # Expected number of different ones among 3 draws out of 7, of which token 2 is an empty response.
    expected = RESPONSES * (1 - (1 - 1 / RESPONSES) ** 3) / 3
    assert spread.low < expected < spread.high
    with pytest.raises(ValueError, match="num_samples"):
        diversity(context(uniform, None), **(settings | {"num_samples": 1}))


def test_a_text_has_no_end_whichever_it_was():
    """Responses of one token, of which two end one: what is left is empty, or the token."""
    tokenizer = arithmetic_tokenizer()
    policy = tabular(prompts=PROMPTS, vocab=8, eos_id=(tokenizer.eos_id, 6))
    certain = np.full((PROMPTS, 8), -50.0)
    certain[np.arange(PROMPTS), [tokenizer.eos_id, 6, 4, 5, 6]] = 0
    drawing = dataclasses.replace(context({"logits": jnp.asarray(certain)}, None), policy=policy)
    table = prompts_of(lambda: prompts(1), None)
    (batch,) = draw(drawing, table, jax.random.key(0), max_tokens=1)
    found = [texts(tokenizer, batch, row, 0)[1] for row in range(PROMPTS)]
    assert found == ["", "", tokenizer.decode([4]), tokenizer.decode([5]), ""]
