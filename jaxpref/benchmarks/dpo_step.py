"""Tokens per second of a small DPO step, and its share of the machine's measured matmul rate.

The configuration other libraries' DPO trainers have been measured on: hidden 256, 4 layers, 4 heads, MLP
1024, vocabulary 8192, untied head, 8 pairs of 128 prompt and 128 response tokens, float32, AdamW.
"""

import os
import platform
import statistics
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer
from jaxpref.training.peak import matmul_peak
from jaxpref.types import Completions

__all__ = ["measure", "table"]

PAIRS, PROMPT, RESPONSE, VOCAB = 8, 128, 128, 8192
# Tokens of the plain form (prompt and response of both sides): the count other trainers report.
TOKENS = 2 * PAIRS * (PROMPT + RESPONSE)


def _batch() -> Completions:
    rng = np.random.default_rng(0)
    return Completions(
        rng.integers(0, VOCAB, (PAIRS, PROMPT), np.int32),  # pyright: ignore[reportArgumentType]
        np.ones((PAIRS, PROMPT), bool),  # pyright: ignore[reportArgumentType]
        rng.integers(0, VOCAB, (PAIRS, 2, RESPONSE), np.int32),  # pyright: ignore[reportArgumentType]
        np.ones((PAIRS, 2, RESPONSE), bool),  # pyright: ignore[reportArgumentType]
        reference_logps=np.full((PAIRS, 2), -1000.0, np.float32),  # pyright: ignore[reportArgumentType]
    )


def measure(*, rounds: int = 5, steps_per_round: int = 3) -> dict[str, Any]:
    """Wall and CPU seconds of one step (the medians and minima over `rounds`), with the reference run every
    step and with it precomputed; the two variants alternate, so that a busy machine disturbs both."""
    sizes = partial(tiny, vocab=VOCAB, embed=256, layers=4, heads=4, mlp=1024, tied=False)
    policy = transformer(sizes=sizes, eos_id=2)
    batch, key = jax.device_put(_batch()), jax.random.key(0)
    optimizer = partial(adamw, schedule=partial(constant, value=1e-4), clip_norm=None)
    peak, source = matmul_peak()
    running: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    dpo = partial(offline, policy, loss=losses.dpo, optimizer=optimizer)
    for name, algorithm in (
        ("reference each step", dpo(reference="initial")),
        ("precomputed reference", dpo(reference="batch")),
    ):
        state = jax.jit(algorithm.init)(policy.init(jax.random.key(0)))
        step = jax.jit(algorithm.step, donate_argnums=0)
        start = time.perf_counter()
        state, metrics = step(state, batch, key)
        jax.block_until_ready((state, metrics))
        running[name] = (step, state)
        variants[name] = {
            "compile_seconds": time.perf_counter() - start,
            "model_gflop": algorithm.flops(batch) / 1e9,
            "wall": [],
            "cpu": [],
        }
    for _ in range(rounds):
        for name, figures in variants.items():
            step, state = running[name]
            for _ in range(steps_per_round):
                wall, cpu = time.perf_counter(), time.process_time()
                state, metrics = step(state, batch, key)
                jax.block_until_ready((state, metrics))
                figures["wall"].append(time.perf_counter() - wall)
                figures["cpu"].append(time.process_time() - cpu)
            running[name] = (step, state)
    for figures in variants.values():
        wall, cpu = figures.pop("wall"), figures.pop("cpu")
        figures |= {
            "wall_seconds_median": statistics.median(wall),
            "wall_seconds_min": min(wall),
            "cpu_seconds_min": min(cpu),
            "tokens_per_second": TOKENS / statistics.median(wall),
        }
        figures["share_of_matmul_rate"] = figures["model_gflop"] * 1e9 / figures["wall_seconds_median"] / peak
    return {
        "benchmark": "dpo-step",
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
        "tokens_per_step": TOKENS,
        "matmul_gflop_per_second": peak / 1e9,
        "matmul_rate_source": source,
        "huge_pages": "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", ""),
        "load_average": os.getloadavg()[0],
        "variants": variants,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"DPO step on {figures['device']}, jax {figures['jax']}: {figures['tokens_per_step']} tokens a step; "
        f"matmul {figures['matmul_gflop_per_second']:.0f} GFLOP/s ({figures['matmul_rate_source']}); load "
        f"{figures['load_average']:.1f}; huge pages {'on' if figures['huge_pages'] else 'off'}",
        f"{'variant':24s} {'tokens/s':>9s} {'ms/step':>8s} {'best':>7s} {'CPU ms':>8s} "
        f"{'model GFLOP':>12s} {'of matmul':>10s}",
    ]
    lines += [
        f"{name:24s} {v['tokens_per_second']:9,.0f} {v['wall_seconds_median'] * 1e3:8.0f} "
        f"{v['wall_seconds_min'] * 1e3:7.0f} {v['cpu_seconds_min'] * 1e3:8.0f} {v['model_gflop']:12.1f} "
        f"{v['share_of_matmul_rate']:10.0%}"
        for name, v in figures["variants"].items()
    ]
    return "\n".join(lines)
