"""Random inputs for any loss, read off its signature: annotations give shapes, names give ranges."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.methods import Method

__all__ = ["DATA", "SIZES", "axes_of", "inputs_for", "moving", "value"]

SIZES = {"b": 5, "k": 4, "r": 6, "m": 4, "d": 3, "o": 2, "s": 3}
BIG = 1e4

# Float inputs that are data: they do not move with the policy, so nothing is asked of their gradients.
DATA = re.compile(
    r"(reference|behaviour)_|.*(scores|win_rates|margins|strengths|preferences|weights|prompt_embeddings"
    r"|ratings|signs|densities)$"
)


def _function(loss: Callable[..., Any]) -> Callable[..., Any]:
    return loss.func if isinstance(loss, partial) else loss


def _parameters(loss: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(_function(loss)).parameters.values()
    return [q for q in parameters if q.default is q.empty and q.name != "state"]


def axes_of(loss: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """Axis letters of every array input, such as ("b", "k"). "*n" counts as ("b",)."""
    found = {}
    for q in _parameters(loss):
        assert hasattr(q.annotation, "dim_str"), (
            f"{_function(loss).__name__}: what are the axes of {q.name}? Give it a type, such as "
            f'Float[Array, "b"] (letters with a size here: {", ".join(SIZES)})'
        )
        dims = q.annotation.dim_str.split()
        found[q.name] = tuple("b" if d.startswith("*") else d.lstrip("#") for d in dims)
    return found


def _draw(q: inspect.Parameter, shape: tuple[int, ...], rng: np.random.Generator, scale: float) -> Any:
    kinds = {str(d) for d in q.annotation.dtypes}
    if "prng_key" in kinds:
        return jax.random.key(0)
    if any(d.startswith("bool") for d in kinds):
        if q.name.endswith("mask"):
            lengths = rng.integers(1, shape[-1] + 1, shape[:-1])
            return np.arange(shape[-1]) < lengths[..., None]
        mask = rng.random(shape) < 0.7
        mask[..., :2] = True
        return mask
    if any(d.startswith("int") for d in kinds):
        if q.name == "example_ids":
            return rng.permutation(shape[0])
        if q.name == "degrees":  # classes of a head of m outputs
            return rng.integers(0, SIZES["m"], shape)
        return rng.integers(1, 20, shape) if q.name.endswith("lengths") else rng.integers(0, 2, shape)
    if q.name.endswith(("preferences", "strengths", "win_rates")):
        p = rng.uniform(0.05, 0.95, shape)
        if len(shape) == 3:  # [b, k, k]: P + P^T = 1
            p = (p + 1 - p.swapaxes(-1, -2)) / 2
        return p
    if q.name.endswith(("_kl", "densities", "token_rewards")):
        return rng.gamma(1.0, min(scale, 100.0), shape)
    if q.name.endswith("log_sum_p2"):
        return -rng.gamma(1.0, min(scale, 100.0), shape)
    return rng.normal(-scale if q.name.endswith("logps") else 0.0, scale, shape)


def inputs_for(loss: Callable[..., Any], batch: int = 5, scale: float = 3.0, seed: int = 0) -> dict[str, Any]:
    """Random inputs of a loss by the names of its parameters without default (all but its state)."""
    rng = np.random.default_rng(seed)
    sizes, axes = SIZES | {"b": batch}, axes_of(loss)
    shapes = {n: tuple(int(a) if a.isdigit() else sizes[a] for a in letters) for n, letters in axes.items()}
    inputs = {q.name: _draw(q, shapes[q.name], rng, scale) for q in _parameters(loss)}
    for name in [n for n in inputs if n.startswith("behaviour_")]:  # the policy of some steps ago
        inputs[name] = inputs[name.removeprefix("behaviour_")] + rng.normal(0, 0.3, shapes[name])
    if "chosen_scores" in inputs:  # chosen is what scored higher
        low, high = np.sort([inputs["chosen_scores"], inputs["rejected_scores"]], axis=0)
        inputs |= {"chosen_scores": high, "rejected_scores": low}
    return inputs


def is_float(x: Any) -> bool:
    return not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)) and np.issubdtype(
        np.asarray(x).dtype, np.floating
    )


def moving(method: Method, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs that carry gradients."""
    return {
        n: x for n, x in inputs.items() if is_float(x) and not DATA.match(n) and n not in method.constants
    }


def value(method: Method, inputs: dict[str, Any], **arguments: Any) -> Any:
    """The losses alone, from a fresh state where there is one."""
    if method.state is None:
        losses = method.loss(**inputs, **arguments)
    else:
        losses = method.loss(**inputs, state=method.state(), **arguments)[0]
    assert losses.ndim, f"{method.name} returns one number for all prompts: return one for each, [b]"
    return losses
