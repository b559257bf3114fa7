"""linear_token_logps against a float64 log-softmax, value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.kernels.token_logps import linear_token_logps


def _case(rows, embed, vocab, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(*rows, embed)) * scale
    weight = rng.normal(size=(vocab, embed))
    targets = rng.integers(0, vocab, rows)
    upstream = rng.normal(size=rows)
    return hidden, weight, targets, upstream


def _reference(hidden, weight, targets, upstream, soft_cap):
    """Value and both gradients in numpy float64, by the textbook formulas."""
    logits = hidden @ weight.T
    capped = logits if soft_cap is None else soft_cap * np.tanh(logits / soft_cap)
    top = capped.max(-1, keepdims=True)
    log_probs = capped - top - np.log(np.exp(capped - top).sum(-1, keepdims=True))
    value = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    delta = ((np.arange(weight.shape[0]) == targets[..., None]) - np.exp(log_probs)) * upstream[..., None]
    if soft_cap is not None:
        delta = delta / np.cosh(logits / soft_cap) ** 2
    return value, delta @ weight, delta.reshape(-1, weight.shape[0]).T @ hidden.reshape(-1, weight.shape[1])


def _ours(hidden, weight, targets, upstream, soft_cap, dtype):
    def total(hidden, weight):
        value = linear_token_logps(hidden, weight, jnp.asarray(targets), soft_cap=soft_cap)
        return (value * jnp.asarray(upstream, value.dtype)).sum(), value

    grad = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, value), gradients = grad(jnp.asarray(hidden, dtype), jnp.asarray(weight, dtype))
    return value, *gradients


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize(("rows", "vocab"), [((7,), 512), ((2, 3), 5000), ((3,), 50_257), ((2, 2, 2), 1)])
def test_float64_parity(rows, vocab, soft_cap):
    case = _case(rows, 16, vocab)
    expected = _reference(*case, soft_cap)
    with enable_x64(True):
        given = _ours(*case, soft_cap, "float64")
        for ours, reference in zip(given, expected, strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_float32_parity(soft_cap):
    case = _case((5,), 32, 5003)
    for ours, reference in zip(_ours(*case, soft_cap, "float32"), _reference(*case, soft_cap), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=2e-5, atol=2e-5)


def test_bfloat16_inputs_give_float32_log_probs():
    hidden, weight, targets, upstream = _case((64,), 64, 1000)
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in (hidden, weight)]
    value, d_hidden, d_weight = _ours(hidden, weight, targets, upstream, None, "bfloat16")
    expected, expected_hidden, expected_weight = _reference(*rounded, targets, upstream, None)
    assert value.dtype == jnp.float32
    assert d_hidden.dtype == d_weight.dtype == jnp.bfloat16
    # Float32 mathematics on the bfloat16 values: bfloat16 logits would be off by 0.1 here.
    np.testing.assert_allclose(value, expected, atol=2e-4)
    for ours, reference in ((d_hidden, expected_hidden), (d_weight, expected_weight)):
        error = np.linalg.norm(np.asarray(ours, np.float64) - reference) / np.linalg.norm(reference)
        assert error < 1e-2


def test_logits_of_a_thousand_stay_finite():
    case = _case((4,), 8, 100, scale=1000.0)
    for ours in _ours(*case, None, "float32"):
        assert np.isfinite(ours).all()


def test_vocabulary_sharded_over_devices_equals_one_device():
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    hidden, weight, targets, upstream = _case((8,), 16, 64)
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def place(x, *spec):
        return jax.device_put(jnp.asarray(x), NamedSharding(mesh, PartitionSpec(*spec)))

    def total(hidden, weight, targets, upstream):
        return (linear_token_logps(hidden, weight, targets) * upstream).sum()

    args = (jnp.asarray(hidden, jnp.float32), jnp.asarray(weight, jnp.float32))
    rest = (jnp.asarray(targets), jnp.asarray(upstream, jnp.float32))
    one = jax.jit(jax.value_and_grad(total, (0, 1)))(*args, *rest)
    placed = (
        place(args[0], "data"),
        place(args[1], "tensor"),
        place(rest[0], "data"),
        place(rest[1], "data"),
    )
    program = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*placed).compile()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(program(*placed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # No device ever holds the logits of its rows over the whole vocabulary.
    assert "f32[4,64]" not in program.as_text()


def test_shapes_that_do_not_fit():
    hidden, weight, targets, _ = _case((4,), 8, 100)
    with pytest.raises(ValueError, match=r"\(4, 8\).*\(100, 8\).*\(3,\)"):
        linear_token_logps(jnp.asarray(hidden), jnp.asarray(weight), jnp.asarray(targets[:3]))
