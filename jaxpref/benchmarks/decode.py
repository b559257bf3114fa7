"""Tokens per second of sampling, plain and from a mixture, beside the floors of the same machine and run."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpref.benchmarks.decode_floors import Case, products_seconds, reading_bandwidth, work
from jaxpref.benchmarks.machine import cores, facts, measured_bandwidth
from jaxpref.benchmarks.timing import summary, timed
from jaxpref.models.decoding import decode_step, prefill
from jaxpref.models.sizes import TransformerSizes, tiny
from jaxpref.models.transformer import Transformer
from jaxpref.sampling import Decoder, sampler
from jaxpref.training.peak import matmul_peak
from jaxpref.types import Params, Prompts, Samples

__all__ = ["measure", "table"]

_Key = tuple[str, int]  # a case, and how many tokens are drawn


def _cases(batch: int, only: Sequence[str]) -> dict[str, Case]:
    every = {
        "plain": Case(batch),
        "top-k of 50": Case(batch, settings={"top_k": 50}),
        "4 samples a prompt": Case(batch // 4, 4),
        "mixture of two": Case(batch, members=2, settings={"weights": jnp.array([[[0.875, 0.125]]])}),
        "one response": Case(1),
    }
    chosen = {name: case for name, case in every.items() if name in (only or every)}
    if len(chosen) < len(only):
        raise ValueError(f"decode: cases are {', '.join(every)}; got {', '.join(only)}")
    return chosen


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
    cases = _cases(batch, only)
    if tokens < 2 or batch < 4 or batch % 4 or embed % 64:
        raise ValueError(
            "decode: expected at least 2 tokens, a batch in fours and a width in 64s, got "
            f"{tokens}, {batch} and {embed}"
        )
    sizes = tiny(vocab=vocab, embed=embed, layers=4, heads=embed // 64, mlp=embed * 8 // 3)
    models = _models(sizes, dtype)
    bandwidth, (peak, source) = max(measured_bandwidth(), reading_bandwidth()), matmul_peak(dtype=dtype)
    calls = {(name, n): models.call(case, tokens, n) for name, case in cases.items() for n in (1, tokens)}
    times = _in_turns(calls, rounds)
    products = {
        n: products_seconds(models.members[0], sizes.embed, n) for n in {c.responses for c in cases.values()}
    }
    variants = {}
    for name, case in cases.items():
        moved, operations = work(sizes, models.weights, case, tokens, jnp.dtype(dtype).itemsize)
        floors = {"bandwidth_floor_seconds": moved / bandwidth, "matmul_floor_seconds": operations / peak}
        rates = _rates(times[name, 1], times[name, tokens], case.responses, tokens - 1)
        variants[name] = {
            **rates,
            **floors,
            "products_seconds": case.members * products[case.responses],
            "share_of_floor": max(floors.values()) / rates["step_seconds"],
        }
    return {
        "benchmark": "decode",
        **facts(),
        "parameters": models.weights,
        "tokens": tokens,
        "dtype": dtype,
        "bytes_per_second": bandwidth,
        "matmul_gflop_per_second": peak / 1e9,
        "matmul_rate_source": source,
        "variants": variants,
    }


class _Models(NamedTuple):
    """Two sets of weights of one shape, and how they are sampled from."""

    vocab: int
    members: tuple[Params, Params]
    sample: Callable[..., Samples]

    @property
    def weights(self) -> int:
        """Number of weights of one of them."""
        return sum(x.size for x in jax.tree.leaves(self.members[0]))

    def call(self, case: Case, tokens: int, max_tokens: int) -> Callable[[], Samples]:
        """Draws `max_tokens` for each response of a case, after prompts of `tokens`."""
        ids = jax.random.randint(jax.random.key(2), (case.prompts, tokens), 0, self.vocab)
        params = self.members[0] if case.members == 1 else self.members
        given = {"num_samples": case.samples, "max_tokens": max_tokens, **case.settings}
        prompts = Prompts(ids, jnp.ones(ids.shape, bool))
        return partial(self.sample, params, prompts, jax.random.key(3), **given)


def _models(sizes: TransformerSizes, dtype: str) -> _Models:
    model = Transformer(sizes, param_dtype=dtype, compute_dtype=dtype)
    sample = sampler(Decoder(partial(prefill, model), partial(decode_step, model)), eos_id=None, pad_id=0)
    first, second = (jax.jit(model.init)(jax.random.key(i)) for i in range(2))
    return _Models(sizes.vocab, (first, second), sample)


def _in_turns(calls: dict[_Key, Callable[[], Samples]], rounds: int) -> dict[_Key, dict[str, Any]]:
    """Results of `timed` for each call, over all rounds; compilations before them do not count."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[_Key, dict[str, Any]] = {}
    for _ in range(rounds):
        for key, call in calls.items():
            for name, measured in timed(call, 1).items():
                times.setdefault(key, {})[name] = times.get(key, {}).get(name, type(measured)()) + measured
    return times


def _rates(first: dict[str, Any], every: dict[str, Any], responses: int, steps: int) -> dict[str, float]:
    """Times of a step, given those of one token and of `steps` more tokens."""
    one, all_of_them = (summary(times["wall"], times["cpu"]) for times in (first, every))
    step = max(all_of_them["wall_seconds_min"] - one["wall_seconds_min"], 1e-9) / steps
    cpu = (all_of_them["cpu_seconds_min"] - one["cpu_seconds_min"]) / steps
    return {
        **all_of_them,
        "first_token_seconds_min": one["wall_seconds_min"],
        "step_seconds": step,
        "step_cpu_seconds_per_core": cpu / cores(),
        "tokens_per_second": responses / step,
        "tokens_per_second_with_prompts": responses * (steps + 1) / all_of_them["wall_seconds_min"],
        "recompilations": first["recompilations"] + every["recompilations"],
    }


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
