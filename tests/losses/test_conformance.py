"""The battery that every exported loss passes for one row of `jaxpref.methods`."""

import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import DATA, axes_of, inputs_for, is_float, moving, value
from x64 import enable_x64

from jaxpref import losses
from jaxpref.methods import METHODS, Method


def over(methods):
    return pytest.mark.parametrize("method", methods, ids=lambda m: m.name)


ALL = over(METHODS)
ONE_BY_ONE = over([m for m in METHODS if not m.coupled])


def test_every_exported_loss_has_a_row():
    names = [m.name for m in METHODS]
    assert sorted(names) == sorted(set(names))
    functions = {n for n in losses.__all__ if not n.endswith("_state")}
    assert set(names) == functions


@over([m for m in METHODS if not m.stops])
def test_gradients_equal_float64_finite_differences(method: Method):
    with enable_x64():
        given = {
            n: jnp.asarray(x, jnp.float64) if is_float(x) else x for n, x in inputs_for(method.loss).items()
        }
        moves = moving(method, given)
        fixed = {n: x for n, x in given.items() if n not in moves}

        @jax.jit
        def total(x):
            out = value(method, {**x, **fixed})
            return (out * jnp.arange(1.0, out.size + 1).reshape(out.shape)).sum()

        reverse = jax.jit(jax.grad(total))(moves)
        directional = jax.jit(lambda x, v: jax.jvp(total, (x,), (v,)))
        rng = np.random.default_rng(1)
        for _ in range(3):
            direction = {n: jnp.asarray(rng.normal(size=x.shape)) for n, x in moves.items()}
            step = 1e-5
            ahead = total({n: moves[n] + step * direction[n] for n in moves})
            behind = total({n: moves[n] - step * direction[n] for n in moves})
            numeric = float((ahead - behind) / (2 * step))
            _, forward = directional(moves, direction)
            backward = sum(float((reverse[n] * direction[n]).sum()) for n in moves)
            np.testing.assert_allclose(float(forward), numeric, rtol=5e-7, atol=1e-8)
            np.testing.assert_allclose(backward, numeric, rtol=5e-7, atol=1e-8)


def _extremes(method: Method, size: float):
    """Inputs at +-size: every pattern of signs where inputs are [b], else random signs of every element."""
    drawn = inputs_for(method.loss)
    names = [n for n, x in drawn.items() if is_float(x) and (n in moving(method, drawn) or "logps" in n)]
    if all(axes_of(method.loss)[n] == ("b",) for n in names) and len(names) <= 8:
        patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=len(names))))
        inputs = inputs_for(method.loss, batch=len(patterns))
        signs = {n: patterns[:, i] for i, n in enumerate(names)}
    else:
        inputs, rng = inputs_for(method.loss, batch=64), np.random.default_rng(2)
        signs = {n: rng.choice([-1.0, 1.0], inputs[n].shape) for n in names}
    for n in names:
        s = signs[n]
        if n.endswith("_kl"):
            s = np.abs(s)
        if n.endswith("log_sum_p2"):
            s = -np.abs(s)
        inputs[n] = s * size
    return {n: jnp.asarray(x, jnp.float32) if is_float(x) else x for n, x in inputs.items()}, names


@ALL
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_in_float32_at_extremes(method: Method, size: float):
    inputs, names = _extremes(method, size)
    values = value(method, inputs)
    bad = ~np.isfinite(values)
    assert not bad.any(), {n: np.asarray(inputs[n])[bad.reshape(len(bad), -1).any(-1)][:1] for n in names}
    moves = moving(method, inputs)
    rest = {n: x for n, x in inputs.items() if n not in moves}
    gradient = jax.grad(lambda x: value(method, {**x, **rest}).sum())(moves)
    for name, g in gradient.items():
        assert jnp.isfinite(g).all(), name


@ALL
def test_one_number_per_example_in_float32(method: Method):
    inputs = inputs_for(method.loss)
    for dtype in (jnp.bfloat16, jnp.float32):
        out = value(method, {n: jnp.asarray(x, dtype) if is_float(x) else x for n, x in inputs.items()})
        assert out.shape[0] == 5
        assert out.ndim == (2 if any("o" in axes for axes in axes_of(method.loss).values()) else 1)
        assert out.dtype == jnp.float32


