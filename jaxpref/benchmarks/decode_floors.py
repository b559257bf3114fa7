"""The floors of a decoding step: bytes read and operations done, against the rates of this machine.

A step of decoding reads every weight and the filled part of the cache once, and multiplies each response's
state with every weight. So there are two floors, bytes over streaming bandwidth and operations over the rate
of a large matmul; the larger of them binds.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.models.sizes import TransformerSizes

__all__ = ["Case", "products_seconds", "reading_bandwidth", "work"]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is decoded: `samples` responses to each of `prompts` prompts, from so many mixed models."""

    prompts: int
    samples: int = 1
    members: int = 1
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # of `Policy.sample`

    @property
    def responses(self) -> int:
        return self.prompts * self.samples


def work(
    sizes: TransformerSizes, weights: int, case: Case, tokens: int, itemsize: int
) -> tuple[float, float]:
    """Bytes that a mean step reads (prompts' cache once for all their samples), and its operations."""
    filled = (tokens + 1) / 2  # of a response, in the mean over steps
    per_token = 2 * sizes.layers * sizes.kv_heads * sizes.head_dim  # keys and values
    read = case.prompts * per_token * (tokens + case.samples * filled)
    attended = 4 * sizes.layers * sizes.heads * sizes.head_dim * (tokens + filled)
    moved = case.members * itemsize * (weights + read)
    return moved, case.members * case.responses * (2 * weights + attended)


def products_seconds(params: Any, embed: int, responses: int, steps: int = 16, repeats: int = 5) -> float:
    """Seconds of a step's products with the weights alone, at this batch: small products run below the rate
    of a large one, which the floor assumes."""
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


def reading_bandwidth(repeats: int = 5) -> float:
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
