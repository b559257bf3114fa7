"""bfloat16 params learn what float32 ones do: whatever adds up many small numbers does so in float32.

A bfloat16 sum of ones stops at 256, and a running mean stops where a step of it is below 2^-9 of its size.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxpref.algorithms import copies
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.optimizers import adamw, apply_gradient, constant, rmsprop
from jaxpref.kernels.lookup import looked_up
from jaxpref.metrics import Mean, summed, weighted_mean
from jaxpref.models.layers import Linear, Norm
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer
from jaxpref.types import Completions

NARROW = jnp.bfloat16


def test_a_token_that_comes_often_gets_all_of_its_gradient():
    tokens = jnp.zeros((2, 512), jnp.int32)
    gradient = jax.grad(lambda table: looked_up(table, tokens).astype(jnp.float32).sum())(
        jnp.zeros((4, 2), NARROW)
    )
    assert gradient.dtype == NARROW
    np.testing.assert_array_equal(gradient.astype(jnp.float32), [[1024, 1024], *[[0, 0]] * 3])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_lookup_is_that_of_indexing(dtype):
    table = jax.random.normal(jax.random.key(0), (5, 3)).astype(dtype)
    tokens = jax.random.randint(jax.random.key(1), (4, 6), 0, 5)
    weights = jax.random.normal(jax.random.key(2), (4, 6, 3)).astype(dtype)
    got = jax.grad(lambda table: (looked_up(table, tokens) * weights).astype(jnp.float32).sum())(table)
    expected = np.zeros((5, 3))
    np.add.at(expected, np.asarray(tokens), np.asarray(weights, np.float64))
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=1e-6 if dtype == "float32" else 2**-8)


@pytest.mark.parametrize("jit", [False, True])
def test_sums_over_tokens_of_a_layer(jit):
    """Weights, biases and norms: products and reductions of XLA add up in float32 by themselves."""
    linear = Linear(2, 2, ("a", "b"), bias=True, dtype=NARROW, rngs=nnx.Rngs(0))
    norm = Norm(
        dataclasses.replace(tiny(vocab=8, embed=2, layers=1, heads=1, mlp=4), norm="layer"), 2, dtype=NARROW
    )
    x = jnp.tile(jnp.array([[1.0, -1.0]], NARROW), (4096, 1))
    for layer, expected in ((linear, {4096.0, -4096.0}), (norm, {4096.0, -4096.0})):
        graph, weights = nnx.split(layer)

        def total(weights, graph=graph):
            return nnx.merge(graph, weights)(x).astype(jnp.float32).sum()

        gradient = jax.grad(total)(weights) if not jit else jax.jit(jax.grad(total))(weights)
        for leaf in jax.tree.leaves(gradient):
            assert set(np.unique(leaf.astype(jnp.float32))) <= expected


def test_the_norm_of_a_gradient_is_that_of_float32():
    """Of a whole model, whose every token is the same."""
    sizes = partial(tiny, vocab=8, embed=16, layers=2, heads=2, mlp=32, tied=False)
    narrow, wide = (
        transformer(sizes=sizes, param_dtype=dtype, eos_id=2) for dtype in ("bfloat16", "float32")
    )
    tokens = jnp.full((8, 2, 128), 3, jnp.int32)
    mask = jnp.ones(tokens.shape, bool)
    batch = Completions(tokens[:, 0, :4], mask[:, 0, :4], tokens, mask)
    params = narrow.init(jax.random.key(0))
    norms = {}
    for name, policy, start in (
        ("narrow", narrow, params),
        ("wide", wide, jax.tree.map(lambda x: x.astype(jnp.float32), params)),
    ):
        gradient = jax.jit(jax.grad(lambda p, policy=policy: policy.token_logps(p, batch).sum()))(start)
        norms[name] = float(
            optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), gradient["embedding"]))
        )
    assert norms["narrow"] / norms["wide"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("microbatches", [1, 64, 512])
def test_parts_of_a_batch_add_up(microbatches):
    def loss(weight, part, key):
        del key
        return Mean((weight.astype(jnp.float32) * part).sum(), jnp.float32(part.size)), ({}, None)

    gradient, _ = accumulated_gradient(
        loss, jnp.ones((), NARROW), jnp.ones(512), jax.random.key(0), microbatches=microbatches
    )
    assert gradient.dtype == NARROW
    assert float(gradient) == 1.0


@pytest.mark.parametrize("build", [adamw, rmsprop])
def test_moments_reach_what_they_estimate(build):
    optimizer = build(schedule=partial(constant, value=1e-3))
    narrow, state = {"w": jnp.ones(3, NARROW)}, optimizer.init({"w": jnp.ones(3, NARROW)})
    wide, wide_state = {"w": jnp.ones(3)}, optimizer.init({"w": jnp.ones(3)})
    step = jax.jit(partial(apply_gradient, optimizer))
    for _ in range(1500):
        _, state, metrics = step(narrow, state, {"w": jnp.full(3, 0.1, NARROW)})
        _, wide_state, wide_metrics = step(
            wide, wide_state, {"w": jnp.full(3, 0.1, NARROW).astype(jnp.float32)}
        )
    for got, expected in zip(jax.tree.leaves(state), jax.tree.leaves(wide_state), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert float(metrics["grad_norm"].value) == pytest.approx(
        float(wide_metrics["grad_norm"].value), rel=1e-6
    )
    new, _, _ = step(narrow, state, {"w": jnp.ones(3, NARROW)})
    assert new["w"].dtype == NARROW


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_an_average_of_params_moves_by_small_steps(decay):
    rules = {"average": partial(copies.averaged, decay=decay), "frozen": copies.frozen}
    start, policy = {"w": jnp.zeros((), NARROW)}, {"w": jnp.ones((), NARROW)}
    policies = copies.start(rules, start)
    follow = jax.jit(partial(copies.refreshed, rules))
    for step in range(2000):
        policies = follow(policies, policy, jnp.int32(step))
    assert float(policies["average"]["w"]) == pytest.approx(1 - decay**2000, rel=1e-4)
    assert policies["frozen"]["w"].dtype == NARROW


def test_a_blend_near_its_start_is_not_the_start():
    """BPO's "ema" anchor: a hundredth of the way."""
    rule = partial(copies.interpolated, of="behaviour", weight=0.01)
    start, moved = {"w": jnp.ones((), NARROW)}, {"w": jnp.full((), 1.25, NARROW)}
    policies = copies.start({"anchor": rule, "behaviour": copies.frozen, "initial": copies.frozen}, start)
    policies["behaviour"] = moved
    anchor = copies.refreshed({"anchor": rule}, policies, moved, jnp.int32(1))["anchor"]
    assert float(anchor["w"]) == pytest.approx(1.0025)


def test_means_of_narrow_values():
    ones = jnp.ones(1000, NARROW)
    for mean in (weighted_mean(ones), weighted_mean(ones, ones), weighted_mean(ones, jnp.ones(1000, bool))):
        assert float(mean.total) == 1000
        assert float(mean.value) == 1
    assert float(summed(ones).value) == 1000
