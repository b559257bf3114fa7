"""Everything that belongs to a response goes with it, and nothing else moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_records import record

from jaxpref.selection import append_responses, drop_rows, same_responses, take_responses, take_rows
from jaxpref.types import check_completions

AXES = (("of_the_row", "b d"), ("token_things", "b k r"))


def _full(b=2, k=3, r=4):
    rng = np.random.default_rng(1)
    upper = np.triu(rng.uniform(size=(b, k, k)), 1)
    p = upper + np.swapaxes(np.where(np.triu(np.ones((k, k)), 1) > 0, 1 - upper, 0), 1, 2)
    p[:, np.arange(k), np.arange(k)] = 0.5
    batch = record(
        np.full((b, k), 2),
        r=r,
        preferences=p,
        scores=rng.normal(size=(b, k)),
        ratings=rng.normal(size=(b, k, k)),
        token_things=rng.normal(size=(b, k, r)),
        prompt_embeddings=rng.normal(size=(b, k)),  # [b, d] with d = k, and known as such
        annotators=np.arange(b),
        of_the_row=rng.normal(size=(b, k)),  # and so is this
        margins=np.ones(b),
        axes=AXES,
    )
    return dataclasses.replace(batch, reference_logps=jnp.asarray(rng.normal(size=(b, k))))


def test_taking_responses_takes_what_is_theirs():
    batch, index = _full(), np.array([[2, 0], [1, 2]])
    out = jax.jit(take_responses)(batch, jnp.asarray(index))
    for row, chosen in enumerate(index):
        for field in ("response_tokens", "response_mask", "reference_logps"):
            np.testing.assert_array_equal(getattr(out, field)[row], getattr(batch, field)[row][chosen])
        np.testing.assert_array_equal(out.preferences[row], batch.preferences[row][np.ix_(chosen, chosen)])
        for name in ("scores", "ratings", "token_things"):
            np.testing.assert_array_equal(out.columns[name][row], batch.columns[name][row][chosen])
    for name in ("prompt_embeddings", "annotators", "of_the_row"):
        np.testing.assert_array_equal(out.columns[name], batch.columns[name])
    assert "margins" not in out.columns, "it compared responses 0 and 1"
    check_completions(out)


def test_dropped_rows_are_padding_and_rows_can_repeat():
    batch = _full()
    assert drop_rows(batch, jnp.array([True, False])).valid.tolist() == [True, False]
    twice = take_rows(batch, jnp.array([1, 1, 0]))
    np.testing.assert_array_equal(twice.response_tokens[1], batch.response_tokens[1])
    assert twice.columns["annotators"].tolist() == [1, 1, 0]


def test_appending_pads_and_keeps_what_both_know():
    first, second = _full(k=2, r=3), record(np.full((2, 3), 5), r=5, scores=np.zeros((2, 3)), new=np.ones(2))
    out = append_responses(first, second)
    assert out.response_tokens.shape == (2, 5, 5)
    np.testing.assert_array_equal(out.response_mask[:, :2, 3:], False)
    np.testing.assert_array_equal(out.response_tokens[:, 2:], second.response_tokens)
    assert set(out.columns) == {
        "scores", "prompt_embeddings", "annotators", "of_the_row", "margins", "new", "pair_preferences"
    }  # fmt: skip
    np.testing.assert_array_equal(out.columns["pair_preferences"], first.preferences[:, 0, 1])
    assert out.reference_logps is None
    both = append_responses(first, first)
    assert both.reference_logps.shape == (2, 4)
    assert both.columns["token_things"].shape == (2, 4, 3)
    wide = append_responses(
        first,
        dataclasses.replace(second, columns={"token_things": jnp.ones((2, 3, 5))}, column_axes=AXES[1:]),
    )
    assert wide.columns["token_things"].shape == (2, 5, 5)
    with pytest.raises(ValueError, match="same prompts"):
        append_responses(first, take_rows(first, jnp.array([0])))


def test_same_responses_are_equal_where_scored():
    batch = record([[2, 2], [2, 2], [2, 3]])
    tokens = batch.response_tokens.at[:, 1, :2].set(batch.response_tokens[:, 0, :2]).at[1, 1, 1].set(0)
    assert same_responses(dataclasses.replace(batch, response_tokens=tokens)).tolist() == [True, False, False]
