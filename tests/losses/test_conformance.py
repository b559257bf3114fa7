"""The battery every exported loss passes for one row of `loss_table.ROWS`."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_table import ROWS, Row, inputs_for
from x64 import enable_x64

from jaxpref import losses

ALL = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def _split(inputs):
    """Inputs that carry gradients, and those that are counts."""
    return (
        {n: v for n, v in inputs.items() if not n.endswith("lengths")},
        {n: v for n, v in inputs.items() if n.endswith("lengths")},
    )


def test_every_exported_loss_has_a_row():
    assert {row.name for row in ROWS} == set(losses.__all__)


@ALL
def test_gradients_equal_float64_finite_differences(row: Row):
    with enable_x64():
        floats, counts = _split(inputs_for(row.loss))
        floats = {n: jnp.asarray(v, jnp.float64) for n, v in floats.items()}
        moving = {n: v for n, v in floats.items() if not n.startswith("reference")}
        fixed = {n: v for n, v in floats.items() if n.startswith("reference")} | counts

        def total(x):
            weights = jnp.arange(1.0, 6.0)
            return (row.loss(**x, **fixed) * weights).sum()

        reverse = jax.grad(total)(moving)
        rng = np.random.default_rng(1)
        for _ in range(3):
            direction = {n: jnp.asarray(rng.normal(size=5)) for n in moving}
            step = 1e-5
            ahead = total({n: moving[n] + step * direction[n] for n in moving})
            behind = total({n: moving[n] - step * direction[n] for n in moving})
            numeric = float((ahead - behind) / (2 * step))
            _, forward = jax.jvp(total, (moving,), (direction,))
            backward = sum(float((reverse[n] * direction[n]).sum()) for n in moving)
            np.testing.assert_allclose(float(forward), numeric, rtol=2e-7, atol=1e-8)
            np.testing.assert_allclose(backward, numeric, rtol=2e-7, atol=1e-8)


@ALL
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_in_float32_at_extremes(row: Row, size: float):
    names = _split(inputs_for(row.loss))[0]
    signs = np.array(list(np.ndindex(*(2,) * len(names)))) * 2.0 - 1  # every pattern is one example
    _, counts = _split(inputs_for(row.loss, batch=len(signs)))
    x = {n: jnp.asarray(s * size, jnp.float32) for n, s in zip(names, signs.T, strict=True)}
    values = row.loss(**x, **counts)
    assert jnp.isfinite(values).all(), signs[~np.isfinite(values)]
    gradient = jax.grad(lambda x: row.loss(**x, **counts).sum())(x)
    for name, g in gradient.items():
        assert jnp.isfinite(g).all(), (name, signs[~np.isfinite(g)])


@ALL
def test_one_number_per_example_in_float32(row: Row):
    inputs = inputs_for(row.loss)
    for dtype in (jnp.bfloat16, jnp.float32):
        cast = {n: v if n.endswith("lengths") else jnp.asarray(v, dtype) for n, v in inputs.items()}
        out = row.loss(**cast)
        assert out.shape == (5,)
        assert out.dtype == jnp.float32
    single = [row.loss(**{n: jnp.asarray(v)[i : i + 1] for n, v in inputs.items()}) for i in range(5)]
    whole = row.loss(**{n: jnp.asarray(v) for n, v in inputs.items()})
    np.testing.assert_array_equal(np.concatenate(single), whole)


@pytest.mark.parametrize("row", [r for r in ROWS if len(inputs_for(r.loss)) > 1], ids=lambda row: row.name)
def test_shape_mismatch_is_an_error(row: Row):
    inputs = {n: jnp.asarray(v) for n, v in inputs_for(row.loss).items()}
    for name in inputs:
        with pytest.raises(ValueError, match="expected one shape"):
            row.loss(**(inputs | {name: inputs[name][:1]}))


@ALL
def test_jit_equals_eager(row: Row):
    inputs = {n: jnp.asarray(v) for n, v in inputs_for(row.loss).items()}
    np.testing.assert_allclose(jax.jit(row.loss)(**inputs), row.loss(**inputs), rtol=1e-6, atol=1e-6)


@ALL
def test_reference_has_exactly_zero_gradient(row: Row):
    inputs = {n: jnp.asarray(v, jnp.float32) for n, v in inputs_for(row.loss).items()}
    reference = [n for n in inputs if n.startswith("reference")]
    gradient = jax.grad(lambda x: row.loss(**x).sum())(inputs)
    for name, g in gradient.items():
        if name in reference:
            np.testing.assert_array_equal(g, 0)
        elif not name.endswith("lengths"):
            assert jnp.abs(g).max() > 0, name


@pytest.mark.parametrize("row", [r for r in ROWS if r.at_equality is not None], ids=lambda row: row.name)
def test_value_at_equality(row: Row):
    inputs = {n: jnp.ones(3) for n in inputs_for(row.loss)}
    np.testing.assert_allclose(row.loss(**inputs), row.at_equality, rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "arguments"),
    [(row, arguments) for row in ROWS for arguments in row.bad_arguments],
    ids=lambda v: v.name if isinstance(v, Row) else str(v),
)
def test_bad_hyper_parameter_is_an_error(row: Row, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        row.loss(**inputs_for(row.loss), **arguments)


@ALL
def test_signature_and_docstring(row: Row):
    for parameter in inspect.signature(row.loss).parameters.values():
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        assert keyword == (parameter.default is not parameter.empty), parameter
        assert parameter.annotation is not parameter.empty, parameter
    doc = inspect.getdoc(row.loss) or ""
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|19\d\d|20\d\d", doc), "the docstring names its source"
    assert "nats" in doc or "log" in doc, "the docstring names its unit"
