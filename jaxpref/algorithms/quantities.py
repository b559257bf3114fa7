"""The arrays that a loss asks for: one forward pass of the policy, one of the reference, and no more."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.algorithms.inputs import HEAD_QUANTITIES, TOKEN_QUANTITIES, Input, recorded
from jaxpref.kernels.token_logps import KL
from jaxpref.policies.base import Policy, no_log_probs
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["Features", "Source"]

# Of `Completions` or `Segments`; the key is the one of `Policy.quantities`.
Features = Callable[[Params, Any, PRNGKey | None], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Where inputs come from: a policy, and perhaps features of your own (both of policy and reference)."""

    policy: Policy
    inputs: tuple[Input, ...]
    reference: str | None
    features: Features | None = None

    def of_policy(
        self, params: Params, others: Mapping[str, Params], batch: Completions, key: PRNGKey | None
    ) -> dict[str, Any]:
        """Quantities under the policy, and the columns of the batch."""
        values = recorded(batch, self.inputs)
        named = {i.base for i in self.inputs if not i.reference}
        against = others.get(self.reference or "") if named & set(KL) else None
        values |= self._computed(params, batch, named, against, key)
        if self.features is not None:
            values |= self.features(params, batch, key)
        return values

    def of_reference(
        self, others: Mapping[str, Params], batch: Completions, key: PRNGKey | None
    ) -> dict[str, Array]:
        """The same under the reference, without gradients."""
        if self.reference is None:
            return {}
        if self.reference == "batch":
            if batch.reference_logps is None:
                raise ValueError(
                    "reference='batch' but the records have no column reference_logps; write it with "
                    "`jaxpref prepare FILE records=DIR --reference` and the same reference=batch, or set "
                    "reference='initial'"
                )
            return {"logps": batch.reference_logps}
        params = others[self.reference]
        named = {i.base for i in self.inputs if i.reference}
        values = self._computed(params, batch, named, None, key)
        if self.features is not None:
            values |= self.features(params, batch, key)
        return jax.lax.stop_gradient(values)

    def _computed(
        self,
        params: Params,
        batch: Completions,
        named: set[str],
        against: Params | None,
        key: PRNGKey | None,
    ) -> dict[str, Array]:
        policy, values = self.policy, {}
        names = tuple(name for name in policy.offers if name in named)
        if "rewards" in named and "embeddings" not in names:
            names += ("embeddings",)
        # Rewards that are reported are differences of log-probs, unless a head gives them.
        log_probs = bool(named & {"logps", *TOKEN_QUANTITIES}) or not set(names) & set(HEAD_QUANTITIES)
        log_probs &= policy.token_logps is not no_log_probs
        if names and policy.quantities is not None:
            names += ("token_logps",) if log_probs else ()
            values = dict(policy.quantities(params, batch, names, against, key))
        elif log_probs:
            values = {"token_logps": policy.token_logps(params, batch)}
        if "token_logps" in values:
            values["logps"] = values["token_logps"].sum(-1)
        if "rewards" in named:
            values["rewards"] = one_output(values["embeddings"])
        if "mismatched_logps" in named:
            rolled = mismatched(batch)
            values["mismatched_logps"] = jax.lax.stop_gradient(policy.token_logps(params, rolled).sum(-1))
        return values


def one_output(embeddings: Array) -> Array:
    """`[b, k, 1]` to `[b, k]`."""
    if embeddings.shape[-1] != 1:
        raise ValueError(
            f"rewards: the policy's head has {embeddings.shape[-1]} outputs and a reward is one; set "
            "outputs=1, or use a loss of embeddings"
        )
    return embeddings[..., 0]


def mismatched(batch: Completions) -> Completions:
    """Each prompt with the responses of other rows: KTO's rotation. A response that counts meets that of the
    next row (the first one after the last) where there is one in its place, so absent ones meet nobody."""
    counts = batch.response_weights > 0
    rows = jnp.arange(len(counts))
    distance = (rows[None] - rows[:, None] - 1) % len(rows)  # from each row on to each other, itself last
    reached = jnp.where(counts[None], distance[..., None], len(rows))
    following = reached.argmin(1)  # [b, k]
    place = jnp.arange(counts.shape[1])[None]
    return dataclasses.replace(
        batch,
        response_tokens=batch.response_tokens[following, place],
        response_mask=batch.response_mask[following, place] & counts[..., None],
    )
