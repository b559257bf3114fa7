"""The float64 answer to a case, computed once, and how far a variant is from it."""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.benchmarks.logprobs.case import Case, dpo_like, inputs

__all__ = ["LIMITS", "error", "expected", "load", "write"]

# Largest relative errors of (loss, gradients): sums of 256 log-probs of ten nats in float32; the rounding of
# bfloat16 gradients, whose log-probs are still float32.
LIMITS = {"float32": (1e-4, 1e-4), "bfloat16": (1e-3, 2e-2)}
SAMPLES = 4096  # entries of each gradient
BLOCK = 256  # rows whose float64 logits exist at a time

Arrays = dict[str, np.ndarray]


def expected(case: Case, given: tuple[np.ndarray, ...]) -> Arrays:
    """`loss`, and norm and sampled entries of the gradients with respect to `hidden` and `weight`; the same
    for logits rounded to the case's dtype, as `rows_loss` and `logits`.

    Needs 64-bit types.
    """
    narrow = jnp.dtype(case.dtype)
    hidden, weight = (jnp.asarray(x.astype(np.float64)) for x in given[:2])
    targets = jnp.asarray(given[2])
    rng = np.random.default_rng(1)

    def log_softmax(h: Any, rounded: bool) -> jax.Array:
        logits = h @ weight.T
        return jax.nn.log_softmax(logits.astype(narrow).astype(jnp.float64) if rounded else logits)

    @jax.jit(static_argnums=2)
    def picked(h: Any, y: Any, rounded: bool) -> jax.Array:
        return jnp.take_along_axis(log_softmax(h, rounded), y[:, None], 1)[:, 0]

    @jax.jit(static_argnums=3)
    def tile(h: Any, y: Any, upstream: Any, rounded: bool) -> jax.Array:
        hits = jnp.arange(case.vocab, dtype=y.dtype)[None] == y[:, None]
        return (hits - jnp.exp(log_softmax(h, rounded))) * upstream[:, None]

    blocks = [slice(begin, begin + BLOCK) for begin in range(0, case.rows, BLOCK)]

    def loss_and_tiles(rounded: bool) -> tuple[jax.Array, Iterator[jax.Array]]:
        logps = jnp.concatenate([picked(hidden[b], targets[b], rounded) for b in blocks])
        loss, upstream = jax.value_and_grad(lambda x: dpo_like(case, x))(logps)
        return loss, (tile(hidden[b], targets[b], upstream[b], rounded) for b in blocks)

    def entries(name: str, gradient: jax.Array, rows: np.ndarray) -> Arrays:
        columns = rng.integers(0, gradient.shape[1], len(rows))
        return _entries(name, np.stack([rows, columns]), gradient[rows, columns], jnp.linalg.norm(gradient))

    add_product = jax.jit(lambda total, d, h: total + d.T @ h, donate_argnums=0)
    loss, tiles = loss_and_tiles(False)
    for_hidden, for_weight = [], jnp.zeros_like(weight)
    for b, d in zip(blocks, tiles, strict=True):
        for_hidden.append(d @ weight)
        for_weight = add_product(for_weight, d, hidden[b])
    # Only rows of targets have large entries in the weights' gradient.
    words = np.concatenate([rng.choice(given[2], SAMPLES // 2), rng.integers(0, case.vocab, SAMPLES // 2)])
    answer = {"loss": np.asarray(loss)}
    answer |= entries("hidden", jnp.concatenate(for_hidden), rng.integers(0, case.rows, SAMPLES))
    answer |= entries("weight", for_weight, words)

    loss, tiles = loss_and_tiles(True)
    columns = np.stack([given[2], rng.integers(0, case.vocab, case.rows, np.int32)], 1)
    samples, squares = [], 0.0
    for b, d in zip(blocks, tiles, strict=True):
        samples.append(jnp.take_along_axis(d, jnp.asarray(columns[b]), 1))
        squares += (d**2).sum()
    index = np.stack([np.repeat(np.arange(case.rows), 2), columns.ravel()])
    answer["rows_loss"] = np.asarray(loss)
    return answer | _entries("logits", index, jnp.concatenate(samples).ravel(), jnp.sqrt(squares))


def _entries(name: str, index: np.ndarray, sample: Any, norm: Any) -> Arrays:
    return {
        f"{name}_index": index,
        f"{name}_sample": np.asarray(sample),
        f"{name}_norm": np.asarray(norm),
    }


def error(case: Case, answer: Arrays, outputs: dict[str, Any]) -> tuple[float, bool]:
    """(largest relative error, whether all are within `LIMITS`).

    `outputs`: a loss and arrays of gradients, by the names that `expected` gives them. Sampled entries are
    relative to the largest of them.
    """
    largest, right = 0.0, True
    for name, value in outputs.items():
        limit = LIMITS[case.dtype][0 if name.endswith("loss") else 1]
        if name.endswith("loss"):
            wrong = float(abs(float(value) - answer[name]) / abs(answer[name]))
        else:
            sample, norm = answer[f"{name}_sample"], answer[f"{name}_norm"]
            wide = jnp.asarray(value, jnp.float32)
            difference = np.abs(np.asarray(wide[tuple(answer[f"{name}_index"])]) - sample).max()
            off = abs(float(jnp.linalg.norm(wide)) - norm) / norm
            wrong = float(max(difference / np.abs(sample).max(), off))
        right = right and wrong <= limit  # also where it is NaN
        largest = max(largest, wrong) if wrong == wrong else float("nan")
    return largest, right


def write(case: Case, folder: pathlib.Path) -> None:
    """Inputs and their answer, for the processes that measure. Needs 64-bit types."""
    given = inputs(case)
    # numpy files know no bfloat16: its bits are kept.
    np.savez(folder / "inputs.npz", *(x.view(np.uint16) if x.dtype.itemsize == 2 else x for x in given))
    # A TPU has no float64 of its own.
    with jax.default_device(jax.devices("cpu")[0] if jax.devices()[0].platform == "tpu" else None):
        np.savez(folder / "expected.npz", **expected(case, given))  # pyright: ignore[reportArgumentType]


def load(case: Case, folder: pathlib.Path) -> tuple[list[jax.Array], Arrays]:
    """Inputs on the default device, and the answer."""
    with np.load(folder / "inputs.npz") as file:
        given = [file[name] for name in sorted(file.files)]
    dtype = jnp.dtype(case.dtype)
    given = [x.view(dtype) if x.dtype == np.uint16 else x for x in given]
    with np.load(folder / "expected.npz") as file:
        answer = dict(file)
    return [jax.device_put(x) for x in given], answer
