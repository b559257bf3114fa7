"""Implementations of the same loss: this library's, and those that people write or import instead."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxpref.benchmarks.logprobs.case import Case, dpo_like
from jaxpref.kernels.token_logps import (
    IMPLEMENTATIONS,
    linear_summed_loss,
    linear_token_logps,
    token_logps,
)
from jaxpref.kernels.token_logps.rows import ROW_IMPLEMENTATIONS

__all__ = ["OWN", "ROW_PASS", "float32_logits", "is_row_pass", "linear_loss", "names", "row_loss"]

Loss = Callable[..., Array]

ROW_PASS = "row pass: "  # names of variants over logits that exist already begin with it
PAIR_SCAN = "pair_scan"  # gives a loss, not log-probs


def _runs_on(implementation: str, platform: str) -> bool:
    return not implementation.startswith("pallas_") or implementation.startswith(f"pallas_{platform}")


def names(platform: str, *, tokamax: bool) -> list[str]:
    """All variants that can be tried on cpu, gpu or tpu, in the order of the table."""
    own = [*(name for name in IMPLEMENTATIONS if _runs_on(name, platform)), PAIR_SCAN]
    peers = list(_OF_LOGITS)
    if tokamax:
        peers += ["tokamax xla", "tokamax chunked_xla"]
        peers += [f"tokamax mosaic_{platform}"] if platform != "cpu" else []
    rows = [name for name in ROW_IMPLEMENTATIONS if name != "reference" and _runs_on(name, platform)]
    return own + peers + [ROW_PASS + name for name in (*rows, *_OF_LOGITS)]


def is_row_pass(name: str) -> bool:
    return name.startswith(ROW_PASS)


def linear_loss(name: str, case: Case, *, block: int | None = None) -> Loss:
    """Scalar loss of (hidden `[n, d]`, unembedding `[v, d]`, targets `[n]`)."""
    if name in IMPLEMENTATIONS:
        return _of_logps(case, lambda h, w, y: linear_token_logps(h, w, y, implementation=name, block=block))
    if name == PAIR_SCAN:
        return _pair_scan(case)
    if name in _OF_LOGITS:
        return _of_logps(case, lambda h, w, y: _OF_LOGITS[name](float32_logits(h, w), y))
    if name.startswith("tokamax "):
        return _of_logps(case, _tokamax(name.removeprefix("tokamax ")))
    raise ValueError(f"no variant {name!r}")


def _pair_scan(case: Case) -> Loss:
    def loss(hidden: Array, weight: Array, targets: Array) -> Array:
        pairs = targets.reshape(case.pairs, 2, case.tokens)
        total, _ = linear_summed_loss(
            lambda logps, _: dpo_like(case, logps),
            hidden.reshape(*pairs.shape, case.embed),
            weight,
            pairs,
            (),
            where=jnp.ones(pairs.shape, bool),
        )
        return total

    return loss


def row_loss(name: str, case: Case) -> Loss:
    """Scalar loss of (logits `[n, v]`, targets `[n]`)."""
    name = name.removeprefix(ROW_PASS)
    if name in _OF_LOGITS:
        logps = _OF_LOGITS[name]
        return lambda x, y: dpo_like(case, logps(x.astype(jnp.float32), y))
    ours: Any = partial(token_logps, implementation=name)  # pyright: ignore[reportArgumentType]
    return lambda x, y: dpo_like(case, ours(x, y))


def _of_logps(case: Case, logps: Callable[..., Array]) -> Loss:
    return lambda h, w, y: dpo_like(case, logps(h, w, y))


def float32_logits(hidden: Array, weight: Array) -> Array:
    """Logits as precise as ours, from float32 rather than TF32 products."""
    exact = jax.lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
    contracted = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(
        hidden, weight, contracted, precision=exact, preferred_element_type=jnp.float32
    )


def _naive(logits: Array, targets: Array) -> Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1)[:, 0]


def _optax(logits: Array, targets: Array) -> Array:
    return -optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _target_minus_logsumexp(logits: Array, targets: Array) -> Array:
    picked = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    return picked - jax.nn.logsumexp(logits, 1)


# Under autodiff, so residuals and gradients are whatever JAX makes of them.
_OF_LOGITS = {"naive": _naive, "optax": _optax, "target - logsumexp": _target_minus_logsumexp}


def _tokamax(implementation: str) -> Callable[..., Array]:
    import tokamax  # pyright: ignore[reportMissingImports]

    def logps(hidden: Array, weight: Array, targets: Array) -> Array:
        nll = tokamax.linear_softmax_cross_entropy_loss(
            hidden, targets, weight.T, reduction="none", implementation=implementation
        )
        return -nll

    return logps


OWN = (*IMPLEMENTATIONS, PAIR_SCAN, *(ROW_PASS + name for name in ROW_IMPLEMENTATIONS))
