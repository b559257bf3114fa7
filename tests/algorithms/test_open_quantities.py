"""The names that a loss may use are the policy's and the records': hidden states, noise, columns with their
axes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from every_method import SGD, batch_of, small_transformer

from jaxpref import losses
from jaxpref.algorithms import offline, online
from jaxpref.data.records import Example, Records, concatenate
from jaxpref.data.records_io import add_column, load_records, write_records
from jaxpref.policies.reward_table import reward_table
from jaxpref.policies.tabular import tabular
from jaxpref.selection.gather import take_responses
from jaxpref.types import Completions, check_completions

KEY = jax.random.key(0)


def test_hidden_states_are_what_the_next_token_is_predicted_from():
    """The unembedding of each state gives the log-probs of the same pass, and a loss may name them."""
    policy, batch = small_transformer(), batch_of()
    params = policy.init(KEY)
    read = jax.jit(policy.quantities, static_argnums=2)
    values = read(params, batch, ("hidden_states", "token_logps"), None, None)
    table = params["unembedding"] if "unembedding" in params else params["embedding"].T
    logits = values["hidden_states"] @ table
    expected = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.response_tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        values["token_logps"], jnp.where(batch.response_mask, expected, 0), rtol=1e-5, atol=1e-5
    )

    def probe(chosen_hidden_states, rejected_hidden_states, chosen_mask):
        distance = ((chosen_hidden_states - rejected_hidden_states) ** 2).mean(-1)
        return jnp.where(chosen_mask, distance, 0).sum(-1)

    algorithm = offline(policy, loss=probe, optimizer=SGD, reference=None)
    after, metrics = jax.jit(algorithm.step)(algorithm.init(params), batch, KEY)
    difference = (values["hidden_states"][:, 0] - values["hidden_states"][:, 1]) ** 2
    by_hand = jnp.where(batch.mask[:, 0], difference.mean(-1), 0).sum(-1).mean()
    assert float(metrics["loss"].value) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, after.params, params))) > 0
    with pytest.raises(ValueError, match="lacks hidden states"):
        offline(tabular(prompts=2, vocab=3), loss=probe, optimizer=SGD, reference=None)


def noisy():
    """A table with a quantity of its own, that needs a key as a diffusion's loss does."""
    table = tabular(prompts=11, vocab=11)

    def quantities(params, batch, names, reference_params, key):
        values = {"errors": jax.random.normal(key, batch.lengths.shape) + params["logits"].sum()}
        return values | {"token_logps": table.token_logps(params, batch)}

    return table._replace(quantities=quantities, offers=("errors",))


def test_policy_and_reference_see_the_same_noise_and_every_step_another():
    def gap(errors, reference_errors, key) -> jax.Array:
        return jnp.abs(errors - reference_errors) + 0 * jax.random.normal(key)

    def noise(errors, key):
        return errors - jax.random.normal(key, errors.shape)

    policy = noisy()
    batch = jax.tree.map(lambda x: x[..., :1] if x.ndim == 3 else x, batch_of(b=2))
    batch = Completions(
        batch.prompt_tokens[:, :1], jnp.ones((2, 1), bool), batch.response_tokens, jnp.ones((2, 2, 1), bool)
    )
    same = offline(policy, loss=gap, optimizer=SGD)
    params = policy.init(KEY)
    assert float(same.evaluate(same.init(params), batch, KEY)["loss"].value) == 0
    algorithm = offline(policy, loss=noise, optimizer=SGD, reference=None)
    state = algorithm.init(params)
    seen = [float(algorithm.evaluate(state, batch, jax.random.key(i))["loss"].value) for i in (0, 0, 1)]
    assert seen[0] == seen[1] != seen[2]
    total = float(params["logits"].sum())
    assert abs(seen[0] - total) > 1e-3, "the loss's own key draws other numbers than the policy's"


def test_a_policy_without_log_probs_takes_losses_of_rewards_alone():
    table = reward_table(prompts=2, vocab=3)
    with pytest.raises(ValueError, match=r"needs \['chosen_logps', .* lacks log-probs: it scores responses"):
        offline(table, loss=losses.dpo, optimizer=SGD)
    with pytest.raises(ValueError, match="no distribution and has no log-probs"):
        table.token_logps(table.init(KEY), None)
    offline(table, loss=losses.bradley_terry, optimizer=SGD, reference=None)


def examples() -> Records:
    rows = [Example([5, 6], [[7, 8], [9]]), Example([5], [[7], [8, 9]]), Example([4], [[4], [5]])]
    return Records.from_examples(rows, {"vocab_size": 10})


