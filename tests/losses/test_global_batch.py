"""Coupled losses see the global batch: devices change nothing, microbatches change the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from loss_inputs import axes_of, inputs_for, is_float

from jaxpref.methods import METHODS, Method

COUPLED = [m for m in METHODS if m.coupled]


def _inputs(method: Method, batch: int, scale: float = 3.0):
    x = inputs_for(method.loss, batch, scale)
    return {n: jnp.asarray(v, jnp.float32) if is_float(v) else jnp.asarray(v) for n, v in x.items()}


def _step(method: Method, inputs, state):
    """Losses and the state after them, `None` where there is none."""
    if method.state is None:
        return method.loss(**inputs), None
    return method.loss(**inputs, state=state)


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

    step = jax.jit(lambda x, state: _step(method, x, state))
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
    whole = _step(method, inputs, _start(method))
    parts, state = [], _start(method)
    for rows in (slice(0, 8), slice(8, 16)):
        part = {n: x[rows] if axes[n][:1] == ("b",) else x for n, x in inputs.items()}
        losses, state = _step(method, part, state)
        parts.append(losses)
    mean = jnp.concatenate(parts).mean()
    moved = [jnp.abs(whole[0].mean() - mean)]
    moved += [
        jnp.abs(a - b).max() for a, b in zip(jax.tree.leaves(whole[1]), jax.tree.leaves(state), strict=True)
    ]
    assert max(map(float, moved)) > 1e-4
