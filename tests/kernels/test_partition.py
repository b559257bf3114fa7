"""Rows and vocabulary split over eight devices: the same values and gradients, and what travels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpref.kernels.partition import partition_of
from jaxpref.kernels.token_logps import STATISTICS, linear_token_logps

NAMES = tuple(STATISTICS)
CASES = [(name, (2, 2, 2)) for name in ("materialized", "vocab_scan", "token_scan", None)]
CASES += [("vocab_scan", mesh) for mesh in ((1, 1, 8), (8, 1, 1), (1, 8, 1))]


def _mesh(data, fsdp, tensor):
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def _loss(c, implementation, block=None):
    def total(operands, reference):
        logps, found = linear_token_logps(
            operands["hidden"],
            operands["weight"],
            jnp.asarray(c.targets),
            bias=operands["bias"],
            soft_cap=c.soft_cap,
            temperature=c.temperature,
            statistics=NAMES,
            reference=reference,
            implementation=implementation,
            block=block,
        )
        results = {"logps": logps} | found
        return sum((results[name] * g.astype(np.float32)).sum() for name, g in c.upstream.items()), results

    return jax.jit(jax.grad(total, has_aux=True))


@pytest.mark.parametrize(("implementation", "mesh"), CASES)
def test_devices_agree_with_float64(implementation, mesh):
    c = oracle.case((8, 2, 3), 16, 512, bias=True, temperature=0.8, names=NAMES, reference=True)
    c.bias[64:128] = -np.inf  # all that one of eight devices holds
    c.targets[c.targets // 64 == 1] = 0
    mesh = _mesh(*mesh)

    def place(x, *spec):
        return jax.device_put(jnp.asarray(x, jnp.float32), NamedSharding(mesh, P(*spec)))

    rows = ("data", "fsdp")
    operands = {
        "hidden": place(c.hidden, rows),
        "weight": place(c.weight, "tensor", "fsdp"),
        "bias": place(c.bias, "tensor"),
    }
    reference = (place(c.reference[0], rows), place(c.reference[1], "tensor", "fsdp"))
    with jax.set_mesh(mesh):
        gradients, results = _loss(c, implementation, block=24)(operands, reference)
    with np.errstate(all="ignore"):
        expected, slopes = oracle.solve(c)
    for name, x in results.items():
        if name == "forward_kl":  # the reference believes in tokens that the policy cannot say
            assert (np.asarray(x) == np.inf).all()
            continue
        np.testing.assert_allclose(x, expected[name], rtol=2e-5, atol=2e-5, err_msg=name)
    for name, x in gradients.items():
        np.testing.assert_allclose(x, slopes[name], rtol=1e-4, atol=1e-4, err_msg=name)
        assert x.sharding.is_equivalent_to(operands[name].sharding, x.ndim), (name, x.sharding)


def test_weights_travel_once_and_no_device_sees_the_whole_vocabulary():
    mesh = _mesh(2, 2, 2)
    hidden = jax.ShapeDtypeStruct((16, 24), jnp.bfloat16, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    weight = jax.ShapeDtypeStruct((640, 24), jnp.float32, sharding=NamedSharding(mesh, P("tensor", "fsdp")))
    targets = jnp.zeros((16,), jnp.int32)

    def total(hidden, weight):
        return linear_token_logps(hidden, weight, targets, implementation="vocab_scan", block=64).sum()

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(total, (0, 1))).lower(hidden, weight).compile().as_text()
    assert not re.search(r"\[(16|4),640\]", text)
    loops = re.findall(r"^%?\S*(?:body|region)\S* .*?^}", text, re.M | re.S)
    inside = [loop for loop in loops if "dot" in loop]
    assert inside
    assert not any("all-gather" in loop for loop in inside)
    # The gradient of a block of the vocabulary is summed as it is made, so that no device has all of it.
    assert any("f32[64,24]" in loop and "reduce-scatter" in loop for loop in inside)


def test_partition_of_what_does_not_divide():
    assert partition_of(6, 512, 16).splits is False  # no mesh in context
    with jax.set_mesh(_mesh(2, 2, 2)):
        whole = partition_of(6, 511, 16)
        assert (whole.rows, whole.vocab, whole.row_shards, whole.vocab_shards) == ((), None, 1, 1)
        split = partition_of(8, 512, 15)
        assert (split.rows, split.vocab, split.embed) == (("data", "fsdp"), "tensor", None)
