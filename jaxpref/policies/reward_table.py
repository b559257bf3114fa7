"""A reward for every response of one token: a critic, or a reward model, small enough to read."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxpref.policies.base import Policy, answers_no_prompts, no_log_probs
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["reward_table"]


def reward_table(*, prompts: int, vocab: int, initial: Any = None) -> Policy:
    """Params `{"rewards": [prompts, vocab]}`; the one output for a response is its entry. It has no samples.

    Prompts and responses are numbers, as in `policies.tabular` with `length=1`, beside which it stands.

    Args:
      initial: rewards that `init` returns; None: all 0.
    """
    if prompts < 1 or vocab < 1:
        raise ValueError(f"reward_table: prompts and vocab must be at least 1, got {prompts} and {vocab}")
    given = np.zeros((prompts, vocab)) if initial is None else np.asarray(initial, np.float64)
    if given.shape != (prompts, vocab):
        raise ValueError(f"reward_table.initial: expected shape {(prompts, vocab)}, got {given.shape}")

    def init(key: PRNGKey) -> Params:
        del key
        return {"rewards": jnp.asarray(given, jnp.float32)}

    def quantities(params: Params, batch: Completions, names: tuple[str, ...], *_: Any) -> dict[str, Array]:
        if set(names) != {"embeddings"} or batch.response_tokens.shape[-1] != 1:
            raise ValueError(f"reward_table: has rewards of one token each, and no {', '.join(names)}")
        last = jnp.maximum(batch.prompt_mask.sum(-1) - 1, 0)
        which = jnp.take_along_axis(batch.prompt_tokens, last[:, None], 1)
        return {"embeddings": params["rewards"][which, batch.response_tokens[..., 0]][..., None]}

    return Policy(
        init=init,
        token_logps=no_log_probs,
        sample=answers_no_prompts,
        axes=lambda: {"rewards": (None, None)},
        flops=lambda batch: float(batch.response_tokens.size),
        vocab_size=max(prompts, vocab),
        quantities=quantities,
        offers=("embeddings",),
        outputs=1,
    )
