"""Tokens per second of a small DPO step, and its share of the machine's measured matmul rate.

The configuration other libraries' DPO trainers have been measured on: hidden 256, 4 layers, 4 heads, MLP
1024, vocabulary 8192, untied head, 8 pairs of 128 prompt and 128 response tokens, float32, AdamW.
"""

import dataclasses
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import Algorithm, offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.benchmarks.machine import cores, facts
from jaxpref.benchmarks.timing import compiled, summary
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer
from jaxpref.training.peak import matmul_peak
from jaxpref.types import Completions, Params

__all__ = ["measure", "table"]

PROMPT, RESPONSE, VOCAB = 128, 128, 8192
LOSSES = 3  # compared between the variants before anything is timed


def _batches(pairs: int) -> tuple[Completions, Completions]:
    """The pairs with the prompt stored once, and as plain sequences `[prompt | response]` of both sides."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, VOCAB, (pairs, PROMPT))
    responses = rng.integers(3, VOCAB, (pairs, 2, RESPONSE))
    repeated = np.broadcast_to(prompts[:, None], (pairs, 2, PROMPT))
    scored = np.arange(PROMPT + RESPONSE) >= PROMPT

    def completions(prompts: Any, responses: Any, scored: Any) -> Completions:
        as_tokens = partial(jnp.asarray, dtype=jnp.int32)
        mask = jnp.broadcast_to(jnp.asarray(scored), responses.shape)
        return Completions(as_tokens(prompts), jnp.ones(prompts.shape, bool), as_tokens(responses), mask)

    shared = completions(prompts, responses, np.ones(RESPONSE, bool))
    return shared, completions(prompts[:, :0], np.concatenate([repeated, responses], 2), scored)


def _variants(pairs: int, sizes: Any, params: Params) -> dict[str, tuple[Algorithm, Completions]]:
    policy = transformer(sizes=sizes, eos_id=2)
    textbook = transformer(sizes=sizes, eos_id=2, head="reference")
    optimizer = partial(adamw, schedule=partial(constant, value=1e-5), clip_norm=None)
    given = {"loss": losses.dpo, "optimizer": optimizer}
    dpo = partial(offline, policy, **given)
    shared, plain = _batches(pairs)
    column = jax.jit(lambda params, batch: policy.token_logps(params, batch).sum(-1))(params, shared)
    with_column = dataclasses.replace(shared, reference_logps=column)
    return {
        "plain": (offline(textbook, reference="initial", **given), plain),
        "reference each step": (dpo(reference="initial"), shared),
        "precomputed reference": (dpo(reference="batch"), with_column),
        "precomputed, pair scan": (dpo(reference="batch", pair_scan=True), with_column),
    }


def measure(*, pairs: int = 8, rounds: int = 5, steps_per_round: int = 3) -> dict[str, Any]:
    """Wall and CPU seconds of one step (the medians and minima over `rounds`).

    Variants: plain (prompts repeated, every position through a log-softmax that JAX differentiates, the
    reference run every step); shared prompts and this library's head; with a precomputed reference too; and
    with the head's gradient in the forward pass. They alternate, so that a busy machine disturbs all of them.

    Raises:
      AssertionError: the variants' first losses differ by more than 1e-5.
    """
    sizes = partial(tiny, vocab=VOCAB, embed=256, layers=4, heads=4, mlp=1024, tied=False)
    policy, key = transformer(sizes=sizes, eos_id=2), jax.random.key(0)
    peak, source = matmul_peak()
    # Of the plain form (prompt and response of both sides): the count other trainers report.
    tokens = 2 * pairs * (PROMPT + RESPONSE)
    running: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    for name, (algorithm, batch) in _variants(pairs, sizes, policy.init(key)).items():
        state = jax.jit(algorithm.init)(policy.init(key))
        program = compiled(algorithm.step, state, batch, key, donate_argnums=0)
        first = []
        for _ in range(LOSSES):
            state, metrics = program.call(state, batch, key)
            first.append(float(metrics["loss"].value))
        running[name] = (program.call, state, batch)
        variants[name] = {
            "compile_seconds": program.seconds,
            "memory": program.memory,
            "model_gflop": algorithm.flops(batch) / 1e9,
            "first_losses": first,
            "wall": [],
            "cpu": [],
        }
        apart = np.abs(np.subtract(first, variants["plain"]["first_losses"])).max()
        assert apart <= 1e-5, f"{name}: losses {first}, plain {variants['plain']['first_losses']}"
    for _ in range(rounds):
        for name, figures in variants.items():
            program, state, batch = running[name]
            for _ in range(steps_per_round):
                wall, cpu = time.perf_counter(), time.process_time()
                state, metrics = program(state, batch, key)
                jax.block_until_ready((state, metrics))
                figures["wall"].append(time.perf_counter() - wall)
                figures["cpu"].append(time.process_time() - cpu)
            running[name] = (program, state, batch)
    for figures in variants.values():
        figures |= summary(figures.pop("wall"), figures.pop("cpu"))
        figures["cpu_seconds_min_per_core"] = figures["cpu_seconds_min"] / cores()
        figures["tokens_per_second"] = tokens / figures["wall_seconds_median"]
        figures["share_of_matmul_rate"] = figures["model_gflop"] * 1e9 / figures["wall_seconds_median"] / peak
    return {
        "benchmark": "dpo-step",
        **facts(),
        "tokens_per_step": tokens,
        "matmul_gflop_per_second": peak / 1e9,
        "matmul_rate_source": source,
        "variants": variants,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"DPO step on {figures['device']}, jax {figures['jax']}: {figures['tokens_per_step']} tokens a step; "
        f"matmul {figures['matmul_gflop_per_second']:.0f} GFLOP/s ({figures['matmul_rate_source']}); load "
        f"{figures['load_average']:.1f}; huge pages {'on' if figures['huge_pages'] else 'off'}",
        f"{'variant':24s} {'tokens/s':>9s} {'ms/step':>8s} {'best':>7s} {'CPU/core':>9s} {'temp MiB':>9s} "
        f"{'model GFLOP':>12s} {'of matmul':>10s}",
    ]
    lines += [
        f"{name:24s} {v['tokens_per_second']:9,.0f} {v['wall_seconds_median'] * 1e3:8.0f} "
        f"{v['wall_seconds_min'] * 1e3:7.0f} {v['cpu_seconds_min_per_core'] * 1e3:9.0f} "
        f"{v['memory'].get('temp', 0) / 2**20:9.0f} {v['model_gflop']:12.1f} "
        + (f"{share:10.0%}" if (share := v["share_of_matmul_rate"]) <= 1 else "  rate low")
        for name, v in figures["variants"].items()
    ]
    return "\n".join(lines)
