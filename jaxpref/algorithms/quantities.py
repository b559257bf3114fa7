"""The arrays that a loss asks for: one forward pass of the policy, one of the reference, and no more."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.algorithms.inputs import HEAD_QUANTITIES, TOKEN_QUANTITIES, Input, recorded
from jaxpref.kernels.token_logps import KL
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params

__all__ = ["Features", "Source"]

Features = Callable[[Params, Any], Mapping[str, Array]]  # of `Completions` or `Segments`


@dataclasses.dataclass(frozen=True)
class Source:
    """Where inputs come from: a policy, and perhaps features of your own (both of policy and reference)."""

    policy: Policy
    inputs: tuple[Input, ...]
    reference: str | None
    features: Features | None = None

    def _wants(self, *bases: str, reference: bool) -> tuple[str, ...]:
        named = {i.base for i in self.inputs if i.reference == reference}
        return tuple(base for base in bases if base in named)

    def of_policy(self, params: Params, bank: Mapping[str, Params], batch: Completions) -> dict[str, Any]:
        """Quantities under the policy, and what the batch holds."""
        found = recorded(batch, self.inputs)
        against = bank.get(self.reference or "") if self._wants(*KL, reference=False) else None
        found |= self._computed(params, batch, reference=False, against=against)
        if self.features is not None:
            found |= self.features(params, batch)
        return found

    def of_reference(self, bank: Mapping[str, Params], batch: Completions) -> dict[str, Array]:
        """The same under the reference, constants all."""
        if self.reference is None:
            return {}
        if self.reference == "batch":
            if batch.reference_logps is None:
                raise ValueError(
                    "reference='batch' but the records have no column reference_logps; write it with "
                    "`jaxpref prepare FILE records=DIR --reference`, or set reference='initial'"
                )
            return {"logps": batch.reference_logps}
        params = bank[self.reference]
        found = self._computed(params, batch, reference=True, against=None)
        if self.features is not None:
            found |= self.features(params, batch)
        return jax.lax.stop_gradient(found)

    def _computed(
        self, params: Params, batch: Completions, *, reference: bool, against: Params | None
    ) -> dict[str, Array]:
        policy = self.policy
        tokens = self._wants("logps", *TOKEN_QUANTITIES, reference=reference)
        heads = self._wants(*HEAD_QUANTITIES, reference=reference)
        # A pass with one side's log-probs reports the other's too: rewards are their difference.
        if not heads and not tokens:
            tokens = ("logps",)
        names = tuple(n for n in tokens if n not in ("logps", "token_logps"))
        names += ("values",) if "values" in heads else ()
        names += ("embeddings",) if set(heads) - {"values"} else ()
        if names and policy.quantities is not None:
            names += ("token_logps",) if tokens else ()
            found = dict(policy.quantities(params, batch, names, against))
        else:
            found = {"token_logps": policy.token_logps(params, batch)}
        if "token_logps" in found:
            found["logps"] = found["token_logps"].sum(-1)
        if "rewards" in heads:
            found["rewards"] = one_output(found["embeddings"])
        if self._wants("mismatched_logps", reference=reference):
            rolled = mismatched(batch)
            found["mismatched_logps"] = jax.lax.stop_gradient(policy.token_logps(params, rolled).sum(-1))
        return found


def one_output(embeddings: Array) -> Array:
    """`[b, k, 1]` to `[b, k]`."""
    if embeddings.shape[-1] != 1:
        raise ValueError(
            f"rewards: the policy's head has {embeddings.shape[-1]} outputs and a reward is one; set "
            "outputs=1, or use a loss of embeddings"
        )
    return embeddings[..., 0]


def mismatched(batch: Completions) -> Completions:
    """Each prompt with the responses of the next real row (the first one after the last): KTO's rotation."""
    rows = jnp.arange(len(batch.valid))
    following = jnp.roll(rows, -1)
    following = jnp.where(batch.valid[following], following, jnp.argmax(batch.valid))
    return dataclasses.replace(
        batch,
        response_tokens=batch.response_tokens[following],
        response_mask=batch.response_mask[following] & batch.valid[:, None, None],
    )
