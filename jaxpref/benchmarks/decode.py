"""Tokens per second of sampling, plain and from a mixture, beside the floors of the same machine and run.

A step of decoding reads every weight and the filled part of the cache once, and multiplies each response's
state with every weight. So there are two floors, bytes over streaming bandwidth and operations over the rate
of a large matmul; the larger of them binds.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.benchmarks.machine import cores, facts, measured_bandwidth
from jaxpref.benchmarks.timing import summary, timed
from jaxpref.models.decoding import decode_step, prefill
from jaxpref.models.sizes import TransformerSizes, tiny
from jaxpref.models.transformer import Transformer
from jaxpref.sampling import Decoder, sampler
from jaxpref.training.peak import matmul_peak
from jaxpref.types import Prompts, Samples

__all__ = ["measure", "table"]


class _Case(NamedTuple):
    prompts: int
    samples: int = 1
    members: int = 1
    settings: dict[str, Any] | None = None


def _cases(batch: int) -> dict[str, _Case]:
    return {
        "plain": _Case(batch),
        "top-k of 50": _Case(batch, settings={"top_k": 50}),
        "4 samples a prompt": _Case(batch // 4, 4),
        "mixture of two": _Case(batch, members=2),
        "one response": _Case(1),
    }


def measure(
    *,
    rounds: int = 5,
    batch: int = 64,
    tokens: int = 64,
    embed: int = 384,
    vocab: int = 8192,
    dtype: str = "float32",
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Seconds of one decoding step, for responses of `tokens` tokens to prompts of as many.

    A step is the best time of all tokens less that of the first (which is the prompts' pass), over
    `tokens - 1`. Nothing ends early. The defaults are a model of 10.2 million parameters at a batch of 64.
    The cases (those of `only`, if given) take turns, so that a busy machine disturbs all of them.
    """
    cases = {name: case for name, case in _cases(batch).items() if name in (only or _cases(batch))}
    if len(cases) < len(only):
        raise ValueError(f"decode: cases are {', '.join(_cases(batch))}; got {', '.join(only)}")
    if tokens < 2 or batch < 4 or batch % 4 or embed % 64:
        raise ValueError(
            "decode: expected at least 2 tokens, a batch in fours and a width in 64s, got "
            f"{tokens}, {batch} and {embed}"
        )
    sizes = tiny(vocab=vocab, embed=embed, layers=4, heads=embed // 64, mlp=embed * 8 // 3)
    model = Transformer(sizes, param_dtype=dtype, compute_dtype=dtype)
    sample = sampler(Decoder(partial(prefill, model), partial(decode_step, model)), eos_id=None, pad_id=0)
    members = tuple(jax.jit(model.init)(jax.random.key(i)) for i in range(2))
    weights = sum(x.size for x in jax.tree.leaves(members[0]))
    bandwidth, (peak, source) = max(measured_bandwidth(), _reading_bandwidth()), matmul_peak(dtype=dtype)
    calls: dict[tuple[str, int], Callable[[], Samples]] = {}
    for name, case in cases.items():
        given: dict[str, Any] = {"num_samples": case.samples, **(case.settings or {})}
        if case.members > 1:
            given["weights"] = jnp.array([[[0.875, 0.125]]])
        ids = jax.random.randint(jax.random.key(2), (case.prompts, tokens), 0, vocab)
        prompts = Prompts(ids, jnp.ones(ids.shape, bool))
        params = members[0] if case.members == 1 else members
        for length in (1, tokens):
            calls[name, length] = partial(
                sample, params, prompts, jax.random.key(3), max_tokens=length, **given
            )
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[tuple[str, int], dict[str, Any]] = {}
    for _ in range(rounds):
        for key, call in calls.items():
            for name, found in timed(call, 1).items():
                times.setdefault(key, {})[name] = times.get(key, {}).get(name, type(found)()) + found
    variants = {}
    products = {
        n: _products(members[0], sizes.embed, n) for n in {c.prompts * c.samples for c in cases.values()}
    }
    for name, case in cases.items():
        first, every = (summary(times[name, n]["wall"], times[name, n]["cpu"]) for n in (1, tokens))
        steps, responses = tokens - 1, case.prompts * case.samples
        moved, operations = _work(sizes, weights, case, tokens, jnp.dtype(dtype).itemsize)
        step = max(every["wall_seconds_min"] - first["wall_seconds_min"], 1e-9) / steps
        variants[name] = {
            **every,
            "first_token_seconds_min": first["wall_seconds_min"],
            "step_seconds": step,
            "step_cpu_seconds_per_core": (every["cpu_seconds_min"] - first["cpu_seconds_min"])
            / steps
            / cores(),
            "tokens_per_second": responses / step,
            "tokens_per_second_with_prompts": responses * tokens / every["wall_seconds_min"],
            "bandwidth_floor_seconds": moved / bandwidth,
            "matmul_floor_seconds": operations / peak,
            "products_seconds": case.members * products[responses],
            "share_of_floor": max(moved / bandwidth, operations / peak) / step,
            "recompilations": sum(times[name, n]["recompilations"] for n in (1, tokens)),
        }
    return {
        "benchmark": "decode",
        **facts(),
        "parameters": weights,
        "tokens": tokens,
        "dtype": dtype,
        "bytes_per_second": bandwidth,
        "matmul_gflop_per_second": peak / 1e9,
        "matmul_rate_source": source,
        "variants": variants,
    }


def _work(
    sizes: TransformerSizes, weights: int, case: _Case, tokens: int, itemsize: int
) -> tuple[float, float]:
    """Bytes that a mean step reads (prompts' cache once for all their samples), and its operations."""
    filled = (tokens + 1) / 2  # of a response, in the mean over steps
    per_token = 2 * sizes.layers * sizes.kv_heads * sizes.head_dim  # keys and values
    read = case.prompts * per_token * (tokens + case.samples * filled)
    attended = 4 * sizes.layers * sizes.heads * sizes.head_dim * (tokens + filled)
    moved = case.members * itemsize * (weights + read)
    return moved, case.members * case.prompts * case.samples * (2 * weights + attended)


def _products(params: Any, embed: int, responses: int, steps: int = 16, repeats: int = 5) -> float:
    """Seconds of a step's products with the weights alone, at this batch: what XLA makes of such small ones,
    next to the floor at the rate of a large one."""
    blocks = [x[layer] for x in jax.tree.leaves(params["blocks"]) if x.ndim > 2 for layer in range(len(x))]
    matrices = [w.reshape(embed, -1) if w.shape[0] == embed else w.reshape(-1, embed) for w in blocks]
    matrices.append(jnp.asarray(params["embedding"]).T)

    @jax.jit
    def multiply(matrices: list[Array], x: Array) -> Array:
        def step(_: int, x: Array) -> Array:
            for w in matrices:
                x += (jnp.broadcast_to(x, (responses, w.shape[0])) @ w).max()  # so that each awaits the last
            return x

        return jax.lax.fori_loop(0, steps, step, x)

    x, best = jnp.ones((responses, 1), matrices[0].dtype), float("inf")
    multiply(matrices, x).block_until_ready()
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(matrices, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best / steps


def _reading_bandwidth(repeats: int = 5) -> float:
    """Bytes per second of summing the rows of a large array."""
    x = jnp.ones((2**12, 2**14), jnp.float32)
    total = jax.jit(lambda x: x.sum(1))
    total(x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        total(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return x.nbytes / best


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"Decoding {figures['tokens']} tokens after as many, {figures['parameters'] / 1e6:.1f} million "
        f"parameters, {figures['dtype']}, on {figures['device']}, jax {figures['jax']}; streaming "
        f"{figures['bytes_per_second'] / 1e9:.0f} GB/s, matmul {figures['matmul_gflop_per_second']:.0f} "
        f"GFLOP/s ({figures['matmul_rate_source']}); load {figures['load_average']:.1f}; huge pages "
        f"{'on' if figures['huge_pages'] else 'off'}",
        f"{'case':20s} {'tokens/s':>9s} {'with prompts':>13s} {'ms/step':>8s} {'CPU/core':>9s} "
        f"{'bytes floor':>12s} {'matmul floor':>13s} {'share':>6s} {'products':>9s} {'recompiled':>11s}",
    ]
    lines += [
        f"{name:20s} {v['tokens_per_second']:9,.0f} {v['tokens_per_second_with_prompts']:13,.0f} "
        f"{v['step_seconds'] * 1e3:8.2f} {v['step_cpu_seconds_per_core'] * 1e3:9.2f} "
        f"{v['bandwidth_floor_seconds'] * 1e3:12.2f} {v['matmul_floor_seconds'] * 1e3:13.2f} "
        f"{v['share_of_floor']:6.0%} {v['products_seconds'] * 1e3:9.2f} {v['recompilations']:11d}"
        for name, v in figures["variants"].items()
    ]
    return "\n".join(lines)
