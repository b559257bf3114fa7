"""Mosaic GPU kernels in Pallas' interpreter of GPUs, against float64; and lowered for GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from jaxpref.kernels.token_logps import linear_token_logps, token_logps
from jaxpref.kernels.token_logps.pallas_gpu import interpreted

NAMES = ("logsumexp", "entropy", "log_sum_p2", "top1")
needs_interpreter = pytest.mark.skipif(
    not hasattr(plgpu, "InterpretGPUParams"), reason="jax before 0.11.2 has no interpreter of GPUs"
)

ROWS = {  # rows, vocabulary, dtype
    "blocks, widest loads": (3, 8192, "bfloat16"),
    "blocks, full loads and part of one": (2, 5000, "float32"),
    "part of a block": (2, 2056, "float16"),
    "gpt2: a row begins at any element": (2, 50_257, "bfloat16"),
    "less than one widest load": (5, 264, "bfloat16"),
    "fewer than threads": (2, 100, "float32"),
    "leading axes": ((2, 2), 1001, "float32"),
}


def _value_and_gradient(logits, targets, upstream):
    def total(logits):
        logps, found = token_logps(logits, targets, statistics=NAMES, implementation="pallas_gpu")
        results = {"logps": logps} | found
        return sum(
            (results[name] * jnp.asarray(g, logps.dtype)).sum() for name, g in upstream.items()
        ), results

    with interpreted():
        gradient, results = jax.jit(jax.grad(total, has_aux=True))(logits)
    return results, gradient


@needs_interpreter
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_logits_equal_float64(name):
    rows, vocab, dtype = ROWS[name]
    rows = rows if isinstance(rows, tuple) else (rows,)
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(*rows, vocab)) * 4, dtype)
    targets = rng.integers(0, vocab, rows)
    targets.flat[0] = vocab - 1
    upstream = {name: rng.normal(size=rows) for name in ("logps", "logsumexp", "entropy", "log_sum_p2")}
    results, gradient = _value_and_gradient(logits, jnp.asarray(targets), upstream)
    wide = np.asarray(logits, np.float64)
    top = wide.max(-1, keepdims=True)
    p = np.exp(wide - top)
    log_p = wide - top - np.log(p.sum(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    squares, entropy = (p**2).sum(-1, keepdims=True), -(p * log_p).sum(-1, keepdims=True)
    picked = np.take_along_axis(log_p, targets[..., None], -1)
    expected = {
        "logps": picked,
        "logsumexp": wide.max(-1, keepdims=True) - log_p.max(-1, keepdims=True),
        "entropy": entropy,
        "log_sum_p2": np.log(squares),
    }
    for key, x in expected.items():
        assert results[key].dtype == jnp.float32
        np.testing.assert_allclose(results[key], x[..., 0], rtol=0, atol=2e-5, err_msg=key)
    assert (np.asarray(results["top1"]) == (picked >= log_p.max(-1, keepdims=True))[..., 0]).all()
    g = {key: x[..., None] for key, x in upstream.items()}
    slope = g["logps"] * ((np.arange(vocab) == targets[..., None]) - p) + g["logsumexp"] * p
    slope += -g["entropy"] * p * (log_p + entropy) + 2 * g["log_sum_p2"] * (p**2 / squares - p)
    assert gradient.dtype == logits.dtype
    error = np.linalg.norm(np.asarray(gradient, np.float64) - slope) / np.linalg.norm(slope)
    assert error < (1e-5 if dtype == "float32" else 1e-2)


@needs_interpreter
def test_a_row_reads_nothing_of_its_neighbours():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 1537)).astype(np.float32)
    logits[[0, 2]] = np.nan
    with interpreted():
        logps, found = token_logps(
            jnp.asarray(logits), jnp.zeros(3, int), statistics=("logsumexp",), implementation="pallas_gpu"
        )
    expected = np.log(np.exp(logits[1].astype(np.float64)).sum())
    np.testing.assert_allclose(found["logsumexp"][1], expected, rtol=0, atol=2e-5)
    assert np.isnan(np.asarray(logps)[[0, 2]]).all()


@needs_interpreter
def test_tokens_without_probability():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4, 1100)) * 30
    logits[:, 64:600] = -np.inf  # whole loads of some threads
    targets = np.array([3, 100, 1100, -1])
    with interpreted():
        logps, found = token_logps(
            jnp.asarray(logits, jnp.float32),
            jnp.asarray(targets),
            statistics=NAMES,
            implementation="pallas_gpu",
        )
    top = logits.max(-1, keepdims=True)
    p = np.exp(logits - top) / np.exp(logits - top).sum(-1, keepdims=True)
    np.testing.assert_allclose(logps[0], np.log(p[0, 3]), rtol=2e-6)
    assert logps[1] == -np.inf
    assert np.isnan(np.asarray(logps)[2:]).all()  # outside the vocabulary
    log_p = np.where(p > 0, np.log(np.where(p > 0, p, 1)), 0)
    np.testing.assert_allclose(found["entropy"], -(p * log_p).sum(-1), rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["log_sum_p2"], np.log((p**2).sum(-1)), rtol=0, atol=2e-5)


@needs_interpreter
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_token_logps(dtype):
    c = oracle.case((5, 3), 32, 515, bias=True, soft_cap=5.0, temperature=0.8, names=NAMES).rounded(dtype)
    expected, slopes = oracle.solve(c)
    operands = {name: jnp.asarray(getattr(c, name), dtype) for name in ("hidden", "weight", "bias")}

    def total(operands):
        logps, found = linear_token_logps(
            operands["hidden"],
            operands["weight"],
            jnp.asarray(c.targets),
            bias=operands["bias"],
            soft_cap=5.0,
            temperature=0.8,
            statistics=NAMES,
            implementation="pallas_gpu",
            block=8,
        )
        results = {"logps": logps} | found
        return sum(
            (results[name] * jnp.asarray(g, logps.dtype)).sum() for name, g in c.upstream.items()
        ), results

    with interpreted():
        gradients, results = jax.jit(jax.grad(total, has_aux=True))(operands)
    for name, x in results.items():
        np.testing.assert_allclose(x, expected[name], rtol=0, atol=2e-5, err_msg=name)
    for name, x in gradients.items():
        error = np.linalg.norm(np.asarray(x, np.float64) - slopes[name]) / np.linalg.norm(slopes[name])
        assert error < (1e-5 if dtype == "float32" else 1e-2), (name, error)


@needs_interpreter
def test_fused():
    c = oracle.case((150,), 64, 296, bias=True, temperature=0.8, names=NAMES).rounded("bfloat16")
    # Copies beyond the ends are zero on a GPU; the interpreter makes them NaN, which is the harder case.
    c.targets[:3] = [0, 255, 295]
    c.bias[290] = -np.inf
    c.targets[c.targets == 290] = 289
    c.targets[149] = 290
    for upstream in c.upstream.values():
        upstream[149] = 0
    expected, slopes = oracle.solve(c)
    operands = {name: jnp.asarray(getattr(c, name), jnp.bfloat16) for name in ("hidden", "weight", "bias")}

    def total(operands):
        logps, found = linear_token_logps(
            operands["hidden"],
            operands["weight"],
            jnp.asarray(c.targets),
            bias=operands["bias"],
            temperature=0.8,
            statistics=NAMES,
            implementation="pallas_gpu_fused",
        )
        results = {"logps": logps} | found
        weighted = (
            jnp.where(g != 0, results[name], 0) * jnp.asarray(g, logps.dtype)
            for name, g in c.upstream.items()
        )
        return sum(x.sum() for x in weighted), results

    with interpreted(out_of_bounds_reads="uninitialized"):
        gradients, results = jax.jit(jax.grad(total, has_aux=True))(operands)
    for name, x in results.items():
        np.testing.assert_allclose(x, expected[name], rtol=0, atol=2e-5, err_msg=name)
    for name, x in gradients.items():
        error = np.linalg.norm(np.asarray(x, np.float64) - slopes[name]) / np.linalg.norm(slopes[name])
        assert error < 1e-2, (name, error)


def _lowered(kind, f, *shapes) -> str:
    device = AbstractDevice(kind, 132, "gpu")
    with use_abstract_mesh(AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)):
        return jax.jit(f).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("vocab", [300, 50_257, 128_256, 151_936])
def test_row_kernel_lowers_for_hopper(vocab, dtype):
    shapes = jax.ShapeDtypeStruct((64, vocab), dtype), jax.ShapeDtypeStruct((64,), jnp.int32)
    text = _lowered(H100, lambda *a: token_logps(*a, statistics=NAMES), *shapes)
    assert "mosaic_gpu" in text
    assert "stablehlo.reduce" not in text  # XLA reads no logits


def test_linear_token_logps_lowers_for_hopper():
    shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((512, 256), (128_256, 256))]

    def total(hidden, weight, targets):
        return linear_token_logps(hidden, weight, targets, implementation="pallas_gpu", block=128).sum()

    text = _lowered(H100, jax.grad(total, (0, 1)), *shapes, jax.ShapeDtypeStruct((512,), jnp.int32))
    assert "mosaic_gpu" in text
    assert "512x128256x" not in text  # of logits or their gradient, only tiles


@pytest.mark.parametrize(("rows", "embed", "vocab"), [(150, 896, 49_152), (512, 4096, 128_256)])
def test_fused_lowers_for_hopper(rows, embed, vocab):
    def logps(hidden, weight, targets):
        return linear_token_logps(
            hidden,
            weight,
            targets,
            soft_cap=30.0,
            statistics=NAMES,
            implementation="pallas_gpu_fused",
        )

    shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((rows, embed), (vocab, embed))]
    text = _lowered(H100, logps, *shapes, jax.ShapeDtypeStruct((rows,), jnp.int32))
    assert "mosaic_gpu" in text
    assert "stablehlo.dot_general" not in text
    for dtype, wrong_vocab, wrong_embed in (
        ("float32", vocab, embed),
        ("bfloat16", 50_257, embed),
        ("bfloat16", vocab, 40),
    ):
        shapes = [jax.ShapeDtypeStruct(s, dtype) for s in ((rows, wrong_embed), (wrong_vocab, wrong_embed))]
        with pytest.raises(ValueError, match="pallas_gpu_fused' takes bfloat16 or float16"):
            _lowered(H100, logps, *shapes, jax.ShapeDtypeStruct((rows,), jnp.int32))


def test_where_the_kernel_cannot_run():
    shapes = jax.ShapeDtypeStruct((64, 1024), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    assert "mosaic_gpu" not in _lowered(A100, token_logps, *shapes)
    with pytest.raises(ValueError, match=r"compute capability 9.*A100"):
        _lowered(A100, lambda *a: token_logps(*a, implementation="pallas_gpu"), *shapes)
    logits, targets = jnp.zeros((2, 256)), jnp.zeros(2, int)
    with pytest.raises(ValueError, match=r"compute capability 9.*cpu"):
        token_logps(logits, targets, implementation="pallas_gpu")
    with pytest.raises(ValueError, match=r"compute capability 9.*cpu"):
        linear_token_logps(logits, logits, targets, implementation="pallas_gpu")
