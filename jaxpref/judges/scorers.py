"""Scorers of single responses: a reward head, log-ratios of policies, a rule."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.judges.base import Policies, Scorer, head_of, member_of
from jaxpref.losses.checks import positive
from jaxpref.packing import packed, repeated
from jaxpref.policies.base import Policy
from jaxpref.types import Completions

__all__ = ["density_ratio", "implicit_reward", "reward_scorer", "rule_scorer"]


def reward_scorer(policy: Policy, *, member: str = "judge") -> Scorer:
    """The output of a policy with one head output: a reward model.

    Args:
      member: name of its params.

    Returns:
      A scorer, in the unit of the rewards.

    Raises:
      ValueError: the head has another number of outputs.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> read = lambda params, batch, *_: {"embeddings": params[batch.response_tokens]}  # reward of a token
      >>> scorer = judges.reward_scorer(tabular(prompts=1, vocab=2)._replace(outputs=1, quantities=read))
      >>> tokens = jnp.array([[[0], [1]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(scorer({"judge": jnp.array([3.0, 2.0])}, batch))
      [[3.0000 2.0000]]
    """
    outputs = head_of(policy, "reward_scorer", lambda m: m == 1, "one output")

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        return outputs(member_of(policies, member, "reward_scorer"), completions)[..., 0]

    return scorer


def implicit_reward(
    policy: Policy, *, beta: float = 0.1, member: str = "policy", reference: str = "initial"
) -> Scorer:
    """beta (log pi(y|x) - log pi_ref(y|x)): the reward that DPO fits (arXiv:2305.18290).

    Rewards of one prompt are known up to a constant of that prompt: compare responses to the same one only.

    Args:
      beta: above 0. member, reference: names of pi and pi_ref.

    Returns:
      A scorer, in nats times beta.

    Raises:
      ValueError: `beta` is not above 0.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> tuned, start = jnp.log(jnp.array([[0.9, 0.1]])), jnp.log(jnp.array([[0.5, 0.5]]))
      >>> policies = {"policy": {"logits": tuned}, "initial": {"logits": start}}
      >>> tokens = jnp.array([[[0], [1]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(judges.implicit_reward(tabular(prompts=1, vocab=2))(policies, batch))  # log(1.8) / 10 first
      [[0.0588 -0.1609]]
    """
    positive(beta=beta)
    ratio = density_ratio(policy, strong=member, weak=reference)

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        return beta * ratio(policies, completions)

    return scorer


def density_ratio(
    policy: Policy,
    *,
    weak_policy: Policy | None = None,
    strong: str = "strong",
    weak: str = "weak",
    instruction: Sequence[int] = (),
    per_token: bool = False,
) -> Scorer:
    """log pi_strong(y|x) - log pi_weak(y|x): customised density ratio (CDR, arXiv:2411.02481).

    A strong model that was aligned against a weak one prefers what the weak one lacks; an instruction in
    front of the strong model's prompt says of which domain. The method's released models are
    Nous-Hermes-2-Mistral-DPO over OpenHermes-2.5. Equal models score 0.

    *Differs from* the released code, where models with different tokenizers each sum over their own tokens:
    here both read the same tokens.

    Args:
      policy: of the strong model, and of the weak one unless `weak_policy` is given.
      strong, weak: names of their params. per_token: divide by the number of scored tokens.
      instruction: tokens in front of the prompt, for the strong model alone.

    Returns:
      A scorer, in nats (for each token with `per_token`).

    Raises:
      ValueError: the two policies have vocabularies of different sizes.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> high, low = jnp.log(jnp.array([[0.9, 0.1]])), jnp.log(jnp.array([[0.5, 0.5]]))
      >>> both, tokens = {"strong": {"logits": high}, "weak": {"logits": low}}, jnp.array([[[0], [1]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(judges.density_ratio(tabular(prompts=1, vocab=2))(both, batch))  # log(1.8), log(0.2)
      [[0.5878 -1.6094]]
    """
    other = policy if weak_policy is None else weak_policy
    if other.vocab_size != policy.vocab_size:
        raise ValueError(
            f"density_ratio: expected one vocabulary, got {policy.vocab_size} and {other.vocab_size}; both "
            "models read the same tokens"
        )

    low_logps, high_logps = jax.jit(other.token_logps), jax.jit(policy.token_logps)

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        low = low_logps(member_of(policies, weak, "density_ratio"), completions)
        instructed = completions
        if len(instruction):
            part = repeated(instruction, completions.prompt_tokens.shape[0])
            tokens, mask = packed(part, (completions.prompt_tokens, completions.prompt_mask))
            instructed = _with_prompts(completions, tokens, mask)
        high = high_logps(member_of(policies, strong, "density_ratio"), instructed)
        ratio = (high - low).sum(-1)
        return ratio / jnp.maximum(completions.lengths, 1) if per_token else ratio

    return scorer


def rule_scorer(rule: Callable[[Completions], Float[Array, "b k"]]) -> Scorer:
    """A score that needs no policy, such as a rule about tokens.

    Returns:
      A scorer, in the unit of the rule, without gradient.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[5, 6], [7, 0]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> print(judges.rule_scorer(lambda batch: batch.lengths)({}, batch))
      [[2 1]]
    """

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        del policies
        return jax.lax.stop_gradient(jnp.asarray(rule(completions)))

    return scorer


def _with_prompts(completions: Completions, tokens: Array, mask: Array) -> Completions:
    return Completions(tokens, mask, completions.response_tokens, completions.response_mask)
