"""What a malformed record is told."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxpref.types import Completions, check_completions


def _batch(**changes) -> Completions:
    fields = {
        "prompt_tokens": np.array([[1, 5, 0], [1, 5, 6]], np.int32),
        "prompt_mask": np.array([[1, 1, 0], [1, 1, 1]], bool),
        "response_tokens": np.full((2, 2, 4), 3, np.int32),
        "response_mask": np.ones((2, 2, 4), bool),
    }
    return Completions(**(fields | changes))


def test_a_good_batch_passes():
    check_completions(_batch(), vocab_size=8)
    half = np.full((2, 2, 2), 0.5, np.float32)
    check_completions(_batch(reference_logps=np.zeros((2, 2), np.float32), preferences=half))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": np.zeros(3, np.int32)}, "prompt_tokens: expected 2 axes"),
        ({"prompt_tokens": np.zeros((2, 3), np.float32)}, "prompt_tokens: expected an integer type"),
        ({"prompt_mask": np.ones((2, 2), bool)}, "prompt_mask: expected the shape"),
        ({"prompt_mask": np.array([[0, 1, 1], [1, 1, 1]], bool)}, "row 0 is not right-padded"),
        ({"prompt_tokens": np.full((2, 3), 99, np.int32)}, "vocabulary of 8"),
        ({"response_mask": np.ones((2, 2, 3), bool)}, "response_mask: expected the shape"),
        (
            {"response_tokens": np.zeros((3, 2, 4), np.int32), "response_mask": np.ones((3, 2, 4), bool)},
            "3 rows",
        ),
        ({"prompt_mask": np.array([[0, 0, 0], [1, 1, 1]], bool)}, "row 0 has an empty prompt"),
        ({"reference_logps": np.zeros((2, 3), np.float32)}, "reference_logps: expected shape"),
        ({"reference_logps": np.full((2, 2), np.nan, np.float32)}, "row 0 is not finite"),
        ({"preferences": np.full((2, 2, 2), 0.7, np.float32)}, "P\\(i beats j\\)"),
    ],
)
def test_a_bad_batch_is_told_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        check_completions(_batch(**changes), vocab_size=8)


def test_padding_rows_have_no_weight():
    mask = np.ones((2, 2, 4), bool)
    mask[1] = False
    batch = _batch(response_mask=mask)
    np.testing.assert_array_equal(batch.valid, [True, False])
    np.testing.assert_array_equal(batch.lengths, [[4, 4], [0, 0]])


def test_records_are_pytrees_that_vmap_and_eval_shape():
    batch = jax.tree.map(jax.numpy.asarray, _batch())
    lengths = jax.vmap(lambda row: row.response_mask.sum())(batch)
    assert lengths.shape == (2,)
    assert jax.eval_shape(lambda b: b.prompts, batch).prompt_tokens.shape == (2, 3)
    assert dataclasses.replace(batch, reference_logps=None) is not batch


def test_columns_say_whose_they_are_and_prompts_keep_their_own():
    """Of two columns of one shape, one is of responses and one of rows; nobody guesses."""
    columns = {"scores": np.ones((2, 2)), "prompt_embeddings": np.ones((2, 2)), "mine": np.ones((2, 2))}
    declared = _batch(columns=columns, column_axes=(("mine", "b d"),))
    assert [declared.axes_of(name) for name in columns] == [("b", "k"), ("b", "d"), ("b", "d")]
    prompts = declared.prompts
    assert set(prompts.columns) == {"prompt_embeddings", "mine"}
    assert prompts.column_axes == declared.column_axes
    with pytest.raises(ValueError, match=r"column mine: of shape \[2, 2\], and its axes were not declared"):
        _ = _batch(columns=columns).prompts
