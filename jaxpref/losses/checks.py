"""Checks shared by the losses: static, so they cost nothing under jit."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["as_floats", "check_axes", "check_same_shape", "floats", "not_negative", "positive", "within"]


def check_same_shape(arrays: Mapping[str, Array]) -> None:
    """Raises ValueError unless all share one shape: broadcasting `[1]` against `[b]` hides mistakes.

    Returns:
      nothing.

    Example:
      >>> losses.checks.check_same_shape({"logps": jnp.zeros(3), "lengths": jnp.ones(1)})
      Traceback (most recent call last):
      ValueError: expected one shape for all inputs, got logps (3,), lengths (1,)
    """
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"expected one shape for all inputs, got {described}")


def as_floats(**arrays: Array) -> list[Float[Array, "..."]]:
    """The arrays in float32 or better, after checking that they share one shape.

    Returns:
      the arrays in the order given, float32, or float64 where they are.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> arrays = losses.checks.as_floats(logps=jnp.zeros(2, "bfloat16"), lengths=jnp.arange(2))
      >>> print(*(x.dtype for x in arrays))
      float32 float32
    """
    check_same_shape(arrays)
    return [jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32)) for a in arrays.values()]


def check_axes(**arrays: tuple[Array, str]) -> None:
    """Raises ValueError unless ranks are right and every letter has one size.

    Args:
      arrays: by name, each with its axes: `check_axes(logps=(logps, "b k"), labels=(labels, "b"))`.

    Returns:
      nothing.

    Example:
      >>> losses.checks.check_axes(logps=(jnp.zeros((2, 3)), "b k"), labels=(jnp.zeros(3), "b"))
      Traceback (most recent call last):
      ValueError: expected one shape for all inputs: axis b is 2 in logps and 3 in labels
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, (array, axes) in arrays.items():
        shape, letters = jnp.shape(array), axes.split()
        if len(shape) != len(letters):
            raise ValueError(f"{name}: expected one shape [{', '.join(letters)}], got {shape}")
        for letter, size in zip(letters, shape, strict=True):
            before, other = sizes.setdefault(letter, (size, name))
            if before != size:
                raise ValueError(
                    f"expected one shape for all inputs: axis {letter} is {before} in {other} and {size} "
                    f"in {name}"
                )


def floats(*arrays: Array) -> list[Float[Array, "..."]]:
    """The arrays in float32 or better; their shapes may differ.

    Returns:
      the arrays in the order given, float32, or float64 where they are.

    Example:
      >>> print(*(x.dtype for x in losses.checks.floats(jnp.zeros(2, "bfloat16"), jnp.arange(3))))
      float32 float32
    """
    return [jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32)) for a in arrays]


def positive(**values: float) -> None:
    """Raises ValueError unless every hyper-parameter is above 0.

    Returns:
      nothing.

    Example:
      >>> losses.checks.positive(beta=0.1, tau=-1.0)
      Traceback (most recent call last):
      ValueError: tau: expected a number above 0, got -1.0
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")


def not_negative(**values: float) -> None:
    """Raises ValueError unless every hyper-parameter is 0 or more.

    Returns:
      nothing.

    Example:
      >>> losses.checks.not_negative(gamma=0.0, alpha=-1.0)
      Traceback (most recent call last):
      ValueError: alpha: expected 0 or more, got -1.0
    """
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: expected 0 or more, got {value}")


def within(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    """Raises ValueError unless `low <= value < high` (`low < value < high` where `low_open`).

    Returns:
      nothing.

    Example:
      >>> losses.checks.within("label_smoothing", 0.5, 0, 0.5)
      Traceback (most recent call last):
      ValueError: label_smoothing: expected a number in [0, 0.5), got 0.5
    """
    if not (low < value if low_open else low <= value) or not value < high:
        bracket = "(" if low_open else "["
        raise ValueError(f"{name}: expected a number in {bracket}{low}, {high}), got {value}")
