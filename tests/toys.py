"""Policies small enough to solve by hand, for tests of algorithms and of the loop."""

import jax
import jax.numpy as jnp

from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Samples


def table_policy(prompts: int, responses: int) -> Policy:
    """A softmax table: prompt token `x` (its last one) and one response token `y` with logits[x, y]."""

    def token_logps(params, batch: Completions):
        logps = jax.nn.log_softmax(params["logits"], -1)
        x = batch.prompt_tokens[:, 0]
        chosen = logps[x[:, None, None], batch.response_tokens]
        return jnp.where(batch.response_mask, chosen, 0.0)

    def sample(params, prompts, key, *, num_samples=1, max_tokens, temperature=1.0, top_k=None, top_p=None):
        logits = params["logits"][prompts.prompt_tokens[:, 0]]
        tokens = jax.random.categorical(key, logits[:, None], shape=(logits.shape[0], num_samples))
        response = tokens[..., None]
        batch = Completions(
            prompts.prompt_tokens, prompts.prompt_mask, response, jnp.ones(response.shape, bool)
        )
        logps = token_logps(params, batch)
        return Samples(batch, logps, logps)

    return Policy(
        init=lambda key: {"logits": jax.random.normal(key, (prompts, responses))},
        token_logps=token_logps,
        sample=sample,
        axes=lambda: {"logits": (None, None)},
        flops=lambda batch: float(batch.response_tokens.size * responses),
        vocab_size=max(prompts, responses),
    )


def pairs(prompts, chosen, rejected) -> Completions:
    """One-token prompts and responses."""
    prompts, chosen, rejected = (jnp.asarray(a, jnp.int32) for a in (prompts, chosen, rejected))
    responses = jnp.stack([chosen, rejected], 1)[..., None]
    return Completions(
        prompts[:, None], jnp.ones((len(prompts), 1), bool), responses, jnp.ones(responses.shape, bool)
    )
