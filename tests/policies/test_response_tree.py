"""The numbers of prefixes and the list of responses, against plain enumeration."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.policies.response_tree import ResponseTree
from jaxpref.types import Prompts

PROMPTS = Prompts(jnp.zeros((2, 1), jnp.int32), jnp.ones((2, 1), bool))


@pytest.mark.parametrize(("vocab", "length"), [(1, 4), (3, 1), (3, 3)])
def test_prefixes_are_numbered_by_length_and_then_as_numbers(vocab, length):
    tree = ResponseTree(vocab, length, eos_id=None, pad_id=0)
    order = [p for n in range(length) for p in itertools.product(range(vocab), repeat=n)]
    assert tree.prefixes == len(order)
    every = list(itertools.product(range(vocab), repeat=length))
    found = np.asarray(tree.before(jnp.asarray(every, jnp.int32)[None]))[0]
    assert found.tolist() == [[order.index(r[:n]) for n in range(length)] for r in every]


def test_responses_end_with_eos_or_at_the_length():
    """Each once, in lexicographic order, padded after EOS."""
    vocab, length, eos, pad = 3, 3, 1, 2
    found = ResponseTree(vocab, length, eos, pad).responses(PROMPTS)
    every = sorted(
        {r[: r.index(eos) + 1] if eos in r else r for r in itertools.product(range(vocab), repeat=length)}
    )
    padded = [[*r, *[pad] * (length - len(r))] for r in every]
    assert found.response_tokens.tolist() == [padded] * 2
    assert found.response_mask.sum(-1).tolist() == [[len(r) for r in every]] * 2
