"""Scorers that ask a language model about a response: what a user would say next, or yes or no."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpref.judges.base import Policies, Scorer, member_of
from jaxpref.packing import packed, real, repeated
from jaxpref.policies.base import Policy
from jaxpref.sampling import EndIds, is_end
from jaxpref.types import Completions, Params

__all__ = ["follow_up_likelihood", "implicit_preference"]

Ids = Sequence[int]


def follow_up_likelihood(
    policy: Policy,
    *,
    positive: Sequence[Ids],
    negative: Sequence[Ids],
    separator: Ids = (),
    eos_id: EndIds = None,
    member: str = "judge",
) -> Scorer:
    """Mean log-likelihood of good follow-ups minus that of bad ones (FLR, arXiv:2409.13948).

    A follow-up is what a user may say after the response ("That helped, thanks"); its log-likelihood is
    teacher-forced and summed over its tokens. The method has 6 categories of about 10 utterances a side: with
    as many in each, the mean of their means is this mean. Exchanging the sides flips the sign.

    *Differs from* the released code, which reads the logits of one position at the ids of all tokens of the
    follow-up.

    Args:
      positive, negative: token ids of each follow-up, without padding; no side may be empty.
      separator: tokens between the response and the follow-up, such as the start of a user's turn.
      eos_id: left out at the end of a response before the conversation goes on, one id or several; None
        keeps what is there.
      member: name of the model that is asked.

    Returns:
      A scorer in nats.

    Raises:
      ValueError: a side is empty, or one of its follow-ups.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> scorer = judges.follow_up_likelihood(tabular(prompts=2, vocab=2), positive=[[0]], negative=[[1]])
      >>> policies = {"judge": {"logits": jnp.array([[1.0, 0.0], [0.0, 3.0]])}}  # after tokens 0 and 1
      >>> tokens = jnp.array([[[0], [1]]])
      >>> print(scorer(policies, Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)))
      [[1.0000 -3.0000]]
    """
    for side, utterances in (("positive", positive), ("negative", negative)):
        if not utterances or not all(len(u) for u in utterances):
            raise ValueError(f"follow_up_likelihood.{side}: expected utterances of at least one token")
    answers = [*positive, *negative]
    weights = np.repeat([1 / len(positive), -1 / len(negative)], [len(positive), len(negative)])
    asked = _answers(policy, answers, (), (), separator, eos_id)

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        logps = asked(member_of(policies, member, "follow_up_likelihood"), completions)
        return logps @ jnp.asarray(weights, logps.dtype)

    return scorer


def implicit_preference(
    policy: Policy,
    *,
    yes_id: int,
    no_id: int,
    before: Ids = (),
    between: Ids = (),
    after: Ids = (),
    eos_id: EndIds = None,
    member: str = "policy",
) -> Scorer:
    """p(yes) / (p(yes) + p(no)) of the next token when asked whether a response is good (arXiv:2502.16182).

    The model reads `before`, prompt, `between`, response, `after`.

    *Differs from* the released code, which adds up the probabilities of every token that the words encode to,
    so that a space token of its own counts for both: here each answer is one token.

    Args:
      yes_id, no_id: tokens of the two answers. eos_id, member: as in `follow_up_likelihood`.

    Returns:
      A scorer in (0, 1).

    Raises:
      ValueError: the answers are not two different tokens of the vocabulary.

    Example:
      >>> from jaxpref.policies.tabular import tabular
      >>> from jaxpref.types import Completions
      >>> scorer = judges.implicit_preference(tabular(prompts=2, vocab=2), yes_id=0, no_id=1)
      >>> policies = {"policy": {"logits": jnp.array([[1.0, 0.0], [0.0, 3.0]])}}  # after tokens 0 and 1
      >>> tokens = jnp.array([[[0], [1]]])
      >>> print(scorer(policies, Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)))
      [[0.7311 0.0474]]
    """
    if yes_id == no_id or not 0 <= min(yes_id, no_id) <= max(yes_id, no_id) < policy.vocab_size:
        raise ValueError(
            f"implicit_preference: expected two ids below {policy.vocab_size}, got {yes_id} and {no_id}"
        )
    asked = _answers(policy, [[yes_id], [no_id]], before, between, after, eos_id)

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        logps = asked(member_of(policies, member, "implicit_preference"), completions)
        return jax.nn.sigmoid(logps[..., 0] - logps[..., 1])

    return scorer


def _answers(policy: Policy, answers: Sequence[Ids], before: Ids, between: Ids, after: Ids, eos_id: EndIds):
    """`(params, completions) -> [b, k, n]`: log-likelihood of each answer after each response."""
    n, width = len(answers), max(len(a) for a in answers)
    tokens = np.zeros((n, width), np.int32)
    for line, answer in zip(tokens, answers, strict=True):
        line[: len(answer)] = answer
    mask = np.arange(width) < np.array([len(a) for a in answers])[:, None]

    token_logps = jax.jit(policy.token_logps)

    def asked(params: Params, completions: Completions) -> Float[Array, "b k n"]:
        b, k, r = completions.response_tokens.shape

        def each_response(array: Array) -> Array:
            return jnp.broadcast_to(array[:, None], (b, k, *array.shape[1:])).reshape(b * k, -1)

        response = completions.response_tokens.reshape(b * k, r)
        said = _said(response, real(completions.response_mask).reshape(b * k, r), eos_id)
        prompt, prompt_mask = packed(
            repeated(before, b * k),
            (each_response(completions.prompt_tokens), each_response(completions.prompt_mask)),
            repeated(between, b * k),
            (response, said),
            repeated(after, b * k),
        )
        records = Completions(
            prompt,
            prompt_mask,
            jnp.broadcast_to(jnp.asarray(tokens)[None], (b * k, n, width)),
            jnp.broadcast_to(jnp.asarray(mask)[None], (b * k, n, width)),
        )
        return token_logps(params, records).sum(-1).reshape(b, k, n)

    return asked


def _said(tokens: Int[Array, "b r"], kept: Bool[Array, "b r"], eos_id: EndIds) -> Bool[Array, "b r"]:
    """Real tokens without the end of sequence that closes them."""
    last = jnp.arange(tokens.shape[1])[None] == kept.sum(-1, keepdims=True) - 1
    return kept & ~(last & is_end(tokens, eos_id))
