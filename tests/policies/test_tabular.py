"""The tabular policy: its log-probs, its list of responses, its samples and its statistics, by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.kernels.token_logps import STATISTICS
from jaxpref.policies.tabular import enumerated, tabular
from jaxpref.types import Prompts, check_completions

KEY = jax.random.key(0)
EOS = 2


def _prompts(ids, pad_to=1):
    tokens = np.zeros((len(ids), pad_to), np.int32)
    tokens[:, 0] = 1  # a token before the one that counts
    lengths = np.minimum(np.arange(len(ids)) % pad_to + 1, pad_to)
    tokens[np.arange(len(ids)), lengths - 1] = ids
    return Prompts(jnp.asarray(tokens), jnp.asarray(np.arange(pad_to) < lengths[:, None]))


def _log_softmax(params):
    logits = np.asarray(params["logits"], np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _start(policy, seed=0):
    """Initial params and compiled log-probs."""
    return jax.jit(policy.init)(jax.random.key(seed)), jax.jit(policy.token_logps)


def test_one_token_is_a_plain_table():
    policy = tabular(prompts=3, vocab=4)
    params, score = _start(policy)
    assert params["logits"].shape == (3, 4)
    batch = enumerated(policy, _prompts([2, 0]))
    assert batch.response_tokens.tolist() == [[[0], [1], [2], [3]]] * 2
    expected = _log_softmax(params)[[2, 0]]
    np.testing.assert_allclose(np.asarray(score(params, batch))[..., 0], expected, rtol=1e-6)


def test_features_make_it_log_linear():
    """Logits are features times weights: one number moves all three responses, in closed form."""
    policy = tabular(prompts=1, vocab=3, features=((0,), (1,), (2,)), initial=(math.log(2),))
    params, score = _start(policy)
    assert params["weights"].shape == (1,)
    every = enumerated(policy, _prompts([0]))
    np.testing.assert_allclose(np.exp(score(params, every))[0, :, 0], np.array([1, 2, 4]) / 7, rtol=1e-6)
    gradient = jax.grad(lambda p: policy.token_logps(p, every)[0, 2, 0])(params)
    np.testing.assert_allclose(gradient["weights"], 2 - (2 + 2 * 4) / 7, rtol=1e-6)


def test_features_of_each_prompt():
    features = np.random.default_rng(0).normal(size=(2, 3, 4))
    policy = tabular(prompts=2, vocab=3, features=features)
    params, score = _start(policy)
    expected = _log_softmax({"logits": features @ np.asarray(params["weights"], np.float64)})
    found = score(params, enumerated(policy, _prompts([1, 0])))[..., 0]
    np.testing.assert_allclose(found, expected[[1, 0]], rtol=1e-5)


@pytest.mark.parametrize("eos_id", [None, EOS])
def test_all_responses_are_listed_once_and_their_probabilities_sum_to_one(eos_id):
    policy = tabular(prompts=2, vocab=3, length=3, eos_id=eos_id, pad_id=1, param_dtype="float64")
    batch = enumerated(policy, _prompts([1, 0, 1], pad_to=2))
    check_completions(batch, policy.vocab_size)
    every = [
        r[: r.index(EOS) + 1] if eos_id is not None and EOS in r else r
        for r in itertools.product(range(3), repeat=3)
    ]
    listed = [
        tuple(t[m].tolist())
        for t, m in zip(*map(np.asarray, (batch.response_tokens[0], batch.response_mask[0])), strict=True)
    ]
    assert listed == sorted(set(every))
    with enable_x64():
        params, score = _start(policy)
        logps = np.asarray(score(params, batch))
        assert logps.dtype == np.float64
        np.testing.assert_allclose(np.exp(logps.sum(-1)).sum(-1), 1, rtol=1e-14)
        np.testing.assert_array_equal(logps[0], logps[2])  # the last token of a prompt tells them apart
        assert (logps[0] != logps[1]).any()


def test_prefixes_are_ordered_by_length_then_as_numbers():
    policy = tabular(prompts=1, vocab=3, length=3)
    params, score = _start(policy)
    assert params["logits"].shape == (1, 13, 3)
    batch = enumerated(policy, _prompts([0]))
    logps = _log_softmax(params)[0]
    every = batch.response_tokens[0].tolist()
    for (a, b, c), found in zip(every, np.asarray(score(params, batch))[0], strict=True):
        np.testing.assert_allclose(found, [logps[0, a], logps[1 + a, b], logps[4 + 3 * a + b, c]], rtol=1e-6)


def test_samples_follow_the_table_and_their_log_probs_are_its_own():
    policy = tabular(prompts=2, vocab=3, length=2, eos_id=EOS)
    (params, score), n = _start(policy), 4000
    drawn = policy.sample(params, _prompts([1, 0]), KEY, num_samples=n, max_tokens=9)
    assert drawn.completions.response_tokens.shape == (2, n, 2), "no longer than the table"
    np.testing.assert_allclose(drawn.token_logps, score(params, drawn.completions), atol=1e-6)
    batch = enumerated(policy, _prompts([1, 0]))
    p = np.exp(np.asarray(score(params, batch), np.float64).sum(-1))
    given, every = (np.asarray(x.response_tokens) for x in (drawn.completions, batch))
    hits = (given[:, :, None] == every[:, None]).all(-1)
    assert (hits.sum(-1) == 1).all()
    frequency = hits.mean(1)
    assert (np.abs(frequency - p) <= 4 * np.sqrt(p * (1 - p) / n)).all()


def test_statistics_by_hand():
    policy = tabular(prompts=1, vocab=3, length=2)
    (params, score), (other, _) = _start(policy), _start(policy, seed=1)
    batch = enumerated(policy, _prompts([0]))
    found = jax.jit(policy.quantities, static_argnums=2)(params, batch, ("token_logps", *STATISTICS), other)
    np.testing.assert_allclose(found["token_logps"], score(params, batch), rtol=1e-6)
    p, q = (np.exp(_log_softmax(x))[0] for x in (params, other))
    rows = np.stack([[0, 1 + a] for a in range(3) for _ in range(3)])[None]
    for name, by_row in {
        "entropy": -(p * np.log(p)).sum(-1),
        "log_sum_p2": np.log((p**2).sum(-1)),
        "reverse_kl": (p * np.log(p / q)).sum(-1),
        "forward_kl": (q * np.log(q / p)).sum(-1),
    }.items():
        np.testing.assert_allclose(found[name], by_row[rows], rtol=1e-5, err_msg=name)
    name = "forward_kl"
    gradient = jax.jit(jax.grad(lambda r: policy.quantities(params, batch, (name,), r)[name].sum()))
    assert (gradient(other)["logits"] == 0).all(), "the reference is constant"


def test_a_given_table_is_the_first_policy():
    initial = ((0.7, 0.2, 0.1), (0.1, 0.1, 0.8))
    policy = tabular(prompts=2, vocab=3, initial=tuple(tuple(np.log(row).tolist()) for row in initial))
    batch = enumerated(policy, _prompts([0, 1]))
    params, score = _start(policy)
    np.testing.assert_allclose(np.exp(score(params, batch))[..., 0], initial, rtol=1e-6)
    # A probability of 0 is a logit of -inf; its token is never drawn and the statistics stay finite.
    never = tabular(prompts=1, vocab=3, initial=((0.0, -np.inf, 0.0),))
    params = never.init(KEY)
    drawn = never.sample(params, _prompts([0]), KEY, num_samples=50)
    assert set(drawn.completions.response_tokens.ravel().tolist()) == {0, 2}
    read = jax.jit(never.quantities, static_argnums=2)
    found = read(params, enumerated(never, _prompts([0])), ("entropy", "reverse_kl"), params)
    np.testing.assert_allclose(found["entropy"], np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(found["reverse_kl"], 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "must be at least 1, got 2, 3 and 0"),
        ({"eos_id": 3}, "id below 3, got 3"),
        ({"param_dtype": "bfloat16"}, "expected 'float32' or 'float64'"),
        ({"length": 20}, "make one smaller"),
        ({"features": ((1.0,), (2.0,))}, r"expected \[3, features\] or \[2, 3, features\]"),
        ({"features": ((1.0,),) * 3, "length": 2}, "for responses of one token"),
        ({"initial": ((0.0, 1.0),)}, r"expected logits of shape \(2, 3\), got \(1, 2\)"),
    ],
)
def test_settings_without_meaning(settings, message):
    with pytest.raises(ValueError, match=message):
        tabular(**({"prompts": 2, "vocab": 3} | settings))


def test_misuse_says_what_to_do():
    policy = tabular(prompts=2, vocab=3, param_dtype="float64")
    with pytest.raises(ValueError, match="needs 64-bit types"):
        policy.init(KEY)
    long = enumerated(tabular(prompts=2, vocab=3, length=2), _prompts([0]))
    with pytest.raises(ValueError, match="up to 2 tokens, but the table has length=1"):
        policy.token_logps({"logits": jnp.zeros((2, 3))}, long)
    with pytest.raises(ValueError, match="no embeddings; there are"):
        policy.quantities({"logits": jnp.zeros((2, 3))}, long, ("embeddings",), None)
    with pytest.raises(ValueError, match="too many responses to list"):
        enumerated(policy._replace(enumerate=None), _prompts([0]))
