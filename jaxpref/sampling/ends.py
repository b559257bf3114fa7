"""Which tokens end a response: one, or several, as those of Llama 3 (`<|end_of_text|>`, `<|eot_id|>`)."""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

__all__ = ["EndIds", "end_ids", "is_end"]

EndIds = int | Sequence[int] | None  # None: nothing ends a response but its length


def end_ids(given: EndIds) -> tuple[int, ...]:
    """The ids in a tuple, each once; empty for None."""
    if given is None:
        return ()
    return tuple(dict.fromkeys([given] if isinstance(given, int) else given))


def is_end(tokens: Int[Array, "*rows"], ids: EndIds) -> Bool[Array, "*rows"]:
    """Which tokens are among the ids."""
    same = [tokens == one for one in end_ids(ids)]
    return functools.reduce(operator.or_, same) if same else jnp.zeros(tokens.shape, bool)
