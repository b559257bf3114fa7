"""Mixtures of policies, mixed at every token: their distribution, log-probs, stopping and compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.models.sizes import tiny
from jaxpref.policies.tabular import enumerated, tabular
from jaxpref.policies.transformer import transformer
from jaxpref.sampling import Decoder, decode, mixed_logits, sampler
from jaxpref.types import Prompts

KEY = jax.random.key(0)
BETA = 0.4
TREE = tabular(prompts=2, vocab=3, length=2)
MODEL = transformer(sizes=tiny(vocab=17, embed=16, heads=2, layers=1), eos_id=1)


def _prompts(b=2, p=1):
    return Prompts(jnp.broadcast_to(jnp.arange(b)[:, None], (b, p)), jnp.ones((b, p), bool))


def _members(policy=TREE, scale=1.5):
    init = jax.jit(policy.init)
    return tuple(jax.tree.map(lambda x: scale * x, init(jax.random.key(i))) for i in (1, 2))


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _of_tree(weights, tokens, temperature=1.0):
    """Log-probs `[b, k, 2]` of two tokens under the mixture of `_members()`, `weights [b, k, 2]`."""
    tables = np.stack([np.asarray(m["logits"], np.float64) for m in _members()])  # [m, prompt, prefix, v]
    mixed = np.einsum("bkm,mbnv->bknv", weights, tables) / temperature
    logps = _log_softmax(mixed)
    b, k = np.indices(tokens.shape[:2])
    first, second = tokens[..., 0], tokens[..., 1]
    return np.stack([logps[b, k, 0, first], logps[b, k, 1 + first, second]], -1)


# Nash-MD's pair of responses, PILAF's, and weights of another row: each response has its own mixture.
WEIGHTS = np.array([[[1, 0], [1 - BETA, BETA]], [[1 + BETA, -BETA], [1 - BETA, BETA]]])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_follow_the_softmax_of_the_weighted_logits(temperature):
    n = 3000
    weights = np.tile(WEIGHTS, (1, n, 1))
    drawn = TREE.sample(
        _members(),
        _prompts(),
        KEY,
        num_samples=2 * n,
        max_tokens=2,
        temperature=temperature,
        weights=weights,
    )
    tokens = np.asarray(drawn.completions.response_tokens)
    expected = _of_tree(weights, tokens)
    np.testing.assert_allclose(drawn.token_logps, expected, atol=2e-6)
    np.testing.assert_allclose(drawn.completions.reference_logps, expected.sum(-1), atol=4e-6)
    np.testing.assert_allclose(drawn.sampling_token_logps, _of_tree(weights, tokens, temperature), atol=4e-6)
    for m, one in enumerate(np.eye(2)):
        alone = _of_tree(np.broadcast_to(one, weights.shape), tokens)
        np.testing.assert_allclose(drawn.member_token_logps[m], alone, atol=2e-6)
    every = np.asarray(enumerated(TREE, _prompts()).response_tokens)
    for response in (0, 1):
        given = tokens[:, response::2]
        p = np.exp(_of_tree(np.repeat(WEIGHTS[:, response : response + 1], 9, 1), every, temperature).sum(-1))
        np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
        frequency = (given[:, :, None] == every[:, None]).all(-1).mean(1)
        assert (np.abs(frequency - p) <= 4 * np.sqrt(p * (1 - p) / n) + 1 / n).all()


def test_the_token_mixture_is_not_the_sequence_mixture():
    """arXiv:2312.00886: mixing each token renormalises with a constant that depends on the path."""
    every = np.asarray(enumerated(TREE, _prompts()).response_tokens)
    weights = np.broadcast_to([1 - BETA, BETA], (2, 9, 2))
    by_token = np.exp(_of_tree(weights, every).sum(-1))
    first, second = (_of_tree(np.broadcast_to(one, (2, 9, 2)), every).sum(-1) for one in np.eye(2))
    by_sequence = np.exp(_log_softmax((1 - BETA) * first + BETA * second))
    apart = np.abs(by_token - by_sequence).max()
    assert apart > 0.02
    n = 20_000
    drawn = TREE.sample(_members(), _prompts(), KEY, num_samples=n, max_tokens=2, weights=weights[:1, :1])
    given = np.asarray(drawn.completions.response_tokens)
    frequency = (given[:, :, None] == every[:, None]).all(-1).mean(1)
    chi_square = [(n * (frequency - p) ** 2 / p).sum() for p in (by_token, by_sequence)]
    assert chi_square[0] < 16 + 4 * np.sqrt(32)  # mean and variance of 16 degrees of freedom
    assert chi_square[1] > 100


def test_weights_of_one_and_zero_are_the_plain_policy_bit_for_bit():
    members, key = _members(MODEL, scale=4.0), jax.random.key(7)  # some responses end early
    ask = {"num_samples": 3, "max_tokens": 6, "top_k": 16, "top_p": 0.99, "temperature": 0.8}
    prompts = Prompts(_prompts(3, 4).prompt_tokens + 2, jnp.arange(4)[None] < jnp.array([[4], [2], [3]]))
    weights = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1 + BETA, -BETA]]])
    mixed = MODEL.sample(members, prompts, key, **ask, weights=weights)
    for m, params in enumerate(members):
        plain = MODEL.sample(params, prompts, key, **ask)
        for name in ("token_logps", "sampling_token_logps"):
            np.testing.assert_array_equal(getattr(mixed, name)[:, m], getattr(plain, name)[:, m])
        tokens = plain.completions.response_tokens[:, m]
        np.testing.assert_array_equal(mixed.completions.response_tokens[:, m], tokens)
        np.testing.assert_array_equal(plain.member_token_logps, plain.token_logps[None])
        # Every response, of whichever mixture, is scored under both members.
        scored = jax.jit(MODEL.token_logps)(params, mixed.completions)
        np.testing.assert_allclose(mixed.member_token_logps[m], scored, atol=1e-5)
    assert (mixed.completions.lengths < 6).any()
    assert (mixed.completions.lengths == 6).any()


def test_infinite_logits():
    a, b = jnp.array([[0.0, -jnp.inf, 1.0]]), jnp.array([[-jnp.inf, 0.5, 2.0]])

    def mixed(*weights):
        return mixed_logits([a, b], jnp.array(weights)[None]).tolist()[0]

    infinite = float("-inf")
    assert mixed(1.0, 0.0) == [0.0, infinite, 1.0]
    assert mixed(0.5, 0.5) == [infinite, infinite, 1.5]
    assert mixed(2.0, -1.0)[1] == infinite
    assert mixed_logits([a], None) is a


def test_other_weights_compile_nothing():
    traces = []

    def prefill(params, prompts, *, num_samples, max_tokens):
        traces.append(1)
        return (), params[prompts.prompt_tokens[:, 0]]

    decoder = Decoder(prefill, lambda params, cache, tokens, index: (cache, params[tokens]))
    sample = sampler(decoder, eos_id=None, pad_id=0)
    tables = tuple(jax.random.normal(jax.random.key(i), (3, 3)) for i in (0, 1))
    for beta in (0.0, 0.3, 1.0):
        sample(tables, _prompts(), KEY, max_tokens=3, weights=[[[1 - beta, beta]]])
    assert len(traces) == 2  # once for each member


def test_a_mixture_stops_at_eos_and_when_all_are_done():
    """Each member alone would go on; the mixture is sure of EOS after the third token."""
    steps, eos = [], 1
    certain = np.zeros((2, 50, 3), np.float32)
    certain[:, :2, 2] = 60
    certain[0, 2:, [0, 1]] = [[60.0], [50.0]]
    certain[1, 2:, [2, 1]] = [[60.0], [50.0]]

    def prefill(params, prompts, *, num_samples, max_tokens):
        return jnp.int32(0), jnp.broadcast_to(params[0], (prompts.prompt_tokens.shape[0], 3))

    def step(params, place, tokens, index):
        jax.debug.callback(lambda: steps.append(1))
        return place + 1, jnp.broadcast_to(params[index + 1], (*tokens.shape, 3))

    drawn = decode(
        Decoder(prefill, step),
        tuple(jnp.asarray(certain)),
        _prompts(),
        KEY,
        temperature=jnp.float32(1),
        weights=jnp.full((1, 1, 2), 0.5),
        num_samples=2,
        max_tokens=40,
        eos_id=eos,
    )
    jax.block_until_ready(drawn)
    jax.effects_barrier()
    assert drawn.completions.response_tokens[..., :4].tolist() == [[[2, 2, eos, 0]] * 2] * 2
    assert drawn.completions.lengths.tolist() == [[3, 3]] * 2
    assert (drawn.member_token_logps[..., 3:] == 0).all()
    assert len(steps) == 2 * 2  # two tokens after the first, two members


@pytest.mark.parametrize(
    ("params", "weights", "message"),
    [
        ({}, np.ones((1, 1, 2)), "no tuple"),
        (({}, {}), np.ones((1, 1, 3)), r"weights \(1, 1, 3\) and 2 members"),
        (({}, {}), np.ones(2), r"weights \(2,\)"),
        (({}, {}), np.ones((3, 1, 2)), "1 or 2 prompts"),
        (({}, {}), np.ones((2, 4, 2)), "1 or 5 samples"),
    ],
)
def test_weights_that_do_not_fit(params, weights, message):
    with pytest.raises(ValueError, match=message):
        TREE.sample(params, _prompts(), KEY, num_samples=5, max_tokens=2, weights=weights)
