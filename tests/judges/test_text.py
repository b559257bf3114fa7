"""Checks of text: what they read, and each process on the rows that its devices hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpref import judges
from jaxpref.data.text.tokenizers import characters_tokenizer
from jaxpref.types import Completions

TOKENIZER = characters_tokenizer("abc+=")


def _batch(prompts, responses) -> Completions:
    def padded(texts, width):
        ids = [TOKENIZER.encode(t) for t in texts]
        tokens = np.array([i + [0] * (width - len(i)) for i in ids], np.int32)
        return tokens, np.arange(width) < np.array([len(i) for i in ids])[:, None]

    tokens, mask = padded(prompts, 4)
    sides = [padded(row, 3) for row in responses]
    return Completions(tokens, mask, np.stack([t for t, _ in sides]), np.stack([m for _, m in sides]))


def test_a_check_reads_text_without_specials():
    batch = _batch(["a+b=", "c="], [["ab", "b"], ["", "c"]])
    tokens = np.array(batch.response_tokens)
    mask = np.array(batch.response_mask)
    tokens[0, 0, 2], mask[0, 0, 2] = TOKENIZER.eos_id, True
    batch = dataclasses.replace(batch, response_tokens=tokens, response_mask=mask)
    seen = []

    def check(prompt, response):
        seen.append((prompt, response))
        return len(response)

    scorer = judges.text_scorer(check, TOKENIZER)
    assert scorer({}, batch).tolist() == [[2, 1], [0, 1]]
    assert seen == [("a+b=", "ab"), ("a+b=", "b"), ("c=", "c")], "absent responses are not read"
    seen.clear()
    assert scorer({}, jax.tree.map(jnp.asarray, batch)).tolist() == [[2, 1], [0, 1]]
    p = judges.ordering_judge(scorer)({}, batch)
    np.testing.assert_array_equal(p[0], [[0.5, 1], [0, 0.5]])


def test_any_of_several_ends_is_left_out_at_the_end():
    a, b = TOKENIZER.encode("a")[0], TOKENIZER.encode("b")[0]
    batch = _batch(["c="], [["abc", "ca"]])
    scorer = judges.text_scorer(lambda prompt, response: len(response), TOKENIZER, eos_id=(a, b))
    assert scorer({}, batch).tolist() == [[3, 1]]


def test_wrong_use_is_explained():
    batch = _batch(["a="], [["a", "b"]])
    for wrong in (None, float("nan"), "good"):
        with pytest.raises(ValueError, match="finite number"):
            judges.text_scorer(lambda prompt, response, wrong=wrong: wrong, TOKENIZER)({}, batch)
    scorer = judges.text_scorer(lambda prompt, response: 1.0, TOKENIZER)
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda rows: scorer({}, rows))(batch)
    with pytest.raises(ValueError, match="shape \\(1, n\\)"):
        judges.rows_on_host(lambda rows: np.zeros(3), batch)


def test_rows_are_found_where_they_lie():
    """Rows split over four devices and copied over two: each row is computed once, and laid out as it was."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "tensor"))
    host = dataclasses.replace(_batch(["a="] * 8, [["a", "b"]] * 8), columns={"n": np.arange(8)})
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    batch = jax.device_put(host, split)
    calls = []

    def function(rows):
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
        calls.append(rows.columns["n"].tolist())
        return np.stack([rows.columns["n"], 10 * rows.columns["n"]], 1).astype(np.float32)

    out = judges.rows_on_host(function, batch)
    assert sorted(calls) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert out.sharding.is_equivalent_to(split, 2)
    np.testing.assert_array_equal(out, np.stack([np.arange(8), 10 * np.arange(8)], 1))
    # A column that every device has in full is read where the rows are.
    copied = dataclasses.replace(batch, columns={"n": jax.device_put(host.columns["n"], whole)})
    np.testing.assert_array_equal(judges.rows_on_host(function, copied), out)
    calls.clear()
    assert judges.rows_on_host(function, jax.device_put(host, whole)).sharding.is_fully_replicated
    assert len(calls) == 1
    across = dataclasses.replace(
        batch,
        prompt_tokens=jax.device_put(host.prompt_tokens, NamedSharding(mesh, PartitionSpec(None, "data"))),
    )
    with pytest.raises(ValueError, match="by rows alone"):
        judges.rows_on_host(function, across)
