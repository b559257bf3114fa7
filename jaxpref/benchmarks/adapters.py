"""Memory and time of a DPO step of adapters beside one of all weights, both with the reference in every step.

The shape of SmolLM2-135M with random weights, float32, AdamW; adapters of all projections.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref import losses
from jaxpref.algorithms import Algorithm, offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.benchmarks.machine import facts
from jaxpref.benchmarks.timing import Compiled, compiled, summary
from jaxpref.models.lora import LoRA
from jaxpref.models.quantized import Format
from jaxpref.models.sizes import smollm2_135m
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import Policy
from jaxpref.policies.transformer import transformer
from jaxpref.training.state import moving, with_constants
from jaxpref.types import Completions, Params

__all__ = ["measure", "table"]

FULL, ADAPTERS, BASE = "all weights, frozen copy", "adapters, adapters at the start", "adapters, adapters off"


def _batch(pairs: int, tokens: int, vocab: int) -> Completions:
    rng = np.random.default_rng(0)
    draw = partial(rng.integers, 3, vocab)
    prompts, responses = jnp.asarray(draw((pairs, tokens))), jnp.asarray(draw((pairs, 2, tokens)))
    return Completions(prompts, jnp.ones(prompts.shape, bool), responses, jnp.ones(responses.shape, bool))


def _variants(
    rank: int, remat: str, weights: Params, quantize: Sequence[Format]
) -> dict[str, tuple[Algorithm, Params, Any]]:
    """Each algorithm with the params that it starts from and its constants."""
    policy = partial(transformer, sizes=smollm2_135m, remat=remat, eos_id=2)
    optimizer = partial(adamw, schedule=partial(constant, value=1e-5))
    dpo = partial(offline, loss=losses.dpo, optimizer=optimizer)
    above = adapted(policy=policy, base=lambda: weights, lora=LoRA(rank=rank))
    adapters, constants = jax.jit(above.init)(jax.random.key(1)), {"policy": weights}
    narrow = {
        kind: adapted(policy=policy, base=lambda: weights, lora=LoRA(rank=rank), quantize=kind)
        for kind in quantize
    }
    return {
        FULL: (dpo(policy()), weights, {}),
        ADAPTERS: (dpo(above), adapters, constants),
        BASE: (dpo(above, reference="base"), adapters, constants),
        **{
            f"{ADAPTERS}, {kind}": (
                dpo(one),
                adapters,
                {"policy": _base_of(one)},
            )
            for kind, one in narrow.items()
        },
    }


def _base_of(policy: Policy) -> Params:
    assert policy.constants is not None
    return jax.tree.map(jnp.asarray, policy.constants().params)


def _step(algorithm: Algorithm, state: Any, constants: Any, batch: Completions, key: Any) -> Any:
    """As the loop runs it: the part that moves is donated, constants are not."""
    new, metrics = algorithm.step(with_constants(state, constants), batch, key)
    return moving(new), metrics


def measure(
    *,
    pairs: int = 2,
    tokens: int = 64,
    rank: int = 16,
    remat: str = "none",
    quantize: Sequence[Format] = (),
    rounds: int = 5,
) -> dict[str, Any]:
    """Bytes of a step (its arguments, with the base, and what it needs besides) and seconds of it.

    The variants take turns, so that a busy machine disturbs all of them.

    Args:
      pairs: of a batch. tokens: of each prompt and of each response. rank: of the adapters. remat: see
        `models.transformer.Transformer`. quantize: further variants, above bases of these formats.

    Raises:
      AssertionError: the first loss of a variant is not log 2 within 1e-5.
    """
    sizes, key = smollm2_135m(), jax.random.key(0)
    batch = _batch(pairs, tokens, sizes.vocab)
    weights = jax.jit(transformer(sizes=sizes, eos_id=2).init)(key)
    running: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    for name, (algorithm, params, constants) in _variants(rank, remat, weights, quantize).items():
        state = jax.jit(lambda params, init=algorithm.init: moving(init(params)))(params)
        step = partial(_step, algorithm)
        program = compiled(step, state, constants, batch, key, donate_argnums=0)
        state, metrics = program.call(state, constants, batch, key)
        loss = float(metrics["loss"].value)
        # The policy and its reference are summed by two programs: 700 nats of float32 have steps of 6e-5, of
        # which beta and the slope of the loss leave a twentieth.
        assert abs(loss - np.log(2)) < 1e-5, f"{name}: the first loss is {loss}"
        running[name] = (program.call, state, constants)
        variants[name] = {"memory": program.memory, "bytes": _peak(program), "wall": [], "cpu": []}
        variants[name]["moving_bytes"] = sum(x.nbytes for x in jax.tree.leaves(state))
    for _ in range(rounds):
        for name, figures in variants.items():
            program, state, constants = running[name]
            wall, cpu = time.perf_counter(), time.process_time()
            state, metrics = program(state, constants, batch, key)
            jax.block_until_ready((state, metrics))
            figures["wall"].append(time.perf_counter() - wall)
            figures["cpu"].append(time.process_time() - cpu)
            running[name] = (program, state, constants)
    for figures in variants.values():
        figures |= summary(figures.pop("wall"), figures.pop("cpu"))
    return {
        "benchmark": "adapters",
        **facts(),
        "pairs": pairs,
        "tokens": tokens,
        "rank": rank,
        "remat": remat,
        "variants": variants,
    }


def _peak(program: Compiled) -> int:
    """Arguments, results that do not take their place, and temporaries."""
    memory = program.memory
    return memory["argument"] + memory["output"] - memory["alias"] + memory["temp"]


def table(figures: dict[str, Any]) -> str:
    """The figures as text; ratios are to the step of all weights."""
    full = figures["variants"][FULL]
    lines = [
        f"DPO step of SmolLM2-135M's shape on {figures['device']}, jax {figures['jax']}: {figures['pairs']} "
        f"pairs of {figures['tokens']} + {figures['tokens']} tokens, rank {figures['rank']}, remat "
        f"{figures['remat']}; load {figures['load_average']:.1f}; huge pages "
        f"{'on' if figures['huge_pages'] else 'off'}",
        f"{'variant':37s} {'MiB':>6s} {'ratio':>6s} {'moving':>7s} {'temp':>6s} {'ms/step':>8s} "
        f"{'ratio':>6s} {'best':>6s} {'ratio':>6s} {'CPU ms':>7s} {'ratio':>6s}",
    ]
    for name, v in figures["variants"].items():
        median, best, cpu = (
            (v[key] * 1e3, v[key] / full[key])
            for key in ("wall_seconds_median", "wall_seconds_min", "cpu_seconds_min")
        )
        lines.append(
            f"{name:37s} {v['bytes'] / 2**20:6.0f} {v['bytes'] / full['bytes']:6.2f} "
            f"{v['moving_bytes'] / 2**20:7.0f} {v['memory']['temp'] / 2**20:6.0f} {median[0]:8.0f} "
            f"{median[1]:6.2f} {best[0]:6.0f} {best[1]:6.2f} {cpu[0]:7.0f} {cpu[1]:6.2f}"
        )
    return "\n".join(lines)
