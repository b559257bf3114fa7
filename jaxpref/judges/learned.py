"""Judges that are policies with a head: reward models, general and pairwise preference models."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.judges.base import Judge, Policies, head_of, member_of
from jaxpref.judges.pointwise import bradley_terry_judge
from jaxpref.judges.scorers import reward_scorer
from jaxpref.losses.checks import positive
from jaxpref.losses.preference_model import general_preferences
from jaxpref.policies.base import Policy
from jaxpref.types import Completions

__all__ = ["general_preference_judge", "pair_judge", "reward_judge"]


def reward_judge(policy: Policy, *, temperature: float = 1.0, member: str = "judge") -> Judge:
    """sigmoid((r_i - r_j) / temperature) of a policy with one head output; `k` forward passes a prompt.

    Args:
      temperature: above 0, in the unit of the rewards. member: name of its params.

    Returns:
      A judge.

    Raises:
      ValueError: `temperature` is not above 0, or the head has another number of outputs.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> read = lambda params, batch, *_: {"embeddings": params[batch.response_tokens]}  # reward of a token
      >>> judge = judges.reward_judge(tabular(prompts=1, vocab=2)._replace(outputs=1, quantities=read))
      >>> tokens = jnp.array([[[0], [1]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(judge({"judge": jnp.array([3.0, 2.0])}, batch)[0])  # sigmoid(3 - 2)
      [[0.5000 0.7311]
       [0.2689 0.5000]]
    """
    return bradley_terry_judge(reward_scorer(policy, member=member), temperature=temperature)


def general_preference_judge(
    policy: Policy, *, temperature: float = 0.1, normalize: bool = True, member: str = "judge"
) -> Judge:
    """sigmoid(s_ij / temperature) of a general preference model, which allows cycles (arXiv:2410.02197).

    It takes `k` forward passes a prompt.

    Args:
      temperature: above 0, in the unit of the scores s.
      normalize: whether embeddings are scaled to length 1. member: name of its params.

    Returns:
      A judge.

    Raises:
      ValueError: `temperature` is not above 0, or the head has an odd number of outputs.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> read = lambda params, batch, *_: {"embeddings": params[batch.response_tokens[..., 0]]}
      >>> policy = tabular(prompts=1, vocab=2)._replace(outputs=2, quantities=read)
      >>> tokens, policies = jnp.array([[[0], [1]]]), {"judge": jnp.eye(2)}  # a quarter turn apart: s = 1
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(judges.general_preference_judge(policy, temperature=1.0)(policies, batch)[0])
      [[0.5000 0.7311]
       [0.2689 0.5000]]
    """
    positive(temperature=temperature)
    name = "general_preference_judge"
    outputs = head_of(policy, name, lambda m: m % 2 == 0, "an even number of outputs")

    def judge(policies: Policies, completions: Completions) -> Float[Array, "b k k"]:
        embeddings = outputs(member_of(policies, member, name), completions)
        return general_preferences(embeddings, temperature=temperature, normalize=normalize)

    return judge


def pair_judge(policy: Policy, *, temperature: float = 1.0, member: str = "judge") -> Judge:
    """sigmoid((s(y_i, y_j) - s(y_j, y_i)) / temperature) of a `policies.comparing` policy.

    It reads both orders of each pair, so position cannot matter: `k (k - 1)` passes a prompt.

    Args:
      temperature: above 0, in the unit of the scores. member: name of its params.

    Returns:
      A judge.

    Raises:
      ValueError: `temperature` is not above 0, the head has another number of outputs, or (when it judges)
        the policy scores single responses.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> read = lambda params, batch, *_: {"embeddings": params[None, :, None]}  # of the orders 01 and 10
      >>> judge = judges.pair_judge(tabular(prompts=1, vocab=2)._replace(outputs=1, quantities=read))
      >>> tokens = jnp.array([[[0], [1]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(judge({"judge": jnp.array([3.0, 2.0])}, batch)[0])  # sigmoid(3 - 2)
      [[0.5000 0.7311]
       [0.2689 0.5000]]
    """
    positive(temperature=temperature)
    outputs = head_of(policy, "pair_judge", lambda m: m == 1, "one output")

    def judge(policies: Policies, completions: Completions) -> Float[Array, "b k k"]:
        b, k = completions.lengths.shape
        flat = outputs(member_of(policies, member, "pair_judge"), completions)[..., 0]
        if flat.shape[1] != k * (k - 1):
            raise ValueError("pair_judge: the policy scores single responses; wrap it in policies.comparing")
        order = np.array([(i, j) for i in range(k) for j in range(k) if i != j])
        scores = jnp.zeros((b, k, k), flat.dtype).at[:, order[:, 0], order[:, 1]].set(flat)
        return jax.nn.sigmoid((scores - scores.swapaxes(1, 2)) / temperature)

    return judge
