"""A multi-layer perceptron as two functions: controllers, critics, learnt rewards and costs."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.types import Params, PRNGKey

__all__ = ["checked_sizes", "perceptron", "perceptron_axes", "perceptron_flops", "perceptron_init"]


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Widths from input to output; raises ValueError unless all are 1 or more."""
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"perceptron: expected sizes of 1 or more, got {list(sizes)}")
    return tuple(sizes)


def perceptron_init(
    key: PRNGKey, sizes: Sequence[int], *, last_scale: float = 1.0, dtype: str = "float32"
) -> Params:
    """`{"layer_0": {"kernel", "bias"}, ...}`: orthogonal matrices, larger by sqrt(2) before an activation.

    `last_scale`: of the last one; 0: the first outputs are 0.
    """
    last = len(sizes) - 2
    params = {}
    for i, part in enumerate(jax.random.split(key, last + 1)):
        orthogonal = jax.nn.initializers.orthogonal(math.sqrt(2) if i < last else last_scale)
        kernel = orthogonal(part, (sizes[i], sizes[i + 1]), dtype)
        params[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(sizes[i + 1], dtype)}
    return params


def perceptron(
    params: Params, x: Float[Array, "*rows i"], activation: Callable[[Array], Array] = jax.nn.relu
) -> Float[Array, "*rows o"]:
    """The activation between the layers of `params`, nothing after the last."""
    size = params["layer_0"]["kernel"].shape[0]
    if x.shape[-1] != size:
        raise ValueError(f"perceptron: rows of {x.shape[-1]} numbers, expected {size}")
    last = sum(name.startswith("layer_") for name in params) - 1
    for i in range(last + 1):
        layer = params[f"layer_{i}"]
        x = x @ layer["kernel"]
        x = x + jnp.broadcast_to(layer["bias"], x.shape)
        x = activation(x) if i < last else x
    return x


def perceptron_axes(sizes: Sequence[int]) -> Params:
    """Logical axes: small networks live whole on every device."""
    return {f"layer_{i}": {"kernel": (None, None), "bias": (None,)} for i in range(len(sizes) - 1)}


def perceptron_flops(sizes: Sequence[int]) -> float:
    """Operations of the matrix products for one input, forward."""
    return 2.0 * sum(a * b for a, b in itertools.pairwise(sizes))
