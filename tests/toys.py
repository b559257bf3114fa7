"""Policies small enough to solve by hand, for tests of algorithms and of the loop."""

import jax
import jax.numpy as jnp

from jaxpref.policies.base import Policy
from jaxpref.types import Completions


def scored_table_policy(vocab: int, outputs: int = 0) -> Policy:
    """`token_logps` and all that a loss may name, from a table: the token before decides the logits of the
    next one, and the head reads the mean of a response's rows."""

    def rows(params, batch: Completions):
        last = jnp.broadcast_to(batch.prompt_tokens[:, None, -1:], batch.response_tokens[:, :, :1].shape)
        before = jnp.concatenate([last, batch.response_tokens[:, :, :-1]], -1)
        return jax.nn.log_softmax(params["logits"], -1)[before]

    def token_logps(params, batch: Completions):
        chosen = jnp.take_along_axis(rows(params, batch), batch.response_tokens[..., None], -1)[..., 0]
        return jnp.where(batch.response_mask, chosen, 0.0)

    def quantities(params, batch: Completions, names, reference_params=None, key=None):
        logps = rows(params, batch)
        found = {"token_logps": token_logps(params, batch)}
        if "forward_kl" in names:
            held = jax.lax.stop_gradient(rows(reference_params, batch))
            found["forward_kl"] = (jnp.exp(held) * (held - logps)).sum(-1)
        found["log_sum_p2"] = jax.nn.logsumexp(2 * logps, -1)
        for name in ("forward_kl", "log_sum_p2"):
            found[name] = jnp.where(batch.response_mask, found.get(name, 0.0), 0.0)
        if "values" in names:
            found["values"] = jnp.where(batch.response_mask, (logps @ params["head"])[..., 0], 0.0)
        if "embeddings" in names:
            weights = batch.response_mask / jnp.maximum(batch.lengths, 1)[..., None]
            found["embeddings"] = (weights[..., None] * logps).sum(2) @ params["head"]
        return {name: found[name] for name in names}

    def init(key):
        params = {"logits": jax.random.normal(key, (vocab, vocab))}
        return params | ({"head": jax.random.normal(key, (vocab, outputs))} if outputs else {})

    return Policy(
        init=init,
        token_logps=token_logps,
        sample=None,  # nothing is drawn from it
        axes=lambda: {"logits": (None, None)} | ({"head": (None, None)} if outputs else {}),
        flops=lambda batch: float(batch.response_tokens.size * vocab),
        vocab_size=vocab,
        quantities=quantities,
        offers=("forward_kl", "log_sum_p2", *(("values", "embeddings") if outputs else ())),
        outputs=outputs,
    )


def pairs(prompts, chosen, rejected) -> Completions:
    """One-token prompts and responses."""
    prompts, chosen, rejected = (jnp.asarray(a, jnp.int32) for a in (prompts, chosen, rejected))
    responses = jnp.stack([chosen, rejected], 1)[..., None]
    return Completions(
        prompts[:, None], jnp.ones((len(prompts), 1), bool), responses, jnp.ones(responses.shape, bool)
    )
