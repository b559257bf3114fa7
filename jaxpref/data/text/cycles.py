"""Cyclic preferences: items of which each beats the ones that follow it on a circle."""

import numpy as np

from jaxpref.data.records import Example, Records
from jaxpref.data.text.tokenizers import Tokenizer, characters_tokenizer

__all__ = ["cyclic_pairs", "items_tokenizer"]

_LETTERS = "abcdefghijklmnopqrstuvwxy"


def items_tokenizer() -> Tokenizer:
    """One id for each item, and one for the prompt."""
    return characters_tokenizer(_LETTERS + "?")


def cyclic_pairs(*, num_items: int = 3) -> Records:
    """Every pair of `num_items` items (an odd number), chosen first: each beats the (num_items - 1) / 2 next.

    Every item wins as often as it loses, so scores of single items cannot represent the preferences: their
    likelihood is highest where all scores are equal, with a loss of log 2 nats per pair.
    """
    if num_items < 3 or num_items % 2 == 0 or num_items > len(_LETTERS):
        raise ValueError(f"num_items: expected an odd number from 3 to {len(_LETTERS)}, got {num_items}")
    tokenizer = items_tokenizer()
    item = [tokenizer.encode(letter) for letter in _LETTERS[:num_items]]
    prompt = tokenizer.encode("?")
    pairs = [(i, (i + step) % num_items) for i in range(num_items) for step in range(1, num_items // 2 + 1)]
    examples = [Example(prompt, (item[i], item[j]), group) for group, (i, j) in enumerate(pairs)]
    metadata = {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "pad_id": tokenizer.pad_id,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "source": {"kind": "cyclic_pairs", "num_items": num_items},
    }
    order = np.random.default_rng(0).permutation(len(examples))
    return Records.from_examples(examples, metadata).take(order)
