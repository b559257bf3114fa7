"""All responses of a few tokens as a complete tree: prefixes have numbers, leaves are listed.

Prefixes are ordered by their length, then as numbers in base `vocab`: the empty one, `0`, `1`, ..., `00`,
`01`, ...
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxpref.sampling import EndIds, end_ids
from jaxpref.types import Completions, Prompts

__all__ = ["ResponseTree"]


@dataclasses.dataclass(frozen=True)
class ResponseTree:
    """Responses of up to `length` tokens out of `vocab`."""

    vocab: int
    length: int
    eos_id: EndIds  # what ends a response and counts as part of it; None: all have `length` tokens
    pad_id: int  # fills what comes after it

    @property
    def prefixes(self) -> int:
        """How many there are that another token may follow."""
        return sum(self.vocab**n for n in range(self.length))

    def child(self, node: Int[Array, "*rows"], token: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
        """Number of the prefix that is prefix `node` followed by `token`."""
        return node * self.vocab + 1 + token

    def before(self, tokens: Int[Array, "b k r"]) -> Int[Array, "b k r"]:
        """Number of the prefix before each token."""
        nodes = [jnp.zeros(tokens.shape[:2], jnp.int32)]
        for place in range(tokens.shape[-1] - 1):
            nodes.append(self.child(nodes[-1], tokens[..., place]))
        return jnp.stack(nodes, -1)

    def responses(self, prompts: Prompts) -> Completions:
        """All of them to each prompt, in lexicographic order of their tokens."""
        tokens = np.indices((self.vocab,) * self.length).reshape(self.length, -1).T
        mask = np.ones(tokens.shape, bool)
        mask[:, 1:] = np.cumsum(np.isin(tokens, end_ids(self.eos_id)), 1)[:, :-1] == 0
        kept = ((tokens == 0) | mask).all(1)  # of those that differ after their end only, one
        tokens, mask = np.where(mask, tokens, self.pad_id)[kept], mask[kept]
        shape = (prompts.prompt_tokens.shape[0], *tokens.shape)
        return Completions(
            prompts.prompt_tokens,
            prompts.prompt_mask,
            jnp.broadcast_to(jnp.asarray(tokens, jnp.int32), shape),
            jnp.broadcast_to(jnp.asarray(mask), shape),
            columns=prompts.columns,
            column_axes=prompts.column_axes,
        )
