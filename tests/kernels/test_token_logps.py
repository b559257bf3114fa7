"""linear_token_logps and token_logps against float64, every implementation that this machine runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from x64 import enable_x64

from jaxpref.kernels.token_logps import STATISTICS, linear_token_logps, token_logps

XLA = ("materialized", "vocab_scan", "token_scan", "reference")
ALL = tuple(STATISTICS)


def _run(c, dtype, *, names=(), **options):
    """Results by name and gradients by operand, compiled."""
    arrays = {"hidden": c.hidden, "weight": c.weight}
    arrays |= {} if c.bias is None else {"bias": c.bias}
    operands = {name: jnp.asarray(x, dtype) for name, x in arrays.items()}
    reference = None if c.reference is None else tuple(jnp.asarray(x, dtype) for x in c.reference)

    def total(operands):
        logps, found = linear_token_logps(
            operands["hidden"],
            operands["weight"],
            jnp.asarray(c.targets),
            bias=operands.get("bias"),
            soft_cap=c.soft_cap,
            temperature=c.temperature,
            statistics=names,
            reference=reference,
            **options,
        )
        results = {"logps": logps} | found
        value = sum((results[name] * jnp.asarray(g, logps.dtype)).sum() for name, g in c.upstream.items())
        return value, results

    gradients, results = jax.jit(jax.grad(total, has_aux=True))(operands)
    return results, gradients


SHAPES = {  # rows, width, vocabulary, block: ragged everywhere; 50,257 is GPT-2's
    "one row": ((1,), 8, 300, 128),
    "one token in the vocabulary": ((2, 2, 2), 8, 1, 128),
    "no tile divides": ((2, 3), 16, 5000, 384),
    "gpt2": ((3,), 16, 50_257, 4096),
    "batch": ((2, 2, 9), 32, 512, 100),
}


@pytest.mark.parametrize("implementation", XLA)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_implementation_equals_float64(implementation, shape):
    rows, embed, vocab, block = SHAPES[shape]
    c = oracle.case(rows, embed, vocab, bias=True, soft_cap=3.0, temperature=0.7, names=ALL, reference=True)
    expected = oracle.solve(c)
    with enable_x64(True):
        given = _run(c, "float64", names=ALL, implementation=implementation, block=block)
    for ours, reference in zip(given, expected, strict=True):
        assert ours.keys() <= reference.keys()
        for name, x in ours.items():
            assert x.dtype == (bool if name == "top1" else jnp.float64)
            np.testing.assert_allclose(x, reference[name], rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("implementation", XLA)
@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_float32_is_within_2e5_a_token(implementation, soft_cap):
    c = oracle.case((4, 16), 64, 5003, soft_cap=soft_cap)
    (results, gradients), (expected, slopes) = (
        _run(c, "float32", implementation=implementation, names=("entropy",)),
        oracle.solve(c),
    )
    np.testing.assert_allclose(results["logps"], expected["logps"], rtol=0, atol=2e-5)
    for name, x in gradients.items():
        error = np.linalg.norm(x - slopes[name]) / np.linalg.norm(slopes[name])
        assert error < 1e-5, (name, error)


@pytest.mark.parametrize("implementation", XLA)
def test_bfloat16_inputs_give_float32_sums(implementation):
    c = oracle.case((1, 1024), 64, 1000).rounded("bfloat16")
    (results, gradients), (expected, slopes) = (
        _run(c, "bfloat16", implementation=implementation, names=("entropy",)),
        oracle.solve(c),
    )
    assert results["logps"].dtype == jnp.float32
    # Float32 arithmetic on the bfloat16 values; bfloat16 logits would be off by nats here.
    np.testing.assert_allclose(results["logps"].sum(), expected["logps"].sum(), rtol=0, atol=2e-3)
    for name, x in gradients.items():
        assert x.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(x, np.float64) - slopes[name]) / np.linalg.norm(slopes[name])
        assert error < 1e-2, (name, error)


@pytest.mark.parametrize("implementation", XLA)
def test_masked_rows_are_exactly_zero_whatever_they_hold(implementation):
    c = oracle.case((6,), 16, 700, bias=True, names=ALL, reference=True)
    where = np.array([True, False, True, False, False, True])
    for array in (c.hidden, c.reference[0]):
        array[~where] = [[np.nan], [np.inf], [-np.inf]]
    targets = np.where(where, c.targets, [0, -100, 0, 700, 2**30, 0])
    kept = oracle.Case(
        c.hidden[where],
        c.weight,
        c.targets[where],
        c.bias,
        reference=(c.reference[0][where], c.reference[1]),
        upstream={name: g[where] for name, g in c.upstream.items()},
    )
    c.targets = targets
    results, gradients = _run(
        c, "float32", names=ALL, implementation=implementation, block=128, where=jnp.asarray(where)
    )
    expected, slopes = oracle.solve(kept)
    for name, x in results.items():
        assert (np.asarray(x)[~where] == 0).all(), name
        np.testing.assert_allclose(np.asarray(x)[where], expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert (np.asarray(gradients["hidden"])[~where] == 0).all()
    np.testing.assert_allclose(np.asarray(gradients["hidden"])[where], slopes["hidden"], atol=1e-4)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(gradients[name], slopes[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("implementation", XLA)
def test_tokens_taken_out_by_a_bias_of_minus_infinity(implementation):
    c = oracle.case((5,), 16, 600, bias=True, names=("logsumexp", "entropy", "log_sum_p2"))
    c.bias[100:420] = -np.inf  # whole blocks of 128, and parts of others
    c.targets[:] = [3, 99, 420, 599, 500]
    with np.errstate(all="ignore"):
        expected, slopes = oracle.solve(c)
    results, gradients = _run(
        c,
        "float32",
        names=("logsumexp", "entropy", "log_sum_p2"),
        implementation=implementation,
        block=128,
    )
    for name, x in results.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for name in ("hidden", "weight", "bias"):
        np.testing.assert_allclose(gradients[name], slopes[name], atol=1e-4, err_msg=name)
    taken_out = oracle.case((2,), 16, 600, bias=True)
    taken_out.bias[7], taken_out.targets[0] = -np.inf, 7
    value = _run(taken_out, "float32", names=("top1",), implementation=implementation)[0]["logps"]
    assert value[0] == -np.inf
    assert np.isfinite(value[1])


@pytest.mark.parametrize("implementation", [*XLA, None])
def test_targets_out_of_range_are_nan(implementation):
    c = oracle.case((4,), 8, 100)
    c.targets[:] = [5, 100, -1, -100]
    value = _run(c, "float32", names=("top1",), implementation=implementation)[0]["logps"]
    np.testing.assert_array_equal(np.isnan(value), [False, True, True, True])


@pytest.mark.parametrize("implementation", XLA)
def test_logits_of_a_thousand_stay_finite(implementation):
    c = oracle.case((4,), 8, 100)
    c.hidden *= 1000
    results, gradients = _run(c, "float32", names=("entropy", "log_sum_p2"), implementation=implementation)
    for x in jax.tree.leaves((results, gradients)):
        assert np.isfinite(x).all()


def _head_products(grad_of, implementation):
    n, d, v = 64, 32, 1024
    c = oracle.case((n,), d, v)

    def total(hidden, weight):
        return linear_token_logps(
            hidden, weight, jnp.asarray(c.targets), implementation=implementation, block=v
        ).sum()

    args = jnp.asarray(c.hidden, jnp.float32), jnp.asarray(c.weight, jnp.float32)
    compiled = jax.jit(jax.grad(total, grad_of)).lower(*args).compile()
    return compiled.cost_analysis()["flops"] / (2 * n * d * v)


@pytest.mark.parametrize("implementation", ["materialized", "token_scan"])  # vocab_scan: test_frozen_head.py
def test_a_frozen_head_costs_no_product(implementation):
    both, frozen = _head_products((0, 1), implementation), _head_products(0, implementation)
    assert both - frozen == pytest.approx(1, abs=0.02)


LARGE = (1024, 64, 16_384)  # rows, width, vocabulary: 64 MiB of float32 logits


@functools.cache
def _temporary_bytes(implementation, grad, block=None):
    n, d, v = LARGE
    shapes = (
        jax.ShapeDtypeStruct((n, d), jnp.float32),
        jax.ShapeDtypeStruct((v, d), jnp.float32),
        jax.ShapeDtypeStruct((n,), jnp.int32),
    )

    def total(hidden, weight, targets):
        logps = linear_token_logps(hidden, weight, targets, implementation=implementation, block=block)
        return jax.nn.log_sigmoid(logps.reshape(4, -1).sum(-1)).sum()

    function = jax.value_and_grad(total, (0, 1)) if grad else total
    return jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("implementation", "block"), [("vocab_scan", 1024), ("token_scan", 64)])
def test_no_buffer_of_tokens_by_vocabulary(implementation, block, grad):
    n, d, v = LARGE
    # Two tiles of 4 MiB (logits, gradient) and what is carried; never the 64 MiB.
    assert (
        _temporary_bytes(implementation, grad, block) <= 2.5 * 2**22 + 2 * 4 * (n + v) * d < 0.4 * 4 * n * v
    )


def test_materialized_keeps_one_buffer_and_writes_the_gradient_over_it():
    logits = 4 * LARGE[0] * LARGE[2]
    assert logits <= _temporary_bytes("materialized", True) < 1.1 * logits
    assert _temporary_bytes("reference", True) > 1.9 * logits


def test_gradient_of_logits_is_written_over_the_logits():
    shape, targets = jax.ShapeDtypeStruct((256, 8192), jnp.float32), jnp.zeros((256,), jnp.int32)

    def total(logits):
        return jnp.square(token_logps(logits, targets)).sum()

    compiled = jax.jit(jax.grad(total), donate_argnums=0).lower(shape).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == 4 * 256 * 8192
    assert memory.temp_size_in_bytes < 0.05 * 4 * 256 * 8192


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("implementation", ["xla", "reference", None])
def test_log_probs_of_logits(dtype, implementation):
    names = ("logsumexp", "entropy", "log_sum_p2", "top1")
    c = oracle.case((3, 5), 32, 3001, names=names[:3])
    logits = jnp.asarray(c.hidden @ c.weight.T, dtype)
    # The oracle's products of these are the rounded logits themselves.
    exact = oracle.Case(np.asarray(logits, np.float64), np.eye(3001), c.targets, upstream=c.upstream)
    expected, slopes = oracle.solve(exact)
    where = np.ones((3, 5), bool)
    where[1, 2] = False

    def total(logits):
        logps, found = token_logps(
            logits,
            jnp.asarray(c.targets),
            where=jnp.asarray(where),
            statistics=names,
            implementation=implementation,
        )
        results = {"logps": logps} | found
        return sum((results[n] * jnp.asarray(g, logps.dtype)).sum() for n, g in c.upstream.items()), results

    gradient, results = jax.jit(jax.grad(total, has_aux=True))(logits)
    assert gradient.dtype == logits.dtype
    assert results["logps"].dtype == jnp.float32
    for name, x in results.items():
        np.testing.assert_allclose(x, np.where(where, expected[name], 0), rtol=1e-5, atol=2e-5, err_msg=name)
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    slope = np.where(where[..., None], slopes["hidden"], 0)
    assert (np.asarray(gradient)[1, 2] == 0).all()
    np.testing.assert_allclose(np.asarray(gradient, np.float64), slope, rtol=tolerance, atol=tolerance)


BAD = {
    "hidden .4, 8., unembedding .100, 8. and targets .3,.": {"targets": jnp.zeros((3,), jnp.int32)},
    "targets must be integers": {"targets": jnp.zeros((4,))},
    "where .3,.": {"where": jnp.ones((3,), bool)},
    "bias .99,.": {"bias": jnp.zeros((99,))},
    "there are logsumexp, entropy": {"statistics": ("entropie",)},
    "KL needs reference": {"statistics": ("forward_kl",)},
    "reference: hidden": {"reference": (jnp.zeros((4, 8)), jnp.zeros((99, 8)))},
    "there are materialized, vocab_scan": {"implementation": "fastest"},
    "temperature=0": {"temperature": 0.0},
    "soft_cap=-1": {"soft_cap": -1.0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_clear_error(message):
    arguments = {"targets": jnp.zeros((4,), jnp.int32)} | BAD[message]
    with pytest.raises(ValueError, match=message):
        linear_token_logps(jnp.zeros((4, 8)), jnp.zeros((100, 8)), **arguments)
