"""A softmax over actions for each state of a finite world: the policy of exact oracles."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.policies.base import Policy, answers_no_prompts, categorical
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["check_states", "state_table"]


def check_states(records: Any, *, states: int, terminal: Any = None) -> None:
    """Host side: `data.SegmentRecords` whose steps are in a world of so many states, and not after its end.

    Args:
      terminal: bool [states]; None: steps may be anywhere.

    Raises:
      ValueError: the records are no numbered states, a number is of no state, or a step is from a terminal
        state, where nothing is done.
    """
    observations = np.asarray(getattr(records, "observations", 0.0))
    if observations.ndim != 3 or observations.dtype.kind not in "iu":
        raise ValueError(
            f"records: expected segments of numbered states [n, k, t] of integers, got "
            f"{type(records).__name__} with observations {observations.dtype} {observations.shape}"
        )
    steps = np.arange(observations.shape[2]) < records.step_lengths[..., None]
    unknown = steps & ((observations < 0) | (observations >= states))
    if unknown.any():
        row, k, t = np.argwhere(unknown)[0]
        raise ValueError(
            f"records: row {row}, segment {k}, step {t} is in state {observations[row, k, t]}, and the world "
            f"has states 0 to {states - 1}: were they made in another world?"
        )
    if terminal is None:
        return
    over = steps & np.asarray(terminal)[np.where(steps, observations, 0)]
    if over.any():
        row, k, t = np.argwhere(over)[0]
        raise ValueError(
            f"records: row {row}, segment {k}, step {t} acts in state {observations[row, k, t]}, which is "
            "terminal: end segments with the step that arrives there"
        )


def state_table(*, states: int, actions: int, initial: Any = None, param_dtype: str = "float32") -> Policy:
    """Free logits for each action in each state, on `Segments` of numbered states and actions.

    Params are `{"logits": [states, actions]}`; log-probs are as good as any logits with the same softmax.

    Args:
      initial: logits that `init` returns, nested sequences or an array; None: zeros.
      param_dtype: "float32", or "float64" where 64-bit types are on.
    """
    if states < 1 or actions < 1:
        raise ValueError(f"state_table: expected states and actions, got {states} and {actions}")
    given = np.zeros((states, actions)) if initial is None else np.asarray(initial, np.float64)
    if given.shape != (states, actions):
        raise ValueError(f"state_table.initial: expected {(states, actions)}, got {given.shape}")

    def init(key: PRNGKey) -> Params:
        del key
        return {"logits": jnp.asarray(given, param_dtype)}

    def token_logps(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        logps = jax.nn.log_softmax(params["logits"], -1)
        return jnp.where(batch.mask, logps[batch.observations, batch.actions], 0)

    def act(params: Params, observations: Int[Array, "*rows"], key: PRNGKey | None) -> Int[Array, "*rows"]:
        logits = params["logits"][observations]
        return logits.argmax(-1) if key is None else categorical(key, logits)

    return Policy(
        init,
        token_logps,
        sample=answers_no_prompts,
        axes=lambda: {"logits": (None, None)},
        flops=lambda batch: 0.0,
        vocab_size=actions,
        act=act,
        check=partial(check_states, states=states),
    )
