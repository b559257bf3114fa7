"""What a quantised base costs: how far its next-token distributions are from the model's, and its bytes.

Replies of Anthropic HH that nobody was trained on here, scored by the model of a folder and by the same model
with its projections quantised; float32.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.benchmarks.machine import facts
from jaxpref.data import Loader, hf_template, hf_tokenizer
from jaxpref.data.prepare import head, hh_pairs
from jaxpref.models.hub import hf_end_ids, hf_sizes, hf_weights
from jaxpref.models.lora import LoRA
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import Policy, whole
from jaxpref.policies.transformer import transformer
from jaxpref.types import Completions, Params

__all__ = ["measure", "table"]

_AT_ONCE = 4  # rows


def _variant(text: str) -> dict[str, Any]:
    """`nf4` or `nf4:32` as options of `adapted`."""
    kind, _, tile = text.partition(":")
    return {"quantize": kind, "quantize_tile": int(tile) if tile else None}


def _difference(policy: Policy, changed: Params, model: Params, batch: Completions) -> dict[str, Any]:
    """Sums over the tokens of the replies: of KL(model || changed), and of what their log-probs differ by."""
    assert policy.quantities is not None
    made = policy.quantities(changed, batch, ("token_logps", "forward_kl"), model, None)
    own = policy.token_logps(model, batch)
    scored = batch.mask
    off = jnp.where(scored, made["token_logps"] - own, 0)
    return {
        "tokens": scored.sum(),
        "kl": jnp.where(scored, made["forward_kl"], 0).sum(),
        "token": jnp.abs(off).sum(),
        "nats": -jnp.where(scored, own, 0).sum(),
        "reply": jnp.abs(off.sum(-1)).sum(),
    }


def measure(
    *,
    model: str,
    data_root: str = "../shared/data",
    variants: Sequence[str] = ("int8", "int4", "nf4"),
    replies: int = 32,
) -> dict[str, Any]:
    """Differences per token and per reply of each variant, and the bytes of its base.

    Args:
      model: a folder of the hub. data_root: a folder that holds hh_rlhf/.
      variants: formats, such as "nf4", or formats and tiles, such as "nf4:32".
      replies: how many, of different prompts.
    """
    policy = partial(transformer, sizes=partial(hf_sizes, path=model), eos_id=hf_end_ids(model), remat="none")
    records = hh_pairs(
        data_root=data_root,
        tokenizer=partial(hf_tokenizer, path=model),
        template=partial(hf_template, path=model),
        prompt_length=256,
        response_length=256,
        subsets=("helpful-base",),
    )
    loader = Loader(head(records=lambda: records, num_prompts=replies), batch_size=_AT_ONCE, shuffle=False)
    batches = [_chosen(batch) for batch in loader.evaluation_batches()]
    plain = adapted(policy=policy, base=partial(hf_weights, path=model))
    adapters = jax.jit(plain.init)(jax.random.key(0))
    original = jax.tree.map(jnp.asarray, _base(plain))
    figures = {}
    for variant in variants:
        made = adapted(policy=policy, base=partial(hf_weights, path=model), lora=LoRA(), **_variant(variant))
        base = jax.tree.map(jnp.asarray, _base(made))
        params = [whole(adapters, {"policy": x}) for x in (base, original)]
        compare = jax.jit(partial(_difference, made))
        sums = [jax.device_get(compare(*params, batch)) for batch in batches]
        total = {name: float(np.sum([one[name] for one in sums])) for name in sums[0]}
        tokens = total["tokens"]
        figures[variant] = {
            "kl": total["kl"] / tokens,
            "log_prob": total["token"] / tokens,
            "reply_log_prob": total["reply"] / replies,
            "bytes": _bytes(base),
            "projection_bytes": _bytes(base["blocks"]),
        }
    return {
        "benchmark": "quantization",
        **facts(),
        "model": model,
        "replies": replies,
        "tokens": tokens,
        "nats": total["nats"] / tokens,
        "bytes": _bytes(original),
        "projection_bytes": _bytes(original["blocks"]),
        "variants": figures,
    }


def _base(policy: Policy) -> Params:
    assert policy.constants is not None
    return policy.constants().params


def _chosen(batch: Completions) -> Completions:
    first = {name: getattr(batch, name)[:, :1] for name in ("response_tokens", "response_mask")}
    return dataclasses.replace(batch, **first)


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{figures['model']}: {figures['replies']} replies of {figures['tokens']:.0f} tokens, of "
        f"{figures['nats']:.3f} nats each; base of {figures['bytes'] / 2**20:.0f} MiB, "
        f"{figures['projection_bytes'] / 2**20:.0f} in its blocks",
        f"{'base':10s} {'MiB':>6s} {'blocks':>7s} {'KL per token':>13s} {'|d log-prob|':>13s} "
        f"{'of a reply':>11s}",
    ]
    lines += [
        f"{name:10s} {v['bytes'] / 2**20:6.0f} {v['projection_bytes'] / 2**20:7.0f} {v['kl']:13.2e} "
        f"{v['log_prob']:13.4f} {v['reply_log_prob']:11.2f}"
        for name, v in figures["variants"].items()
    ]
    return "\n".join(lines)
