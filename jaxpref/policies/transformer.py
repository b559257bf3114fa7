"""A transformer language model as a policy."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxpref.models.decoding import decode_step, prefill
from jaxpref.models.scoring import quantities, summed_loss, token_logps
from jaxpref.models.sizes import TransformerSizes
from jaxpref.models.transformer import Transformer
from jaxpref.policies.base import Policy, Sample
from jaxpref.sampling import Decoder, check_sampling, decode
from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = ["forward_flops", "transformer"]


def transformer(
    *,
    sizes: Callable[[], TransformerSizes] | TransformerSizes,
    param_dtype: str = "float32",
    compute_dtype: str = "float32",
    remat: Literal["none", "block", "dots"] = "none",
    unroll: int | None = None,
    head: str | None = None,
    outputs: int = 0,
    eos_id: int,
    pad_id: int = 0,
) -> Policy:
    """Policy over token sequences; log-probs are float32 whatever the dtypes.

    `sizes`: `TransformerSizes`, or a function without arguments that gives them (a name of `models.sizes`).
    `eos_id` ends a sampled response and counts as part of it; `pad_id` fills the rest. `remat`,
    `unroll`, `head` and `outputs`: see `models.transformer.Transformer`. `Policy.sample` also takes
    `row_ids [b]`, see `sampling.decode`.
    """
    given = sizes() if callable(sizes) else sizes
    for name, token in (("eos_id", eos_id), ("pad_id", pad_id)):
        if not 0 <= token < given.vocab:
            raise ValueError(
                f"transformer.{name}: expected an id below the vocabulary of {given.vocab}, got {token}"
            )
    model = Transformer(given, param_dtype, compute_dtype, remat, unroll, head, outputs)
    decoder = Decoder(partial(prefill, model), partial(decode_step, model))
    return Policy(
        init=model.init,
        token_logps=partial(token_logps, model),
        sample=_sampler(decoder, eos_id=eos_id, pad_id=pad_id),
        axes=model.axes,
        flops=partial(forward_flops, given),
        vocab_size=given.vocab,
        summed_loss=partial(summed_loss, model),
        quantities=partial(quantities, model),
        outputs=outputs,
    )


def _sampler(decoder: Decoder, *, eos_id: int, pad_id: int) -> Sample:
    # Temperature and top-p are traced, so that sweeping them compiles nothing again.
    compiled = jax.jit(
        partial(decode, decoder, eos_id=eos_id, pad_id=pad_id),
        static_argnames=("num_samples", "max_tokens", "top_k"),
    )

    def sample(
        params: Params,
        prompts: Prompts,
        key: PRNGKey,
        *,
        num_samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        row_ids: Int[Array, " b"] | None = None,
    ) -> Samples:
        check_sampling(
            prompts,
            num_samples=num_samples,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        greedy = not isinstance(temperature, jax.Array) and temperature == 0
        return compiled(
            params,
            prompts,
            key,
            row_ids,
            None if greedy else jnp.float32(temperature),
            None if top_p is None or greedy else jnp.float32(top_p),
            num_samples=num_samples,
            max_tokens=max_tokens,
            top_k=None if greedy else top_k,
        )

    return sample


def forward_flops(sizes: TransformerSizes, batch: Completions) -> float:
    """Floating-point operations of one `token_logps`, from shapes alone (padding counts, remat does not).

    `2 * tokens * weights + 4 * heads * head_dim * attended pairs` per layer, and `2 * scored * embed *
    vocab`, with `p + k r` tokens and `p (p + 1) / 2 + k (r p + r (r + 1) / 2)` pairs to a prompt. Sliding
    windows are not taken off.
    """
    b, k, r = batch.response_tokens.shape
    p = batch.prompt_tokens.shape[1]
    head_width = sizes.heads * sizes.head_dim
    linear = sizes.embed * (2 * head_width + 2 * sizes.kv_heads * sizes.head_dim)
    linear += sizes.embed * sizes.mlp * (3 if sizes.gated else 2)
    pairs = p * (p + 1) / 2 + k * (r * p + r * (r + 1) / 2)
    layers = sizes.layers * (2 * (p + k * r) * linear + 4 * head_width * pairs)
    return float(b * (layers + 2 * k * r * sizes.embed * sizes.vocab))
