"""A transformer language model as a policy."""

from collections.abc import Callable, Sequence
from functools import partial

from jaxpref.kernels.token_logps import STATISTICS
from jaxpref.models.decoding import decode_step, prefill
from jaxpref.models.lora import LoRA
from jaxpref.models.scoring import quantities, summed_loss, token_logps
from jaxpref.models.sizes import TransformerSizes
from jaxpref.models.transformer import Transformer
from jaxpref.policies.base import Policy
from jaxpref.sampling import Decoder, end_ids, sampler, streamer
from jaxpref.types import Completions

__all__ = ["forward_flops", "transformer"]


def transformer(
    *,
    sizes: Callable[[], TransformerSizes] | TransformerSizes,
    param_dtype: str = "float32",
    compute_dtype: str = "float32",
    remat: str = "none",
    unroll: int | None = None,
    head: str | None = None,
    outputs: int = 0,
    lora: LoRA | None = None,
    attention: str | None = None,
    eos_id: int | Sequence[int],
    pad_id: int = 0,
) -> Policy:
    """Policy over token sequences; log-probs are float32 whatever the dtypes.

    `sizes`: `TransformerSizes`, or a function without arguments that gives them (a name of `models.sizes`).
    `eos_id` ends a sampled response and counts as part of it, one id or several (`models.hub.hf_end_ids`);
    `pad_id` fills the rest. `remat`, `unroll`, `head`, `outputs`, `lora` and `attention`: see
    `models.transformer.Transformer`; to train adapters alone, above a base that is given, see
    `policies.adapted`.
    """
    given = sizes() if callable(sizes) else sizes
    ends = end_ids(eos_id)
    for name, token in [*(("eos_id", end) for end in ends), ("pad_id", pad_id)]:
        if not isinstance(token, int) or not 0 <= token < given.vocab:
            raise ValueError(
                f"transformer.{name}: expected an id below the vocabulary of {given.vocab}, got {token!r}"
            )
    if not ends:
        raise ValueError("transformer.eos_id: expected one id or more, got none: nothing ends a response")
    model = Transformer(given, param_dtype, compute_dtype, remat, unroll, head, outputs, lora, attention)
    decoder = Decoder(partial(prefill, model), partial(decode_step, model))
    return Policy(
        init=model.init,
        token_logps=partial(token_logps, model),
        sample=sampler(decoder, eos_id=ends, pad_id=pad_id),
        axes=model.axes,
        flops=partial(forward_flops, given),
        vocab_size=given.vocab,
        summed_loss=partial(summed_loss, model),
        quantities=partial(quantities, model),
        offers=(*STATISTICS, "hidden_states", *(("embeddings", "values") if outputs else ())),
        outputs=outputs,
        model=model,
        end_ids=ends,
        stream=streamer(decoder, eos_id=ends, pad_id=pad_id),
        noisy=lora is not None and lora.dropout > 0,
        adds=(*(("head",) if outputs else ()), *(("lora_a", "lora_b") if lora is not None else ())),
    )


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
