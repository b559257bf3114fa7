"""How far a policy has moved from another, measured on what it samples."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpref.evals.base import Context, Evaluation
from jaxpref.evals.intervals import clustered, difference
from jaxpref.evals.sampling import draw, prompts_of

__all__ = ["sampled_kl"]


def sampled_kl(
    context: Context,
    *,
    records: Callable[[], Any],
    max_tokens: int,
    reference: str = "initial",
    num_samples: int = 1,
    batch_size: int = 64,
    num_prompts: int = 200,
    name: str = "samples",
) -> Evaluation:
    """Sequence KL(policy || `reference`) in nats, and entropy in nats per token, from fresh samples.

    The estimator is k1 (Schulman 2020): the mean over responses drawn at temperature
    1 without truncation of `log policy(y) - log reference(y)`. It is unbiased, and may be negative where the
    KL is small. Entropy per token is `-sum log policy / number of tokens`. Intervals treat the
    `num_samples` responses of one prompt (and rows of one group) as a cluster.

    Args:
      records: prompts to answer.
      max_tokens: responses are cut there; the KL of cut responses is at most that of whole ones.
      reference: name of the other params, see `Context.member`: "initial" is what this stage started from;
        give the name of an earlier stage to measure several stages from one origin.

    *Differs from* curves of training batches: those are of the policy as it was when it sampled, often at
    another temperature, and of the prompts it trains on.
    """
    other = context.member(reference)
    score = context.compiled(context.policy.token_logps)
    table = prompts_of(records, num_prompts)
    ratios, logps, lengths = [], [], []
    for drawn in draw(
        context,
        table,
        context.key(name),
        max_tokens=max_tokens,
        num_samples=num_samples,
        batch_size=batch_size,
    ):
        held = np.asarray(context.fetch(score(other, context.put(drawn.completions))), np.float64).sum(-1)
        own = np.where(drawn.completions.response_mask, drawn.token_logps, 0).astype(np.float64).sum(-1)
        ratios.append((own - held)[drawn.real])
        logps.append(own[drawn.real])
        lengths.append(np.asarray(drawn.completions.response_mask).sum(-1)[drawn.real])
    ratio, logp, length = (np.concatenate(parts) for parts in (ratios, logps, lengths))
    prompt = np.broadcast_to(table.group[:, None], ratio.shape)
    # One item for each token, each with its response's mean: the mean over tokens, clustered by prompt.
    spread = np.repeat(-logp.ravel() / np.maximum(length.ravel(), 1), length.ravel())
    return Evaluation(
        name,
        {
            f"KL to {reference}": difference(ratio.ravel(), prompt.ravel(), better=""),
            "entropy per token": clustered(spread, np.repeat(prompt.ravel(), length.ravel()), better=""),
        },
    )
