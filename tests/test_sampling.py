"""The decode loop: log-probs that agree with scoring, truncation, stopping, reproducible rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.models.decoding import decode_step, prefill
from jaxpref.models.sizes import TransformerSizes, gemma2_2b, tiny
from jaxpref.models.transformer import Transformer
from jaxpref.policies.transformer import transformer
from jaxpref.sampling import Decoder, decode, drawn_index, sampler, truncated_logits
from jaxpref.types import Completions, Prompts, check_completions

EOS, PAD, VOCAB = 1, 0, 37
GEMMA = TransformerSizes(
    **{
        **vars(gemma2_2b()),
        "vocab": VOCAB,
        "embed": 16,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "mlp": 24,
        "sliding_window": 4,
    }
)
LLAMA = tiny(vocab=VOCAB, embed=16, heads=4, kv_heads=2)


@functools.cache
def _policy(sizes=LLAMA):
    return transformer(sizes=sizes, eos_id=EOS, pad_id=PAD)


@functools.cache
def _params(sizes=LLAMA, sharpness=8.0):
    """Random weights with an embedding scaled up, so that distributions are far from uniform."""
    params = _policy(sizes).init(jax.random.key(3))
    return params | {"embedding": params["embedding"] * sharpness}


def _prompts(b=3, p=5, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, p + 1, b)
    lengths[0] = p
    return Prompts(
        jnp.asarray(rng.integers(2, VOCAB, (b, p)), jnp.int32), jnp.asarray(np.arange(p) < lengths[:, None])
    )


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        *((LLAMA, s) for s in ({}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}, {"temperature": 0.0})),
        (GEMMA, {}),
        *(
            pytest.param(GEMMA, s, marks=pytest.mark.exhaustive)
            for s in ({"temperature": 0.7, "top_k": 5, "top_p": 0.9}, {"temperature": 0.0})
        ),
    ],
)
def test_token_logps_equal_scoring_the_sample(sizes, settings):
    policy, params = _policy(sizes), _params(sizes)
    drawn = policy.sample(params, _prompts(), jax.random.key(0), num_samples=3, max_tokens=9, **settings)
    check_completions(drawn.completions, VOCAB)
    scored = jax.jit(policy.token_logps)(params, drawn.completions)
    np.testing.assert_allclose(drawn.token_logps, scored, atol=1e-5)
    np.testing.assert_allclose(drawn.completions.reference_logps, scored.sum(-1), atol=1e-4)
    assert drawn.token_logps.dtype == drawn.sampling_token_logps.dtype == jnp.float32
    if not settings:
        np.testing.assert_allclose(drawn.token_logps, drawn.sampling_token_logps, rtol=1e-6, atol=1e-6)
    elif settings["temperature"] == 0:
        assert (drawn.sampling_token_logps == 0).all()
    else:
        assert (drawn.sampling_token_logps != drawn.token_logps).any()


def test_greedy_equals_argmax_of_full_recomputation():
    policy, params, prompts = _policy(GEMMA), _params(GEMMA), _prompts()
    drawn = policy.sample(params, prompts, jax.random.key(0), max_tokens=8, temperature=0.0)
    score = jax.jit(policy.token_logps)
    given = np.asarray(drawn.completions.response_tokens)[:, 0]
    for row in range(3):
        written: list[int] = []
        while len(written) < 8 and EOS not in written:
            # Log-prob of every token as the continuation: the vocabulary is the axis of responses.
            responses = np.full((1, VOCAB, 8), PAD)
            responses[..., : len(written)] = written
            responses[..., len(written)] = np.arange(VOCAB)
            mask = np.broadcast_to(np.arange(8) == len(written), responses.shape)
            batch = Completions(
                prompts.prompt_tokens[row : row + 1],
                prompts.prompt_mask[row : row + 1],
                jnp.asarray(responses),
                jnp.asarray(mask),
            )
            written.append(int(score(params, batch)[0, :, len(written)].argmax()))
        assert given[row, : len(written)].tolist() == written
        assert (given[row, len(written) :] == PAD).all()


def _table_decoder(logits):
    """Next-token logits that depend only on the number of tokens drawn: `logits [r, v]`."""
    table = jnp.asarray(logits, jnp.float32)

    def prefill(params, prompts, *, num_samples, max_tokens):
        return (), jnp.broadcast_to(table[0], (prompts.prompt_tokens.shape[0], table.shape[1]))

    def step(params, cache, tokens, index):
        return (), jnp.broadcast_to(table[index + 1], (*tokens.shape, table.shape[1]))

    return Decoder(prefill, step)


def _draw_many(logits, *, num_samples=4000, max_tokens=1, seed=0, eos_id=EOS, **settings):
    settings = {name: jnp.float32(v) if name != "top_k" else v for name, v in settings.items()}
    settings.setdefault("temperature", jnp.float32(1))
    return decode(
        _table_decoder(logits),
        None,
        Prompts(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)),
        jax.random.key(seed),
        num_samples=num_samples,
        max_tokens=max_tokens,
        eos_id=eos_id,
        pad_id=PAD,
        **settings,
    )


PROBS = np.array([0.05, 0.02, 0.4, 0.25, 0.18, 0.1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, PROBS**2),
        ({"top_k": 2}, PROBS * (PROBS >= 0.25)),
        ({"top_p": 0.6}, PROBS * (PROBS >= 0.25)),  # 0.4 + 0.25 is the first sum of at least 0.6
        ({"top_p": 0.66}, PROBS * (PROBS >= 0.18)),
        ({"top_p": 1e-6}, PROBS * (PROBS == 0.4)),
        ({"top_p": 1.0}, PROBS),
        ({"top_k": 3, "top_p": 0.75}, PROBS * (PROBS >= 0.25)),  # 0.65 / 0.83 after top-k is 0.78
        ({"top_k": 100}, PROBS),
    ],
)
def test_draws_follow_the_stated_distribution(settings, expected):
    expected = expected / expected.sum()
    drawn = _draw_many(np.log(PROBS)[None], **settings)
    tokens = np.asarray(drawn.completions.response_tokens).ravel()
    frequency = np.bincount(tokens, minlength=6) / tokens.size
    assert (frequency[expected == 0] == 0).all()
    # Five standard deviations of a frequency of 4000 draws.
    assert (np.abs(frequency - expected) <= 5 * np.sqrt(expected * (1 - expected) / tokens.size)).all()
    stated = np.asarray(drawn.sampling_token_logps).ravel()
    np.testing.assert_allclose(stated, np.log(expected[tokens]), atol=1e-5)
    np.testing.assert_allclose(np.asarray(drawn.token_logps).ravel(), np.log(PROBS[tokens]), atol=1e-5)


def test_top_k_keeps_exactly_k_of_ties():
    values, tokens = truncated_logits(jnp.zeros(6), top_k=2, top_p=None)
    assert tokens.tolist() == [0, 1]
    assert values.shape == (2,)


def test_stops_at_eos_and_keeps_it():
    certain = np.full((4, 6), -1e9)
    certain[[0, 1, 2, 3], [2, 3, EOS, 4]] = 0.0
    drawn = _draw_many(certain, num_samples=2, max_tokens=4)
    assert drawn.completions.response_tokens.tolist() == [[[2, 3, EOS, PAD]] * 2]
    assert drawn.completions.response_mask.tolist() == [[[True, True, True, False]] * 2]
    assert (drawn.token_logps[..., 3] == 0).all()


def test_stops_at_any_of_several_ends():
    logits = np.full((5, 6), -1e9)
    logits[0, [EOS, 2, 4]] = logits[1:, 3] = 0.0
    drawn = _draw_many(logits, num_samples=60, max_tokens=3, eos_id=(4, EOS))
    tokens, mask = (
        np.asarray(drawn.completions.response_tokens)[0],
        np.asarray(drawn.completions.response_mask),
    )
    assert set(tokens[:, 0]) == {EOS, 2, 4}
    np.testing.assert_array_equal(drawn.ended[0], tokens[:, 0] != 2)
    np.testing.assert_array_equal(mask[0].sum(-1), np.where(tokens[:, 0] == 2, 3, 1))


def test_a_response_that_stops_stays_so_while_others_go_on():
    """Half of the samples end at once; every later step would draw token 3."""
    logits = np.full((5, 6), -1e9)
    logits[0, [EOS, 2]] = logits[1:, 3] = 0.0
    drawn = _draw_many(logits, num_samples=40, max_tokens=5)
    tokens, mask = (
        np.asarray(x)[0] for x in (drawn.completions.response_tokens, drawn.completions.response_mask)
    )
    ended = tokens[:, 0] == EOS
    assert 5 < ended.sum() < 35
    np.testing.assert_array_equal(mask.sum(-1), np.where(ended, 1, 5))
    assert (tokens[ended, 1:] == PAD).all()
    np.testing.assert_array_equal(drawn.ended[0], ended)


def test_stops_early_when_all_are_done():
    steps = []
    always_eos = np.full((50, 6), -1e9)
    always_eos[:, EOS] = 0.0
    plain = _table_decoder(always_eos)

    def step(*args):
        jax.debug.callback(lambda: steps.append(1))
        return plain.step(*args)

    prompts = Prompts(jnp.zeros((2, 1), jnp.int32), jnp.ones((2, 1), bool))
    drawn = decode(
        Decoder(plain.prefill, step),
        None,
        prompts,
        jax.random.key(0),
        num_samples=1,
        max_tokens=50,
        eos_id=EOS,
    )
    jax.block_until_ready(drawn)
    jax.effects_barrier()
    assert drawn.completions.response_mask.sum() == 2
    assert steps == []  # all were done after the first token, which needs no step


@pytest.mark.slow
@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_rows_do_not_depend_on_their_batch():
    one_layer = tiny(vocab=VOCAB, embed=16, heads=4, layers=1)
    policy, params, prompts = _policy(one_layer), _params(one_layer), _prompts(b=3, p=5)

    def sample(prompts, num_samples=2, **kwargs):
        drawn = policy.sample(
            params, prompts, jax.random.key(7), num_samples=num_samples, max_tokens=6, **kwargs
        )
        return np.asarray(drawn.completions.response_tokens)

    expected = sample(prompts)
    assert (expected[:, 0] != expected[:, 1]).any()  # samples of one prompt differ
    np.testing.assert_array_equal(sample(jax.tree.map(lambda x: x[:2], prompts)), expected[:2])
    np.testing.assert_array_equal(sample(prompts, num_samples=4)[:, :2], expected)
    padded = Prompts(
        jnp.pad(prompts.prompt_tokens, ((0, 0), (0, 3)), constant_values=9),
        jnp.pad(prompts.prompt_mask, ((0, 0), (0, 3))),
    )
    np.testing.assert_array_equal(sample(padded), expected)
    moved = jax.tree.map(lambda x: x[jnp.array([2, 0])], prompts)
    np.testing.assert_array_equal(sample(moved, row_ids=jnp.array([2, 0])), expected[jnp.array([2, 0])])
    assert (sample(jax.tree.map(lambda x: x[:1], prompts), row_ids=jnp.array([5])) != expected[:1]).any()


def test_one_compilation_for_a_bucket():
    """Other prompts, keys, temperatures and top-p compile nothing; another length does."""
    traces = []
    model = Transformer(LLAMA)

    def counted(*args, **kwargs):
        traces.append(kwargs)
        return prefill(model, *args, **kwargs)

    decoder = Decoder(counted, functools.partial(decode_step, model))
    sample = sampler(decoder, eos_id=EOS, pad_id=PAD)
    for seed, temperature, top_p in ((0, 1.0, 0.9), (1, 0.5, 0.8), (2, 0.1, 1.0)):
        sample(
            _params(),
            _prompts(seed=seed),
            jax.random.key(seed),
            max_tokens=4,
            temperature=temperature,
            top_p=top_p,
        )
    assert len(traces) == 1
    sample(_params(), _prompts(p=6), jax.random.key(0), max_tokens=4, top_p=0.9)
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "at least 1, got 1 and 0"),
        ({"num_samples": 0}, "at least 1, got 0 and 4"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_p": 1.5}, "top_p must be in"),
    ],
)
def test_settings_without_meaning(settings, message):
    with pytest.raises(ValueError, match=message):
        _policy().sample(_params(), _prompts(), jax.random.key(0), **({"max_tokens": 4} | settings))


def test_prompts_without_room():
    empty = Prompts(jnp.zeros((2, 0), jnp.int32), jnp.zeros((2, 0), bool))
    with pytest.raises(ValueError, match="give BOS"):
        _policy().sample(_params(), empty, jax.random.key(0), max_tokens=4)


@pytest.mark.parametrize("vocab", [5, 128, 300])
def test_inversion_draws_each_token_with_its_probability(vocab):
    """On a grid of both random numbers the share of a token is its probability, to the grid's fineness: one
    block, a full one, and several of which the last is cut."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=vocab) * 2).at[vocab // 2].set(-jnp.inf)
    n = 400
    grid = (jnp.arange(n) + 0.5) / n
    uniforms = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    index, logps = jax.jit(drawn_index)(jnp.broadcast_to(logits, (n * n, vocab)), uniforms)
    share = np.bincount(index, minlength=vocab) / n**2
    expected = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(share, np.exp(expected), atol=2 / n)
    assert share[vocab // 2] == 0
    np.testing.assert_allclose(logps, expected[index], atol=2e-6)


def test_inversion_at_its_edges():
    """The smallest and the largest random numbers draw a token that has some probability."""
    logits = jnp.full(300, -jnp.inf).at[jnp.array([7, 130, 131])].set(jnp.array([0.0, 1.0, -1.0]))
    largest = np.nextafter(np.float32(1), np.float32(0))
    corners = jnp.array([[a, b] for a in (0.0, largest) for b in (0.0, largest)])
    index, _ = drawn_index(jnp.broadcast_to(logits, (4, 300)), corners)
    np.testing.assert_array_equal(index, [7, 7, 130, 131])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
        *(pytest.param(s, marks=pytest.mark.exhaustive) for s in ({}, {"temperature": 0.0})),
    ],
)
def test_a_stream_is_the_sample_in_parts(settings):
    one_layer = tiny(vocab=VOCAB, embed=16, heads=4, layers=1)
    policy, params, prompts, key = _policy(one_layer), _params(one_layer), _prompts(), jax.random.key(5)
    whole = policy.sample(params, prompts, key, max_tokens=9, **settings)
    parts = list(policy.stream(params, prompts, key, max_tokens=9, at_once=3, **settings))
    tokens, mask = (np.concatenate([part[i] for part in parts], 1) for i in (0, 1))
    drawn = tokens.shape[1]
    np.testing.assert_array_equal(tokens, whole.completions.response_tokens[:, 0, :drawn])
    np.testing.assert_array_equal(mask, whole.completions.response_mask[:, 0, :drawn])
    assert not whole.completions.response_mask[:, 0, drawn:].any()
    np.testing.assert_array_equal(parts[-1].ended, whole.ended[:, 0])
    assert [part.tokens.shape[1] for part in parts] == [1, 3, 3, 2][: len(parts)], "the first one at once"
