"""Cyclic preferences: every item wins as often as it loses."""

import itertools
from collections import Counter

import numpy as np
import pytest

from jaxpref.data.text.cycles import cyclic_pairs, items_tokenizer
from jaxpref.types import check_completions


def wins(records):
    tokenizer = items_tokenizer()
    return [
        (tokenizer.decode(records.response(i, 0)), tokenizer.decode(records.response(i, 1)))
        for i in range(len(records))
    ]


def test_three_items():
    records = cyclic_pairs()
    assert set(wins(records)) == {("a", "b"), ("b", "c"), ("c", "a")}
    assert [items_tokenizer().decode(records.prompt(i)) for i in range(3)] == ["?"] * 3


@pytest.mark.parametrize("num_items", [3, 5, 7, 25])
def test_every_pair_once_and_wins_balance(num_items):
    records = cyclic_pairs(num_items=num_items)
    found = wins(records)
    letters = "abcdefghijklmnopqrstuvwxy"[:num_items]
    assert sorted(tuple(sorted(pair)) for pair in found) == list(itertools.combinations(letters, 2))
    won, lost = Counter(w for w, _ in found), Counter(x for _, x in found)
    assert won == lost == Counter(dict.fromkeys(letters, (num_items - 1) // 2))
    assert {(letters.index(x) - letters.index(w)) % num_items for w, x in found} == set(
        range(1, num_items // 2 + 1)
    )
    check_completions(records.rows(np.arange(len(records))), items_tokenizer().vocab_size)
    assert len(set(records.group)) == len(records)


@pytest.mark.parametrize("num_items", [1, 2, 4, 27])
def test_errors(num_items):
    with pytest.raises(ValueError, match="expected an odd number from 3 to 25"):
        cyclic_pairs(num_items=num_items)
