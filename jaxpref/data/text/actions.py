"""Responses of one token each: records and a tokenizer for tabular policies, as of bandits and games."""

import dataclasses
from collections.abc import Sequence

from jaxpref.data.records import Example, Records
from jaxpref.data.text.tokenizers.base import Tokenizer, digest

__all__ = ["action_pairs", "actions_tokenizer"]


@dataclasses.dataclass(frozen=True)
class _Actions:
    num_actions: int
    bos_id: int | None = None
    pad_id: int = 0

    @property
    def vocab_size(self) -> int:
        return self.num_actions

    @property
    def eos_id(self) -> int:
        return self.num_actions  # no token of a response: all have one token

    @property
    def fingerprint(self) -> str:
        return digest("actions", str(self.num_actions))

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(int(i)) for i in ids)


def actions_tokenizer(*, num_actions: int) -> Tokenizer:
    """Numbers from 0 to `num_actions - 1`, written in decimals; there are no special tokens."""
    return _Actions(num_actions)


def action_pairs(
    *, num_prompts: int = 1, num_actions: int = 2, pairs: Sequence[Sequence[int]] = ()
) -> Records:
    """Each prompt (one token, its number) with each pair of responses (one token each), chosen first.

    Args:
      pairs: (chosen, rejected). By default all ordered pairs of different responses, which carry no
        preference: for methods that read only the prompts and have a judge.

    Raises:
      ValueError: a pair is not two numbers from 0 to `num_actions - 1`.
    """
    tokenizer = actions_tokenizer(num_actions=num_actions)
    every = [(i, j) for i in range(num_actions) for j in range(num_actions) if i != j]
    chosen = [tuple(pair) for pair in pairs] or every
    odd = [pair for pair in chosen if len(pair) != 2 or not all(0 <= i < num_actions for i in pair)]
    if odd:
        raise ValueError(f"pairs: expected (chosen, rejected) from 0 to {num_actions - 1}, got {odd[0]}")
    examples = [Example([x], ([i], [j]), x) for x in range(num_prompts) for i, j in chosen]
    metadata = {
        "vocab_size": max(num_actions, num_prompts),
        "tokenizer": tokenizer.fingerprint,
        "pad_id": tokenizer.pad_id,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "source": {
            "kind": "action_pairs",
            "num_prompts": num_prompts,
            "num_actions": num_actions,
            "pairs": chosen,
        },
    }
    return Records.from_examples(examples, metadata)