def test_columns_say_what_their_axes_are(tmp_path):
    """A column of two axes says whether the second one is of responses, and is treated so everywhere."""
    rng = np.random.default_rng(0)
    context, score = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    with pytest.raises(ValueError, match=r"column context: of shape \[3, 2\].*axes were not declared"):
        examples().with_column("context", context)
    with pytest.raises(ValueError, match="expected shape"):
        examples().with_column("context", context, axes="b k d")
    with pytest.raises(ValueError, match="column scores: axes 'b d', expected 'b k'"):
        examples().with_column("scores", score, axes="b d")
    records = examples().with_column("context", context, axes="b d").with_column("liked", score, axes="b k")
    write_records(records, tmp_path / "records")
    for table in (records, load_records(tmp_path / "records"), concatenate([records, records])):
        assert table.only(1).columns["context"].shape == (len(table), 2)
        np.testing.assert_array_equal(table.only(1).columns["liked"][:3, 0], score[:, 1])
        batch = jax.tree.map(jnp.asarray, table.rows([0, 2]))
        swapped = take_responses(batch, jnp.array([[1, 0], [1, 0]]))
        np.testing.assert_allclose(swapped.columns["context"], context[[0, 2]], rtol=1e-6)
        np.testing.assert_allclose(swapped.columns["liked"], score[[0, 2], ::-1], rtol=1e-6)
        assert set(batch.prompts.columns) == {"context", "example_ids"}
    add_column(tmp_path / "records", "later", context, axes="b d")
    assert load_records(tmp_path / "records").only(0).columns["later"].shape == (3, 2)


def test_columns_of_tokens_have_the_room_of_their_batch():
    """Whatever the longest response of the table is, as the mask does; longer values are of no token."""
    values = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2) + 1
    records = examples().with_column("token_rewards", values)
    for room in (2, 5):
        batch = records.rows([2, 0], response_length=room)
        assert batch.columns["token_rewards"].shape == batch.response_mask.shape == (2, 2, room)
        np.testing.assert_array_equal(batch.columns["token_rewards"][..., :2], values[[2, 0]])
        assert not np.any(batch.columns["token_rewards"][..., 2:])
        check_completions(batch)
    short = records.rows([2], response_length=1)
    np.testing.assert_array_equal(short.columns["token_rewards"], values[[2], :, :1])
    wrong = dataclasses.replace(short, columns={"token_rewards": values[[2]]})
    with pytest.raises(ValueError, match=r"column token_rewards: expected shape \[b, k, r\]"):
        check_completions(wrong)
    with pytest.raises(ValueError, match="different axes of column liked"):
        concatenate([examples().with_column("liked", np.ones((3, 2)), axes=a) for a in ("b k", "b d")])


def test_prompts_keep_their_columns_when_they_are_sampled_from():
    policy = tabular(prompts=6, vocab=3)
    seen = []

    def sample(params, prompts, key, **settings):
        seen.append(set(prompts.columns))
        return policy.sample(params, prompts, key, **settings)

    algorithm = online(
        policy._replace(sample=sample),
        loss=lambda logps, scores, context: logps * scores + context.sum(-1, keepdims=True),
        optimizer=partial(optax.sgd, 1.0),
        sample_from=({"policy": 1.0},) * 2,
        max_tokens=1,
        scorer=lambda: lambda everyone, record: record.lengths.astype(jnp.float32),
        reference=None,
    )
    records = examples().with_column("context", np.ones((3, 4)), axes="b d")
    records = records.with_column("liked", np.ones((3, 2)), axes="b k")
    batch = dataclasses.replace(jax.tree.map(jnp.asarray, records.rows([0, 1, 2])))
    state = algorithm.init(policy.init(KEY))
    record, _ = algorithm.collect(state, batch, KEY)
    assert seen == [{"context", "example_ids"}]
    drawn = policy.sample(policy.init(KEY), batch.prompts, KEY, max_tokens=1).completions
    every = policy.enumerate(batch.prompts)
    for given in (drawn, every):
        np.testing.assert_array_equal(given.columns["context"], batch.columns["context"])
        assert given.axes_of("context") == ("b", "d")
    assert {"context", "example_ids", "scores", "drawn"} <= set(record.columns)
    assert "liked" not in record.columns, "what was known of the recorded responses is not of those drawn"
    assert float(algorithm.step(state, record, KEY)[1]["loss"].value) != 0


def test_every_column_that_a_loss_of_the_library_names_is_known():
    from jaxpref.algorithms.inputs import QUANTITIES, inputs_of
    from jaxpref.methods import METHODS
    from jaxpref.types import COLUMNS

    given = {*QUANTITIES, *COLUMNS, "features"}
    assert not {i.base for method in METHODS for i in inputs_of(method.loss)} - given
