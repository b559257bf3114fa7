"""Defects found in other preference-learning code bases, each as a short check that ours does it right.

The numbers are ours, for reference; most of these are tested at length elsewhere as well. Not here, because
the methods are not here yet: 4 and 5 (Nash-MD: a KL term differentiated twice, a mixture of whole
completions), 9 (occupancy measures that ignore the discount), 10 as far as it is about online KL and rewards.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import pairs

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import bytes_tokenizer, characters_tokenizer, encode_example
from jaxpref.data.loader import Loader
from jaxpref.data.records import Records
from jaxpref.losses.tokenwise import log_agreement
from jaxpref.metrics import to_floats, weighted_mean
from jaxpref.models import sizes
from jaxpref.models.rope import frequencies
from jaxpref.models.scoring import token_logps
from jaxpref.models.transformer import Transformer
from jaxpref.policies.tabular import tabular

POLICY = tabular(prompts=3, vocab=4)
KEY = jax.random.key(0)
BUDGET = {"prompt_length": 4, "response_length": 4}


def _algorithm(**arguments):
    optimizer = partial(adamw, schedule=partial(constant, value=1e-3))
    return offline(POLICY, loss=losses.dpo, optimizer=optimizer, **arguments)


def _batch(*examples):
    """As the loader gives it, from encoded examples."""
    return Loader(Records.from_examples(list(examples)), batch_size=len(examples), shuffle=False).batch(0)


def test_rope_base_is_the_configured_one():
    """Defect 1: every Llama 3 ran with a base of 1e6, whatever its configuration said."""
    llama = sizes.llama3_1_8b()
    assert llama.rope_base == 5e5
    assert llama.rope_scaling is not None
    for base in (1e4, 5e5, 1e6):
        tiny = sizes.tiny(rope_base=base)
        np.testing.assert_allclose(frequencies(tiny)[1], base ** (-2 / tiny.rotary_dim), rtol=1e-12)
    # The model turns with them: a base of its own changes its log-probs, and nothing else differs.
    batch = _batch(encode_example(characters_tokenizer("pxy"), "ppp", ["xy", "y"], **BUDGET))
    models = [Transformer(sizes.tiny(vocab=8, embed=16, layers=1, heads=2, rope_base=b)) for b in (10.0, 1e6)]
    params = models[0].init(KEY)
    score = jax.jit(token_logps, static_argnums=0)
    one, other = (score(model, params, batch) for model in models)
    assert jnp.abs(one - other).max() > 1e-4


def test_bos_eos_and_masks():
    """Defect 2: BOS stood, and was scored, before each response; no EOS; the mask was `id is not padding`."""
    example = encode_example(characters_tokenizer("pxy"), "pp", ["xy", "y"], **BUDGET)
    assert (list(example.prompt), [list(r) for r in example.responses]) == ([1, 3, 3], [[4, 5, 2], [5, 2]])
    batch = _batch(example)
    np.testing.assert_array_equal(batch.lengths, [[3, 2]])
    np.testing.assert_array_equal(batch.response_tokens[batch.response_mask], [4, 5, 2, 5, 2])


def test_a_token_that_is_the_padding_id_is_still_scored():
    """Defect 2, its mask: masks come from lengths, so padding with another id changes no mask."""
    example = encode_example(bytes_tokenizer(), "p", ["ab", "c"], **BUDGET)
    records = Records.from_examples([example], metadata={"pad_id": example.responses[0][0]})
    batch = Loader(records, batch_size=1, shuffle=False).batch(0)
    np.testing.assert_array_equal(batch.lengths, [[3, 2]])


def test_orpo_takes_odds_of_averages():
    """Defect 3: odds of summed log-probs degenerate to a plain log-ratio for any response of some length."""
    sums, n = (jnp.array([-50.0]), jnp.array([-80.0])), (jnp.array([40]), jnp.array([50]))
    p, q = np.exp(-50 / 40), np.exp(-80 / 50)
    ratio = p / (1 - p) / (q / (1 - q))
    np.testing.assert_allclose(losses.orpo(*sums, *n), 1.25 + 0.1 * np.log1p(1 / ratio), rtol=1e-5)


def test_exo_compiles():
    """Defect 6: took `math.log` of a traced value, and so could not train. (The battery compiles all.)"""
    pair = (jnp.array([-1.0]), jnp.array([-2.0]), jnp.array([-1.5]), jnp.array([-1.5]))
    np.testing.assert_allclose(jax.jit(losses.exo)(*pair), losses.exo(*pair), rtol=1e-6)


def test_wpo_weights_are_means_over_tokens_for_any_batch():
    """Defect 7: raised for more than one row, and with one row was exp of the sum, about 1e-20."""
    logps, p2 = jnp.full((3, 40), -2.0), jnp.full((3, 40), -0.8)
    mask = jnp.arange(40)[None] < jnp.array([[40], [7], [1]])
    np.testing.assert_allclose(jnp.exp(log_agreement(logps, p2, mask)), np.exp(-1.2), rtol=1e-6)


def test_ipo_mean_where_policy_and_reference_agree():
    """Defect 8: divided by the number of tokens whose log-ratio is not 0: NaN at the first step."""
    x, n = -jnp.arange(1.0, 4), jnp.array([3, 1, 0])
    value, slope = jax.value_and_grad(lambda c: losses.ipo_mean(c, x, x, x, n, n).sum())(x)
    np.testing.assert_allclose(value, 3 * 25.0)
    np.testing.assert_allclose(slope, [-10 / 3, -10, -10], rtol=1e-6)


def test_padding_enters_no_mean():
    """Defect 10: sums over padding in reported means. Masked values may be anything."""
    mean = weighted_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False]))
    assert mean.value == 2
    batch = pairs([0, 1], [0, 1], [1, 2])
    padded = jax.tree.map(lambda a: jnp.concatenate([a, jnp.zeros_like(a)]), batch)
    state = _algorithm().init(POLICY.init(KEY))
    plain, other = (to_floats(_algorithm().evaluate(state, x, KEY)) for x in (batch, padded))
    assert plain == pytest.approx(other, rel=1e-6)


def test_options_are_used_or_refused():
    """Defect 11: `label_smoothing` was read and ignored, and so was an option for packing."""
    x = [jnp.array([v]) for v in (1.0, 2.0, 3.0, 5.0)]
    assert abs(losses.cdpo(*x, label_smoothing=0.2) - losses.cdpo(*x, label_smoothing=0.0))[0] > 1e-2
    for f in (partial(losses.dpo, *x, label_smoothing=0.2), partial(_algorithm, padding_free=True)):
        with pytest.raises(TypeError, match="unexpected keyword"):
            f()


def test_the_frozen_reference_has_no_optimizer_state():
    """Defect 12: the reference was a train state with Adam moments, eight more bytes a parameter."""
    state = _algorithm().init(POLICY.init(KEY))
    moments = [x for x in jax.tree.leaves(state.opt_state) if jnp.size(x) > 1]
    assert len(moments) == 2 * len(jax.tree.leaves(state.params))
    assert set(jax.tree.leaves(jax.tree.map(jnp.size, state.policies["initial"]))) == {12}


def test_resuming_does_not_replay_the_data():
    """Defects 12 and 13: a resumed run began its shuffled epoch anew. Ours is a function of the step."""
    examples = [encode_example(bytes_tokenizer(), f"p{i}", ["ab", "c"], **BUDGET) for i in range(7)]
    first, resumed = (Loader(Records.from_examples(examples), batch_size=2, seed=3) for _ in range(2))
    before = [first.batch(s).prompt_tokens for s in range(5)]
    np.testing.assert_array_equal(resumed.batch(4).prompt_tokens, before[4])


def test_no_perplexity_of_a_preference_loss():
    """Defect 13: reported exp(DPO loss) as perplexity."""
    algorithm = _algorithm()
    metrics = algorithm.evaluate(algorithm.init(POLICY.init(KEY)), pairs([0], [0], [1]), KEY)
    assert not [name for name in metrics if "perplexity" in name]


def test_a_prompt_cut_away_leaves_no_unpredicted_token_scored():
    """Defect 14: with the prompt truncated away, a rolled mask scored the first token from the last one."""
    example = encode_example(
        bytes_tokenizer(), "a prompt", ["xy", "zw"], prompt_length=0, response_length=3, add_bos=False
    )
    assert (list(example.prompt), example.unscored) == ([], 1)
    batch = _batch(example)
    assert not batch.response_mask[..., 0].any()
    assert batch.response_mask[..., 1:3].all()
