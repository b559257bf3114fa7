"""Judges: which of `k` responses to a prompt beats which. One contract for all of them.

A judge maps `(params, completions)` to `P [b, k, k]`, `P[:, i, j]` the probability that response i beats
response j, with `P + P^T = 1` and one half on the diagonal. That is what online methods and evaluations take;
how it is found (a scalar reward, a preference model that may be cyclic, a rule) is the judge's business.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.losses.preference_model import bradley_terry_preferences, general_preferences
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params

__all__ = ["Judge", "general_preference_judge", "pair_judge", "reward_judge", "rule_judge"]


class Judge(Protocol):
    def __call__(self, params: Params, completions: Completions) -> Float[Array, "b k k"]: ...


def reward_judge(policy: Policy, *, temperature: float = 1.0) -> Judge:
    """sigmoid((r_i - r_j) / temperature) of a policy with one head output; `k` forward passes a prompt."""
    outputs = _outputs(policy, "reward_judge", lambda m: m == 1, "one output")

    def judge(params: Params, completions: Completions) -> Float[Array, "b k k"]:
        rewards = outputs(params, completions, ("embeddings",), None)["embeddings"][..., 0]
        return bradley_terry_preferences(rewards, temperature=temperature)

    return judge


def general_preference_judge(policy: Policy, *, temperature: float = 0.1, normalize: bool = True) -> Judge:
    """sigmoid(s_ij / temperature) of a general preference model (arXiv:2410.02197): `k` forward passes, and
    cycles are allowed."""
    outputs = _outputs(policy, "general_preference_judge", lambda m: m % 2 == 0, "an even number of outputs")

    def judge(params: Params, completions: Completions) -> Float[Array, "b k k"]:
        embeddings = outputs(params, completions, ("embeddings",), None)["embeddings"]
        return general_preferences(embeddings, temperature=temperature, normalize=normalize)

    return judge


def pair_judge(policy: Policy, *, temperature: float = 1.0) -> Judge:
    """sigmoid((s(y_i, y_j) - s(y_j, y_i)) / temperature) of a `policies.comparing` policy: both orders of
    each pair, so position cannot matter; `k (k - 1)` passes."""
    outputs = _outputs(policy, "pair_judge", lambda m: m == 1, "one output")

    def judge(params: Params, completions: Completions) -> Float[Array, "b k k"]:
        b, k = completions.lengths.shape
        flat = outputs(params, completions, ("embeddings",), None)["embeddings"][..., 0]
        if flat.shape[1] != k * (k - 1):
            raise ValueError("pair_judge: the policy scores single responses; wrap it in policies.comparing")
        order = np.array([(i, j) for i in range(k) for j in range(k) if i != j])
        scores = jnp.zeros((b, k, k), flat.dtype).at[:, order[:, 0], order[:, 1]].set(flat)
        return jax.nn.sigmoid((scores - scores.swapaxes(1, 2)) / temperature)

    return judge


def rule_judge(rule: Callable[[Completions], Float[Array, "b k"]]) -> Judge:
    """The response with the higher score of a rule wins for sure; equal scores are a tie (one half)."""

    def judge(params: Params, completions: Completions) -> Float[Array, "b k k"]:
        del params
        scores = jnp.asarray(rule(completions))
        difference = scores[:, :, None] - scores[:, None]
        return (jnp.sign(difference).astype(jnp.float32) + 1) / 2

    return judge


def _outputs(policy: Policy, name: str, fits: Callable[[int], bool], wanted: str):
    if policy.quantities is None or not policy.outputs or not fits(policy.outputs):
        raise ValueError(f"{name}: expected a policy whose head has {wanted}, got {policy.outputs}")
    return policy.quantities
