"""Judges that are policies with a head: reward models, general and pairwise preference models."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.judges.base import Bank, Judge, head_of, member_of
from jaxpref.judges.pointwise import bradley_terry_judge
from jaxpref.judges.scorers import reward_scorer
from jaxpref.losses.checks import positive
from jaxpref.losses.preference_model import general_preferences
from jaxpref.policies.base import Policy
from jaxpref.types import Completions

__all__ = ["general_preference_judge", "pair_judge", "reward_judge"]


def reward_judge(policy: Policy, *, temperature: float = 1.0, member: str = "judge") -> Judge:
    """sigmoid((r_i - r_j) / temperature) of a policy with one head output; `k` forward passes a prompt."""
    return bradley_terry_judge(reward_scorer(policy, member=member), temperature=temperature)


def general_preference_judge(
    policy: Policy, *, temperature: float = 0.1, normalize: bool = True, member: str = "judge"
) -> Judge:
    """sigmoid(s_ij / temperature) of a general preference model (arXiv:2410.02197): `k` forward passes, and
    cycles are allowed."""
    positive(temperature=temperature)
    name = "general_preference_judge"
    outputs = head_of(policy, name, lambda m: m % 2 == 0, "an even number of outputs")

    def judge(bank: Bank, completions: Completions) -> Float[Array, "b k k"]:
        embeddings = outputs(member_of(bank, member, name), completions)
        return general_preferences(embeddings, temperature=temperature, normalize=normalize)

    return judge


def pair_judge(policy: Policy, *, temperature: float = 1.0, member: str = "judge") -> Judge:
    """sigmoid((s(y_i, y_j) - s(y_j, y_i)) / temperature) of a `policies.comparing` policy: both orders of
    each pair, so position cannot matter; `k (k - 1)` passes."""
    positive(temperature=temperature)
    outputs = head_of(policy, "pair_judge", lambda m: m == 1, "one output")

    def judge(bank: Bank, completions: Completions) -> Float[Array, "b k k"]:
        b, k = completions.lengths.shape
        flat = outputs(member_of(bank, member, "pair_judge"), completions)[..., 0]
        if flat.shape[1] != k * (k - 1):
            raise ValueError("pair_judge: the policy scores single responses; wrap it in policies.comparing")
        order = np.array([(i, j) for i in range(k) for j in range(k) if i != j])
        scores = jnp.zeros((b, k, k), flat.dtype).at[:, order[:, 0], order[:, 1]].set(flat)
        return jax.nn.sigmoid((scores - scores.swapaxes(1, 2)) / temperature)

    return judge
