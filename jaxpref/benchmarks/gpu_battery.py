"""Values and gradients of log-probs against float64 numpy, on the device at hand: part of `gpu_check`."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.kernels.token_logps import linear_token_logps, token_logps

__all__ = ["linear_error", "rows_error"]

STATISTICS = ("logsumexp", "entropy", "log_sum_p2")

# Nats of a log-prob, of a statistic; norm of a gradient's error over its own.
LOGPS, OTHERS = 2e-5, 5e-5
GRADIENTS = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, scale: float) -> np.ndarray:
    """Float64 values that `dtype` holds exactly."""
    return np.asarray(jnp.asarray(scale * rng.normal(size=shape), dtype), np.float64)


def _solve(
    logits: np.ndarray, targets: np.ndarray, upstream: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
    """Results, and the gradient of `(upstream * logps).sum()` with respect to the logits."""
    top = logits.max(1, keepdims=True)
    lse = top + np.log(np.exp(logits - top).sum(1, keepdims=True))
    log_p = logits - lse
    p = np.exp(log_p)
    results = {
        "logps": np.take_along_axis(log_p, targets[:, None], 1)[:, 0],
        "logsumexp": lse[:, 0],
        "entropy": -(p * log_p).sum(1),
        "log_sum_p2": np.log((p**2).sum(1)),
    }
    return results, ((np.arange(logits.shape[1]) == targets[:, None]) - p) * upstream[:, None]


def _largest(
    function: Callable,
    operands: dict[str, np.ndarray],
    upstream: np.ndarray,
    results: dict[str, np.ndarray],
    gradients: dict[str, np.ndarray],
    dtype: str,
) -> float:
    """Largest error of a value. Raises AssertionError where an error is beyond its bound."""

    def total(operands: dict[str, jax.Array]):
        logps, statistics = function(**operands)
        return (logps * jnp.asarray(upstream, logps.dtype)).sum(), {"logps": logps} | statistics

    arrays = {name: jnp.asarray(x, dtype) for name, x in operands.items()}
    slopes, outputs = jax.jit(jax.grad(total, has_aux=True))(arrays)
    errors = {
        name: float(np.abs(np.asarray(outputs[name], np.float64) - x).max()) for name, x in results.items()
    }
    for name, error in errors.items():
        assert error <= (LOGPS if name == "logps" else OTHERS), f"{name} is {error:.1e} nats off"
    for name, exact in gradients.items():
        error = np.linalg.norm(np.asarray(slopes[name], np.float64) - exact) / np.linalg.norm(exact)
        assert error <= GRADIENTS[dtype], f"gradient of {name} is {error:.1e} off"
    return max(errors.values())


def linear_error(implementation: str, rows: int, embed: int, vocab: int, dtype: str) -> float:
    """Largest error of a log-prob or statistic of `linear_token_logps`, nats.

    Raises:
      AssertionError: that error, or a gradient's, is out of bounds.
    """
    rng = np.random.default_rng(0)
    hidden = _draw(rng, (rows, embed), dtype, 1)
    weight = _draw(rng, (vocab, embed), dtype, 2 / embed**0.5)
    targets, upstream = rng.integers(0, vocab, rows), rng.normal(size=rows)
    results, delta = _solve(hidden @ weight.T, targets, upstream)

    def function(hidden: jax.Array, weight: jax.Array):
        return linear_token_logps(
            hidden, weight, jnp.asarray(targets), statistics=STATISTICS, implementation=implementation
        )

    gradients = {"hidden": delta @ weight, "weight": delta.T @ hidden}
    return _largest(function, {"hidden": hidden, "weight": weight}, upstream, results, gradients, dtype)


def rows_error(implementation: Any, rows: int, vocab: int, dtype: str) -> float:
    """As `linear_error`, of `token_logps`."""
    rng = np.random.default_rng(0)
    logits = _draw(rng, (rows, vocab), dtype, 2)
    targets, upstream = rng.integers(0, vocab, rows), rng.normal(size=rows)
    results, delta = _solve(logits, targets, upstream)

    def function(logits: jax.Array):
        return token_logps(logits, jnp.asarray(targets), statistics=STATISTICS, implementation=implementation)

    return _largest(function, {"logits": logits}, upstream, results, {"logits": delta}, dtype)


if __name__ == "__main__":
    print(linear_error(sys.argv[1], 150, 128, 5000, "bfloat16"))
