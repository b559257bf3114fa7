"""Weights where rules meet: scans of pairs, replays, a policy's own quantities, refused columns, absent
samples."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_method import SGD, batch_of, small_transformer
from jaxtyping import Array, Float
from toys import pairs, scored_table_policy

from jaxpref import losses
from jaxpref.algorithms import offline, online, preference_iql, replayed, spac
from jaxpref.algorithms.quantities import mismatched
from jaxpref.data.records import Example, Records
from jaxpref.data.segments import SegmentRecords
from jaxpref.metrics import to_floats
from jaxpref.policies.base import Model, model_of, no_log_probs
from jaxpref.policies.tabular import tabular

KEY = jax.random.key(0)
TABLE = tabular(prompts=3, vocab=5)


def per_response(logps, lengths) -> Float[Array, "b k"]:
    return -logps / jnp.maximum(lengths, 1)


@pytest.mark.parametrize("loss", [losses.sft, per_response, losses.dpo])
def test_a_scan_of_pairs_is_the_mean_of_what_the_loss_has_a_number_for(loss):
    policy, batch = small_transformer(), batch_of()
    batch = dataclasses.replace(batch, response_mask=batch.response_mask.at[1, 1].set(False))
    batch = dataclasses.replace(batch, columns={"weights": jnp.array([1.0, 2.0, 0.5, 0.0])}, preferences=None)
    reference = "initial" if loss is losses.dpo else None
    metrics = []
    for scan in (False, True):
        algorithm = offline(policy, loss=loss, optimizer=SGD, reference=reference, pair_scan=scan)
        metrics.append(to_floats(jax.jit(algorithm.step)(algorithm.init(policy.init(KEY)), batch, KEY)[1]))
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-6)


def test_a_replayed_row_has_its_weight():
    """A row of weight 0 teaches nothing again, and one of weight 2 as much as two."""
    built = partial(offline, loss=losses.simpo, optimizer=SGD, reference=None)
    algorithm = replayed(TABLE, algorithm=built, capacity=4, prompt_length=1, response_length=1, updates=2)
    batch = pairs([0, 1, 2, 0], [0, 1, 2, 3], [1, 2, 3, 4])
    absent = dataclasses.replace(batch, response_mask=batch.response_mask.at[1].set(False))
    without = dataclasses.replace(batch, columns={"weights": jnp.array([1.0, 0, 1, 1])})
    after = [jax.jit(algorithm.step)(algorithm.init(TABLE.init(KEY)), b, KEY)[0] for b in (absent, without)]
    np.testing.assert_allclose(after[0].params["logits"], after[1].params["logits"], atol=1e-6)


def test_a_row_without_a_response_has_no_weight_to_a_loss_of_what_the_policy_or_features_compute():
    """Whatever it is called: a loss of all responses that knows of no absent ones skips such rows."""
    policy = scored_table_policy(11)
    given = policy.quantities

    def quantities(params, batch, names, reference_params, key):
        known = given(params, batch, tuple(n for n in names if n != "energy"), reference_params, key)
        return known | {"energy": policy.token_logps(params, batch).sum(-1)}

    own = policy._replace(quantities=quantities, offers=(*policy.offers, "energy"))

    def features(params, batch, key):
        return {"energy": policy.token_logps(params, batch).sum(-1)}

    batch = batch_of()
    batch = dataclasses.replace(
        batch, response_mask=batch.response_mask.at[1, 1].set(False), preferences=None
    )

    def spread(energy) -> Float[Array, "b"]:
        return energy.max(-1) - energy.min(-1)

    def plain(logps) -> Float[Array, "b"]:
        return spread(logps)

    params, found = policy.init(KEY), []
    for chosen, loss, more in ((policy, plain, None), (own, spread, None), (policy, spread, features)):
        algorithm = offline(chosen, loss=loss, optimizer=SGD, reference=None, features=more)
        found.append(float(algorithm.evaluate(algorithm.init(params), batch, KEY)["loss"].value))
    assert found[0] == pytest.approx(found[1], rel=1e-6) == pytest.approx(found[2], rel=1e-6)


def test_hard_labels_are_measured_by_what_the_data_say_too():
    """DPO on records with preferences: P < 1/2 turns the order of a pair, and a tie counts one half."""
    batch = pairs([0, 1, 2, 0], [0, 1, 2, 3], [1, 2, 3, 4])
    p = jnp.array([0.9, 0.1, 0.5, 0.5])
    half = jnp.full(4, 0.5)
    preferences = jnp.stack([jnp.stack([half, p], -1), jnp.stack([1 - p, half], -1)], 1)
    batch = dataclasses.replace(batch, preferences=preferences)
    algorithm = offline(TABLE, loss=losses.simpo, optimizer=SGD, reference=None)
    params = TABLE.init(KEY)
    metrics = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))
    logps = np.asarray(TABLE.token_logps(params, batch).sum(-1))
    right = np.array([logps[0, 0] > logps[0, 1], logps[1, 1] > logps[1, 0], 0.5, 0.5])
    assert metrics["rewards/accuracies"] == pytest.approx(right.mean())


def test_columns_out_of_their_range_are_refused_where_they_are_added():
    records = Records.from_examples([Example([5], [[7], [8]])] * 3, {"vocab_size": 10})
    segments = SegmentRecords(np.zeros((3, 2, 1, 1)), np.zeros((3, 2, 1, 1)), np.ones((3, 2), int))
    for table in (records, segments):
        with pytest.raises(ValueError, match=r"column weights: expected 0 or more, got -1.0 in row 2"):
            table.with_column("weights", np.array([1.0, 0.0, -1.0]))
        with pytest.raises(ValueError, match=r"column weights: row 1 is not finite"):
            table.with_column("weights", np.array([1.0, np.nan, 1.0]))
        with pytest.raises(ValueError, match=r"column scores: expected shape \[3, 2\], got \(3,\)"):
            table.with_column("scores", np.ones(3))
        with pytest.raises(ValueError, match="column weights: expected numbers"):
            table.with_column("weights", np.array(["a", "b", "c"]))


def test_a_loss_without_rewards_trains_and_says_so():
    policy = scored_table_policy(11, outputs=1)._replace(token_logps=no_log_probs)

    def regress(values, mask) -> Float[Array, "b k"]:
        return jnp.where(mask, (values - 1) ** 2, 0).sum(-1)

    table = scored_table_policy(11, outputs=1)
    policy = policy._replace(
        quantities=lambda params, batch, names, *more: {
            name: table.quantities(params, batch, (name,), *more)[name] for name in names
        }
    )
    algorithm = offline(policy, loss=regress, optimizer=SGD, reference=None)
    state, metrics = algorithm.step(algorithm.init(policy.init(KEY)), batch_of(), KEY)
    assert float(metrics["loss"].value) > 0
    assert not any(name.startswith("rewards/") for name in metrics)
    with pytest.raises(ValueError, match="names neither log-probs nor outputs of a head: no rewards"):
        algorithm.rewards(state, batch_of())


def test_names_of_models_and_policies_with_constants_are_checked_before_anything_runs():
    with pytest.raises(ValueError, match=r"models: \['initial'\] are policies of this run"):
        online(
            TABLE,
            loss=losses.dpo,
            optimizer=SGD,
            sample_from=({"policy": 1.0},) * 2,
            max_tokens=1,
            models={"initial": lambda: Model(TABLE.init(KEY), TABLE.axes())},
        )
    frozen = TABLE._replace(constants=lambda: Model({"base": np.ones(2)}, {"base": (None,)}))
    assert set(model_of(frozen, {"logits": 1}).params) == {"logits", "base"}
    sizes = {"observation_size": 1, "action_size": 1}
    with pytest.raises(ValueError, match="preference_iql: this policy has constants"):
        preference_iql(frozen, optimizer=SGD, reward_steps=1, **sizes)
    with pytest.raises(ValueError, match="spac: this policy has constants"):
        spac(frozen, optimizer=SGD, critic=lambda: TABLE, critic_optimizer=SGD, max_tokens=1)


def test_a_loss_of_objectives_needs_a_way_to_combine_them():
    with pytest.raises(ValueError, match="loss signed_dpo has a number for each objective: set combine"):
        offline(TABLE, loss=losses.signed_dpo, optimizer=SGD)


def test_two_scored_responses_are_ordered_by_their_scores_to_a_loss_of_scores():
    """In whatever order they lie; equal scores are a tie of the data."""

    def drawn_to(logps, scores, where) -> Float[Array, "b"]:
        return jnp.where(where, -logps * scores, 0).sum(-1)

    batch = pairs([0, 1, 2], [0, 1, 2], [1, 2, 3])
    scores = jnp.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
    batch = dataclasses.replace(batch, columns={"scores": scores})
    algorithm = offline(TABLE, loss=drawn_to, optimizer=SGD, reference=None)
    params = TABLE.init(KEY)
    metrics = to_floats(algorithm.evaluate(algorithm.init(params), batch, KEY))
    logps = np.asarray(TABLE.token_logps(params, batch).sum(-1))
    right = [logps[0, 1] > logps[0, 0], 0.5, logps[2, 0] > logps[2, 1]]
    assert metrics["rewards/accuracies"] == pytest.approx(np.mean(right))
    assert metrics["rewards/chosen"] == pytest.approx(
        np.mean([logps[0, 1], logps[1, 0], logps[2, 0]]), rel=1e-6
    )


def test_a_mismatched_response_is_the_next_one_in_its_place():
    """Of lists of different lengths and rows of weight 0 in between: nothing that counts meets what is
    absent."""
    batch = batch_of(k=2, b=4)
    mask = batch.response_mask.at[1, 1].set(False).at[3, 0].set(False)
    batch = dataclasses.replace(batch, response_mask=mask, columns={"weights": jnp.array([1.0, 1, 0, 1])})
    rolled = mismatched(batch)
    following = {(0, 0): 1, (1, 0): 0, (0, 1): 3, (3, 1): 0}
    for row in range(4):
        for place in range(2):
            other = following.get((row, place))
            expected = np.zeros_like(mask[0, 0]) if other is None else mask[other, place]
            np.testing.assert_array_equal(rolled.response_mask[row, place], expected)
            if other is not None:
                np.testing.assert_array_equal(
                    rolled.response_tokens[row, place], batch.response_tokens[other, place]
                )