@ONE_BY_ONE
def test_examples_stand_for_themselves(method: Method):
    inputs, axes = inputs_for(method.loss), axes_of(method.loss)
    single = [
        value(method, {n: jnp.asarray(x)[i : i + 1] if "b" in axes[n] else x for n, x in inputs.items()})
        for i in range(5)
    ]
    np.testing.assert_allclose(np.concatenate(single), value(method, inputs), rtol=1e-6, atol=1e-6)


@over([m for m in METHODS if m.coupled and {"valid", "where"} & set(m.inputs)])
def test_padding_rows_change_nothing(method: Method):
    """Whatever stands in rows that are not real, and however many there are: NaN must not leak either."""
    inputs, axes = inputs_for(method.loss), axes_of(method.loss)
    real = "valid" if "valid" in inputs else "where"
    inputs[real] = np.array([True, True, False, True, False])
    rows = {n for n in inputs if "b" in axes[n]}
    garbage = dict(inputs)
    for n in rows:
        if is_float(inputs[n]):
            shape = (-1, *(1,) * (inputs[n].ndim - 1))
            garbage[n] = np.where(inputs[real].reshape(shape), inputs[n], np.nan)
    keep = inputs[real]
    np.testing.assert_allclose(value(method, garbage)[keep], value(method, inputs)[keep], rtol=1e-6)
    moves = moving(method, garbage)
    rest = {n: x for n, x in garbage.items() if n not in moves}

    def total(x):
        return jnp.where(keep, value(method, {**x, **rest}), 0).sum()

    for name, g in jax.grad(total)({n: jnp.asarray(x) for n, x in moves.items()}).items():
        assert np.isfinite(g[keep]).all(), name
        np.testing.assert_array_equal(g[~keep], 0, err_msg=name)
    if "key" in inputs:
        return  # a draw depends on how many rows there are
    fewer = {n: x[keep] if n in rows else x for n, x in inputs.items()}
    np.testing.assert_allclose(value(method, fewer), value(method, inputs)[keep], rtol=1e-5, atol=1e-6)


@over([m for m in METHODS if len(m.inputs) > 1])
def test_shape_mismatch_is_an_error(method: Method):
    inputs = inputs_for(method.loss)
    for name, axes in axes_of(method.loss).items():
        if "b" in axes:
            with pytest.raises(ValueError, match="expected one shape"):
                value(method, inputs | {name: inputs[name][:1]})


@ALL
def test_jit_equals_eager(method: Method):
    inputs = inputs_for(method.loss)
    compiled = jax.jit(lambda x: value(method, x))(inputs)
    np.testing.assert_allclose(compiled, value(method, inputs), rtol=2e-6, atol=2e-6)


@ALL
def test_reference_has_exactly_zero_gradient(method: Method):
    inputs = inputs_for(method.loss)
    floats = {n: jnp.asarray(x, jnp.float32) for n, x in inputs.items() if is_float(x)}
    rest = {n: x for n, x in inputs.items() if n not in floats}
    gradient = jax.grad(lambda x: value(method, {**x, **rest}).sum())(floats)
    moves = moving(method, inputs)
    for name, g in gradient.items():
        if name.startswith("reference") or name in method.constants:
            np.testing.assert_array_equal(g, 0, err_msg=name)
        elif name in moves:
            assert jnp.abs(g).max() > 0, name
        else:
            assert DATA.match(name)


@over([m for m in METHODS if m.at_equality is not None])
def test_value_at_equality(method: Method):
    inputs = {n: jnp.ones(3) for n in inputs_for(method.loss)}
    np.testing.assert_allclose(method.loss(**inputs), method.at_equality, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [(method, arguments) for method in METHODS for arguments in method.rejects],
    ids=lambda v: v.name if isinstance(v, Method) else str(v),
)
def test_bad_hyper_parameter_is_an_error(method: Method, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        value(method, inputs_for(method.loss), **arguments)


@ALL
def test_signature_and_docstring(method: Method):
    for parameter in inspect.signature(method.loss).parameters.values():
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        assert keyword == (parameter.default is not parameter.empty), parameter
        assert parameter.annotation is not parameter.empty, parameter
    doc = inspect.getdoc(method.loss) or ""
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|19\d\d|20\d\d", doc), "the docstring names its source"
    assert "nats" in doc or "log" in doc, "the docstring names its unit"
    if method.coupled:
        assert "microbatch" in doc, "the docstring says what microbatching changes"
