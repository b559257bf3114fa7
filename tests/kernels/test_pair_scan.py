"""The gradient taken in the forward pass equals the one taken backward, and the loss is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from x64 import enable_x64

from jaxpref.kernels.token_logps import linear_summed_loss, linear_token_logps


def _case(b=5, k=2, r=7, d=16, v=300, dtype="float64"):
    rng = np.random.default_rng(0)
    where = rng.random((b, k, r)) < 0.8
    where[2, 0] = False  # a padding row
    hidden = rng.normal(size=(b, k, r, d))
    hidden[~where] = np.nan
    arrays = hidden, rng.normal(size=(v, d))
    data = {
        "reference": jnp.asarray(rng.normal(size=(b, k)), dtype),
        "valid": jnp.asarray(where.any(-1).all(-1)),
    }
    targets = jnp.asarray(rng.integers(0, v, (b, k, r)))
    return *(jnp.asarray(x, dtype) for x in arrays), targets, data, jnp.asarray(where)


def _dpo(token_logps, data):
    ratio = token_logps.sum(-1) - data["reference"]
    return jnp.where(data["valid"], -jax.nn.log_sigmoid(0.5 * (ratio[:, 0] - ratio[:, 1])), 0).sum()


def _both(hidden, weight, targets, data, where, soft_cap=None, examples=None):
    def plain(hidden, weight):
        logps = linear_token_logps(
            hidden, weight, targets, where=where, soft_cap=soft_cap, implementation="reference"
        )
        return 3 * _dpo(logps, data), logps

    def scanned(hidden, weight):
        total, logps = linear_summed_loss(
            _dpo, hidden, weight, targets, data, where=where, soft_cap=soft_cap, examples=examples
        )
        return 3 * total, logps

    for function in (plain, scanned):
        yield jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))(hidden, weight)
    yield jax.jit(scanned)(hidden, weight)


@pytest.mark.parametrize(("examples", "soft_cap"), [(1, None), (2, 3.0), (5, None), (None, None)])
def test_equals_the_plain_form_in_float64(examples, soft_cap):
    with enable_x64(True):
        plain, scanned, value_only = _both(*_case(), soft_cap=soft_cap, examples=examples)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(scanned), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)
        for a, b in zip(jax.tree.leaves(plain[0]), jax.tree.leaves(value_only), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)


def test_bfloat16_weights_are_summed_in_float32():
    hidden, weight, targets, data, where = _case(b=32, dtype="float32")
    narrow = hidden.astype(jnp.bfloat16), weight.astype(jnp.bfloat16)
    exact, _, _ = _both(*(x.astype(jnp.float32) for x in narrow), targets, data, where)
    _, scanned, _ = _both(*narrow, targets, data, where, examples=1)
    slope, reference = (np.asarray(x[1][1], np.float64) for x in (scanned, exact))
    # One rounding of the result: 32 roundings of partial sums would be off by far more.
    assert np.linalg.norm(slope - reference) / np.linalg.norm(reference) < 1e-2


def test_devices_agree():
    hidden, weight, targets, data, where = _case(b=8, v=304, dtype="float32")
    one = list(_both(hidden, weight, targets, data, where, examples=1))[1]
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((2, 2, 2), axes, axis_types=(AxisType.Auto,) * 3)

    def rows(tree):
        return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp")))), tree)

    weight = jax.device_put(weight, NamedSharding(mesh, P("tensor", "fsdp")))
    with jax.set_mesh(mesh):
        many = list(_both(rows(hidden), weight, rows(targets), rows(data), rows(where), examples=1))[1]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5)


def test_logits_of_a_few_pairs_only():
    hidden, weight, targets, data, where = _case(b=16, r=64, v=4096, dtype="float32")

    def total(hidden, weight):
        return linear_summed_loss(_dpo, hidden, weight, targets, data, where=where, examples=1)[0]

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(hidden, weight).compile()
    all_logits = 4 * targets.size * 4096
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * all_logits


def test_data_are_constants():
    hidden, weight, targets, data, where = _case(dtype="float32")

    def total(reference):
        return linear_summed_loss(
            _dpo, hidden, weight, targets, data | {"reference": reference}, where=where
        )[0]

    with pytest.raises(ValueError, match="constants"):
        jax.grad(total)(data["reference"])


def test_shapes_that_do_not_fit():
    hidden, weight, targets, data, where = _case(dtype="float32")
    with pytest.raises(ValueError, match=r"expected \[b, k, r\]"):
        linear_summed_loss(_dpo, hidden[0], weight, targets[0], data, where=where[0])
    with pytest.raises(ValueError, match=r"linear_summed_loss: .* do not fit"):
        linear_summed_loss(_dpo, hidden[:, :, :1], weight, targets, data, where=where)
