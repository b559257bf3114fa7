"""What a table of probabilities is worth on a bandit, exactly."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxpref.environments.base import Bandit
from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.evals.intervals import exact
from jaxpref.policies.tabular import enumerated
from jaxpref.types import Prompts

__all__ = ["bandit_policy"]


def bandit_policy(
    context: Context,
    *,
    environment: Callable[[], Bandit],
    num_prompts: int | None = None,
    name: str = "bandit",
) -> Evaluation:
    """Expected reward, mass where no comparison reaches, largest probability and entropy (nats).

    Means over prompts of exact values: nothing is sampled, and the intervals have no width. Prompt and
    response of one token are their numbers, as in `policies.tabular` with `length=1`.

    Args:
      num_prompts: takes the first ones only.
    """
    bandit = environment()
    rewards, covered = bandit.rewards[:num_prompts], bandit.covered[:num_prompts]
    count, responses = rewards.shape
    prompts = Prompts(jnp.arange(count, dtype=jnp.int32)[:, None], jnp.ones((count, 1), bool))
    every = enumerated(context.policy, prompts)
    if every.response_tokens.shape[1:] != (responses, 1):
        raise ValueError(
            f"bandit_policy: the environment has {responses} responses of one token, and the policy's are "
            f"{list(every.response_tokens.shape[1:])}; use policies.tabular(vocab={responses}, length=1)"
        )
    logps = context.compiled(context.policy.token_logps)(context.params, every)
    policy = np.exp(np.asarray(context.fetch(logps), np.float64).sum(-1))
    entropy = -(policy * np.log(np.maximum(policy, 1e-300))).sum(-1)
    measured = {
        "expected reward": ((policy * rewards).sum(-1), "higher"),
        "largest probability": (policy.max(-1), ""),
        "entropy": (entropy, ""),
    }
    if not covered.all():
        measured["uncovered mass"] = ((policy * ~covered).sum(-1), "lower")
    return Evaluation(name, {key: _exact(values, better) for key, (values, better) in measured.items()})


def _exact(values: np.ndarray, better: str) -> Estimate:
    return exact(float(values.mean()), len(values), better)
