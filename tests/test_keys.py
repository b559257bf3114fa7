"""Keys by path: no place of the tree shares a key with another, or with what jax derives otherwise."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import keys
from jaxpref.models.sizes import tiny
from jaxpref.models.transformer import Transformer


def data(key) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_siblings_differ_from_one_another_and_from_those_of_jax():
    """Names, integers, lists of both, and all that `split` and `fold_in` give under the same parent."""
    parent = jax.random.key(7)
    split = jax.random.split(parent, 1000)
    assert data(jax.random.fold_in(parent, 3)) == data(split[3]), "why paths are needed"
    paths = [(i,) for i in range(1000)] + [(str(i),) for i in range(1000)]
    paths += [("a", "b"), ("a", 0), (0, "a"), (0, 0), ("ab",), ('["a", "b"]',), ("a", "0"), ("b", "a")]
    found = [data(keys.fold(parent, *path)) for path in paths]
    found += [data(key) for key in split]
    found += [data(jax.random.fold_in(parent, i)) for i in range(1000, 2000)]
    assert len(set(found)) == len(found)


def test_what_is_folded_first_is_beyond_the_children_of_a_split(monkeypatch):
    """Not luck: the first counter of any part of a path is at least 2^31, an integer's is that of no name."""
    counters, fold_in = [], jax.random.fold_in
    monkeypatch.setattr(jax.random, "fold_in", lambda key, i: counters.append(i) or fold_in(key, i))
    parent = jax.random.key(0)
    for i in range(300):
        keys.fold(parent, f"name {i}")
    names, counters[:] = counters[::2], []
    keys.fold(parent, 0, 5)
    assert all(2**31 <= c < 3 * 2**30 for c in names)
    assert len(set(names)) == 300
    assert counters == [2**32 - 1, 0, 2**32 - 1, 5]


def test_places_of_the_tree_differ():
    """A stage may have the name of a purpose, and an evaluator that of a stage."""
    names = (None, "sft", "step", "init", "None", "null")
    purposes = ("init", "step", "data", "evaluator")
    paths = ((), (0,), (1,), ("step",), ("step", 0))
    places = list(itertools.product((0, 1), names, purposes, paths))
    found = [data(keys.key(seed, stage, purpose, *path)) for seed, stage, purpose, path in places]
    numbers = [keys.number(seed, stage, purpose, *path) for seed, stage, purpose, path in places]
    assert len(set(found)) == len(set(numbers)) == len(places)
    assert max(numbers) < 2**63


def test_a_step_may_be_traced():
    traced = jax.jit(lambda step: keys.key(3, "dpo", "evaluation", step, 2, "loss"))
    for step in (0, 1, 2**31 - 1):
        assert data(traced(step)) == data(keys.key(3, "dpo", "evaluation", step, 2, "loss"))
    several = jax.vmap(lambda i: keys.fold(jax.random.key(0), "blocks", i))(jnp.arange(3))
    assert [data(k) for k in several] == [data(keys.fold(jax.random.key(0), "blocks", i)) for i in range(3)]


@pytest.mark.parametrize("part", [-1, 2**32])
def test_an_integer_out_of_range_is_refused(part):
    with pytest.raises(ValueError, match=f"{part} in a path is not in"):
        keys.key(0, "sft", "step", part)


def test_another_process_has_the_same_keys():
    """And another release: who changes these numbers changes `SCHEME`, since runs under way would change."""
    code = "from jaxpref import keys; print(keys.number(5, 'dpo', 'data', 1), keys.key(5, 'dpo', 'step', 1))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.split(" ", 1)[0] == str(keys.number(5, "dpo", "data", 1)) == "1474958847044323590"
    assert str(keys.key(5, "dpo", "step", 1)) == there.split(" ", 1)[1].strip()
    assert (keys.SCHEME, data(keys.key(5, "dpo", "step", 1))) == (2, (2676270900, 245115753))


def test_a_reward_head_is_small_and_like_no_row_of_the_tables():
    """Standard deviation 1/sqrt(d + 1) within 4 standard errors (1/sqrt(2 n) of it for n numbers). Cosines
    with rows of independent normal numbers have mean 0 and standard deviation 1/sqrt(d): the largest of 8000
    stays below 5.5 of them (chance of more: 3e-4)."""
    d, outputs, vocab = 2048, 4, 1000
    sizes = tiny(vocab=vocab, embed=d, layers=1, heads=2, kv_heads=2, mlp=8, tied=False)
    params = Transformer(sizes, outputs=outputs).init(keys.key(0, None, "init"))
    head = np.asarray(params["head"], np.float64)
    assert head.std() * np.sqrt(d + 1) == pytest.approx(1, abs=4 / np.sqrt(2 * head.size))
    unit = head / np.linalg.norm(head, axis=0)
    for name in ("unembedding", "embedding"):
        rows = np.asarray(params[name], np.float64)
        cosines = rows @ unit / np.linalg.norm(rows, axis=1, keepdims=True)
        assert np.abs(cosines).max() < 5.5 / np.sqrt(d)
        # They once coincided so: the head's numbers, in their order, at the start of the table.
        start = rows.ravel()[: head.size]
        assert abs(np.corrcoef(start, head.ravel())[0, 1]) < 5.5 / np.sqrt(head.size)


def test_layers_and_tables_start_from_keys_of_their_own():
    sizes = tiny(vocab=64, embed=64, layers=2, heads=1, kv_heads=1, mlp=64, tied=False)
    params = Transformer(sizes).init(jax.random.key(0))
    drawn = [np.asarray(params[name]).ravel() for name in ("embedding", "unembedding")]
    for leaf in jax.tree.leaves(params["blocks"]):
        drawn += [x.ravel() for x in np.asarray(leaf) if x.size >= 64 * 64]
    assert len(drawn) == 2 + 2 * 7
    for a, b in itertools.combinations(drawn, 2):
        n = min(a.size, b.size)
        assert abs(np.corrcoef(a[:n], b[:n])[0, 1]) < 5 / np.sqrt(n)  # standard errors, 120 pairs
