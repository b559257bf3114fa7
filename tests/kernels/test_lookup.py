"""Tables split over devices: what is looked up, its gradient, and what no device has whole."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpref.kernels.lookup import looked_up
from jaxpref.kernels.tokens import tokens_split, tokens_whole

V, D, B, T = 48, 16, 8, 5
ROWS = ("data", "fsdp")


def _mesh(*shape):
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def _placed(mesh, x, *spec):
    return jax.device_put(jnp.asarray(x), NamedSharding(mesh, P(*spec)))


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (2, 1, 4)])
def test_a_split_table_is_indexed(shape):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(V, D)).astype(np.float32)
    tokens, weights = rng.integers(0, V, (B, T)), rng.normal(size=(B, T, D)).astype(np.float32)
    tokens[0] = 7  # often
    mesh = _mesh(*shape)

    def loss(table, tokens, weights):
        found = looked_up(table, tokens)
        return (found * weights).sum(), found

    with jax.set_mesh(mesh):
        operands = (
            _placed(mesh, table, "tensor", "fsdp"),
            _placed(mesh, tokens, ROWS),
            _placed(mesh, weights, ROWS),
        )
        program = jax.jit(jax.grad(loss, has_aux=True)).lower(*operands).compile()
        gradient, found = program(*operands)
    np.testing.assert_array_equal(found, table[tokens])
    assert found.sharding.is_equivalent_to(operands[2].sharding, 3)
    expected = np.zeros((V, D))
    np.add.at(expected, tokens, weights.astype(np.float64))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    if shape[1] > 1:
        assert not re.search(rf"\[{V // shape[2]},{D}\]", program.as_text())


def test_what_travels_is_rounded_first():
    mesh = _mesh(1, 8, 1)
    with jax.set_mesh(mesh):
        table = _placed(mesh, np.full((V, D), 1 + 2**-12, np.float32), None, "fsdp")
        tokens = _placed(mesh, np.zeros((B, T), np.int32), "fsdp")
        found = looked_up(table, tokens, "bfloat16")
        gradient = jax.grad(lambda x: looked_up(x, tokens, "bfloat16").astype(jnp.float32).sum())(table)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), 1)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient[0], B * T)


def test_tokens_are_split_between_layers_where_there_are_many():
    mesh = _mesh(2, 2, 2)
    split = NamedSharding(mesh, P(ROWS, "tensor"))

    def layer(x):
        inside = tokens_whole(x)
        return tokens_split(jnp.sin(inside))

    for t, expected in ((32, split), (30, NamedSharding(mesh, P(ROWS)))):  # 15 each are too few
        x = np.random.default_rng(0).normal(size=(B, t, D)).astype(np.float32)
        with jax.set_mesh(mesh):
            y, pull = jax.vjp(jax.jit(layer), _placed(mesh, x, ROWS))
            assert y.sharding.is_equivalent_to(expected, 3)
            (gradient,) = pull(jnp.ones_like(y))
        np.testing.assert_allclose(y, np.sin(x), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradient, np.cos(x), rtol=1e-6, atol=1e-6)
    assert layer(jnp.ones((1, 32, 1))).shape == (1, 32, 1)  # no mesh in context
