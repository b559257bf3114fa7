"""Coupled losses see the global batch: devices change nothing, microbatches change the value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from loss_inputs import axes_of, inputs_for, is_float

from jaxpref.methods import METHODS, Method

COUPLED = [m for m in METHODS if m.coupled]
BY_NAME = {m.name: m for m in COUPLED}


def _inputs(method: Method, batch: int, scale: float = 3.0):
    x = inputs_for(method.loss, batch, scale)
    return {n: jnp.asarray(v, jnp.float32) if is_float(v) else jnp.asarray(v) for n, v in x.items()}


@functools.cache
def _step(name: str):
    """Losses and the state after them, `None` where there is none; compiled once for both tests."""
    method = BY_NAME[name]
    if method.state is None:
        return jax.jit(lambda inputs, state: (method.loss(**inputs), None))
    return jax.jit(lambda inputs, state: method.loss(**inputs, state=state))


def _start(method: Method):
    return None if method.state is None else method.state()


@pytest.mark.parametrize("method", COUPLED, ids=lambda m: m.name)
def test_eight_devices_give_what_one_gives(method: Method):
    assert jax.device_count() == 8
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    inputs, axes = _inputs(method, 16), axes_of(method.loss)

    def place(name, x):
        spec = PartitionSpec("data") if axes[name][:1] == ("b",) else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    step = _step(method.name)
    one = step(inputs, _start(method))
    eight = step({n: place(n, x) for n, x in inputs.items()}, _start(method))
    assert len(eight[0].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, eight)


@pytest.mark.parametrize("method", COUPLED, ids=lambda m: m.name)
def test_two_microbatches_give_something_else(method: Method):
    """What the docstrings warn of. With state, the second part sees what the first one left."""
    inputs, axes = _inputs(method, 16, scale=30.0), axes_of(method.loss)
    if "valid" in inputs:
        inputs["valid"] = jnp.ones(16, bool)
    step = _step(method.name)
    whole = step(inputs, _start(method))
    parts, state = [], _start(method)
    for rows in (slice(0, 8), slice(8, 16)):
        part = {n: np.asarray(x)[rows] if axes[n][:1] == ("b",) else x for n, x in inputs.items()}
        losses, state = step(part, state)
        parts.append(np.asarray(losses))
    moved = [np.abs(np.asarray(whole[0]).mean() - np.concatenate(parts).mean())]
    moved += [
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for a, b in zip(jax.tree.leaves(whole[1]), jax.tree.leaves(state), strict=True)
    ]
    assert max(map(float, moved)) > 1e-4
