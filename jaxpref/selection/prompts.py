"""Prompts with tokens put around them, and pairs whose two responses were drawn under different ones."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxpref.packing import packed, repeated
from jaxpref.selection.gather import append_responses, take_responses
from jaxpref.types import Completions, Prompts

__all__ = ["affixed", "contrastive_pair"]


def affixed(
    prompts: Prompts, *, prefix: Sequence[int] = (), suffix: Sequence[int] = (), keep_first: int = 0
) -> Prompts:
    """Prompts with `prefix` in front and `suffix` behind.

    Args:
      prefix, suffix: token ids, the same for all prompts.
      keep_first: tokens of the prompt that stay in front of the prefix; 1 for BOS.

    Returns:
      Prompts of width `p + len(prefix) + len(suffix)`, right-padded.

    Raises:
      ValueError: `keep_first` is not in [0, p].

    Example:
      >>> from jaxpref.types import Prompts
      >>> prompts = Prompts(jnp.array([[1, 5, 0]]), jnp.array([[True, True, False]]))  # BOS is 1
      >>> print(selection.affixed(prompts, prefix=[7], suffix=[9], keep_first=1).prompt_tokens)
      [[1 7 5 9 0]]
    """
    rows, width = prompts.prompt_tokens.shape
    if not 0 <= keep_first <= width:
        raise ValueError(f"keep_first: expected 0 to {width} tokens of the prompt, got {keep_first}")
    tokens, mask = prompts.prompt_tokens, prompts.prompt_mask
    return Prompts(
        *packed(
            (tokens[:, :keep_first], mask[:, :keep_first]),
            repeated(prefix, rows),
            (tokens[:, keep_first:], mask[:, keep_first:]),
            repeated(suffix, rows),
        )
    )


def contrastive_pair(prompts: Prompts, positive: Completions, negative: Completions) -> Completions:
    """The first response drawn under good affixes, chosen, and the first under bad ones: no label is asked.

    Reinforcement learning from contrast distillation (RLCD, arXiv:2307.12950). The record holds `prompts`
    without affixes, which is what a preference model or policy learns from; log-probs under the affixed
    prompts are left out, in columns too.

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: the three have different numbers of rows.

    Example:
      >>> from jaxpref.types import Completions
      >>> good, bad = jnp.array([[[5], [6]]]), jnp.array([[[7], [8]]])  # two samples under each
      >>> sides = [Completions(t[:, 0], t[:, 0] > 0, t, t > 0) for t in (good, bad)]
      >>> pair = selection.contrastive_pair(sides[0].prompts, *sides)
      >>> print(pair.response_tokens[..., 0])
      [[5 7]]
    """
    sides = []
    for name, side in (("positive", positive), ("negative", negative)):
        if len(side.prompt_tokens) != len(prompts.prompt_tokens):
            raise ValueError(
                f"contrastive_pair: {name} has {len(side.prompt_tokens)} rows for "
                f"{len(prompts.prompt_tokens)} prompts"
            )
        first = jnp.zeros((len(side.prompt_tokens), 1), jnp.int32)
        bare = Completions(
            prompts.prompt_tokens, prompts.prompt_mask, side.response_tokens, side.response_mask
        )
        sides.append(take_responses(bare, first))
    return append_responses(*sides)
