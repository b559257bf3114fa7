"""A head that is not trained: its gradient in hidden states, made in the forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from x64 import enable_x64

from jaxpref.kernels.token_logps import linear_token_logps


def gradient(c, hidden, weight, bias, block):
    """Of the log-probs' weighted sum, in hidden states alone."""

    def total(hidden):
        logps = linear_token_logps(
            hidden,
            weight,
            jnp.asarray(c.targets),
            bias=bias,
            soft_cap=c.soft_cap,
            temperature=c.temperature,
            implementation="vocab_scan",
            block=block,
        )
        return (logps * jnp.asarray(c.upstream["logps"], logps.dtype)).sum(), logps

    return jax.jit(jax.grad(total, has_aux=True))(hidden)


@pytest.mark.parametrize(("block", "soft_cap"), [(128, 3.0), (5000, None)])
def test_it_equals_float64(block, soft_cap):
    c = oracle.case((2, 3), 8, 300, bias=True, soft_cap=soft_cap, temperature=0.7)
    c.hidden[0, 0] *= 30  # the largest logit is 0 or far above it, block after block
    with enable_x64(True):
        slope, logps = gradient(c, *map(jnp.asarray, (c.hidden, c.weight, c.bias)), block)
    expected, slopes = oracle.solve(c)
    np.testing.assert_allclose(logps, expected["logps"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(slope, slopes["hidden"], rtol=1e-9, atol=1e-10)


def test_tokens_taken_out_and_bfloat16():
    c = oracle.case((64,), 16, 300, bias=True).rounded("bfloat16")
    c.bias[:150] = -np.inf
    c.targets[c.targets < 150] = 200
    operands = (jnp.asarray(x, jnp.bfloat16) for x in (c.hidden, c.weight, c.bias))
    slope, _ = gradient(c, *operands, 64)
    with np.errstate(all="ignore"):
        exact = oracle.solve(c)[1]["hidden"]
    assert slope.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(slope, np.float64) - exact) / np.linalg.norm(exact) < 1e-2


def test_devices_agree_with_float64():
    """Rows, width and vocabulary split over eight devices."""
    c = oracle.case((8, 2), 16, 512, bias=True, temperature=0.8)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

    def place(x, *spec):
        return jax.device_put(jnp.asarray(x, jnp.float32), NamedSharding(mesh, P(*spec)))

    hidden, weight = place(c.hidden, ("data", "fsdp")), place(c.weight, "tensor", "fsdp")
    with jax.set_mesh(mesh):
        slope, logps = gradient(c, hidden, weight, place(c.bias, "tensor"), 100)
    expected, slopes = oracle.solve(c)
    np.testing.assert_allclose(logps, expected["logps"], atol=2e-5)
    np.testing.assert_allclose(slope, slopes["hidden"], atol=1e-4)
    assert slope.sharding.is_equivalent_to(hidden.sharding, slope.ndim)


def test_logits_are_made_once():
    """Two products with the head in place of three, in blocks: of the loop's body, which is counted once."""

    def products(wanted):
        def total(hidden, weight):
            return linear_token_logps(
                hidden, weight, jnp.zeros(64, jnp.int32), implementation="vocab_scan", block=128
            ).sum()

        args = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((512, 32), jnp.float32)
        lowered = jax.jit(jax.grad(total, wanted)).lower(*args).as_text()
        return lowered.count("dot_general")

    assert (products((0, 1)), products(0)) == (4, 2)
