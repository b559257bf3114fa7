"""Adapters of projections: the model they make, where they are, and how they begin."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from model_cases import FAMILIES, ragged_batch, random_params
from x64 import enable_x64

from jaxpref.models import scoring
from jaxpref.models.layers import Linear
from jaxpref.models.lora import LoRA, has_adapters
from jaxpref.models.low_rank import low_rank
from jaxpref.models.merging import merged
from jaxpref.models.transformer import Transformer

token_logps = jax.jit(scoring.token_logps, static_argnums=0)
SIZES = dataclasses.replace(FAMILIES["qwen3"], mlp=10)
EVERY = [
    "attention.key",
    "attention.output",
    "attention.query",
    "attention.value",
    "mlp.down",
    "mlp.gate",
    "mlp.up",
]


def with_adapters(lora, sizes=SIZES, dtype="float32", seed=0):
    """A model whose adapters change much, with the weights of `random_params` below them."""
    model = Transformer(sizes, param_dtype=dtype, compute_dtype=dtype, lora=lora)
    fresh = model.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def filled(path, x):
        return jnp.asarray(rng.normal(size=x.shape), x.dtype) * 0.3 if path[-1].key == "lora_b" else x

    adapted = jax.tree.map_with_path(filled, fresh)
    base = random_params(sizes, seed, dtype)
    return model, joined(base, adapted)


def joined(base, adapted):
    """`adapted` with the weights of `base`."""
    return {k: joined(base[k], v) if isinstance(v, dict) else base.get(k, v) for k, v in adapted.items()}


def names(params):
    flat = jax.tree.leaves_with_path(params["blocks"])
    return sorted({".".join(p.key for p in path[:-1]) for path, _ in flat if path[-1].key == "lora_a"})


def rest(*values):
    return pytest.param(*values, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("gemma2", LoRA(rank=4, ranks=(("mlp.*", 2), ("mlp.up", 7)), alphas=(("attention.key", 1.0),))),
        rest("qwen3", LoRA(rank=3)),
        rest("pythia", LoRA(rank=2, alpha=5.0, rank_stabilised=True, targets=("query", "mlp.down"))),
    ],
)
def test_adapters_are_the_merged_weights(family, lora):
    with enable_x64():
        model, params = with_adapters(lora, FAMILIES[family], "float64")
        batch = ragged_batch(r=4)
        plain = Transformer(FAMILIES[family], param_dtype="float64", compute_dtype="float64")
        logps, base = token_logps(model, params, batch), token_logps(plain, params_without(params), batch)
        np.testing.assert_allclose(token_logps(plain, merged(params, lora), batch), logps, atol=1e-12)
        assert np.abs(logps - base).max() > 0.1
        np.testing.assert_array_equal(token_logps(model, params_without(params), batch), base)


def test_merging_on_the_host_keeps_the_dtype():
    lora = LoRA(rank=3)
    _, params = with_adapters(lora)
    half = jax.tree.map_with_path(lambda p, x: x if "lora" in p[-1].key else x.astype("bfloat16"), params)
    on_host = merged(jax.device_get(half), lora)
    assert all(isinstance(x, np.ndarray) and x.dtype == "bfloat16" for x in jax.tree.leaves(on_host))
    weight, a, b = (half["blocks"]["mlp"]["up"][name] for name in ("weight", "lora_a", "lora_b"))
    exact = np.float64(weight) + 32 / 3 * np.float64(a) @ np.float64(b)
    np.testing.assert_allclose(np.float64(on_host["blocks"]["mlp"]["up"]["weight"]), exact, rtol=2**-8)


def params_without(params):
    """The same with the adapters off."""
    return {
        k: params_without(v) if isinstance(v, dict) else v
        for k, v in params.items()
        if not k.startswith("lora_")
    }


def test_merging_on_devices_is_of_the_highest_precision():
    """By default a float32 product is of TF32 on GPUs and of bfloat16 on TPUs."""
    params = {
        "blocks": {"up": {"weight": jnp.ones((4, 3)), "lora_a": jnp.ones((4, 2)), "lora_b": jnp.ones((2, 3))}}
    }
    text = jax.jit(lambda tree: merged(tree, LoRA(rank=2, targets=("up",)))).lower(params).as_text()
    (product,) = [line for line in text.splitlines() if "dot_general" in line]
    assert "precision = [HIGHEST, HIGHEST]" in product


def test_gradients_are_summed_in_float32():
    """Of 1,000 equal bfloat16 terms, whose bfloat16 sum stops at 256."""
    x, a, b = jnp.ones((1000, 1), jnp.bfloat16), jnp.ones((1, 1)), jnp.ones((1, 1))
    of_a, of_b = jax.grad(lambda a, b: low_rank(1.0, x, a, b).astype(jnp.float32).sum(), (0, 1))(a, b)
    assert (of_a.dtype, float(of_a[0, 0]), float(of_b[0, 0])) == ("float32", 1000, 1000)


def linear(inputs, outputs, rank, scale, dtype="float32"):
    made = Linear(inputs, outputs, ("a", "b"), bias=True, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    made.adapt(rank, scale, jax.random.key(1))
    return made


def test_the_gradient_of_adapters_is_that_of_finite_differences():
    """Of `a`, `b` and the input, where neither of the two factors is small."""
    with enable_x64():
        graph, state = nnx.split(linear(5, 4, 2, 1.5, "float64"))
        rng = np.random.default_rng(0)
        state["lora_b"] = state["lora_b"].replace(jnp.asarray(rng.normal(size=(2, 4))))
        x, upstream = (jnp.asarray(rng.normal(size=(3, n))) for n in (5, 4))

        def score(state, x):
            return (upstream * nnx.merge(graph, state)(x)).sum()

        check_grads(score, (state, x), order=1, modes=["rev"], eps=1e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (".*", EVERY),
        (("query", "mlp.up"), ["attention.query", "mlp.up"]),
        (r"attention\.(query|value)", ["attention.query", "attention.value"]),
    ],
)
def test_where_adapters_are(targets, expected):
    params = Transformer(SIZES, lora=LoRA(rank=2, targets=targets)).init(jax.random.key(0))
    assert names(params) == expected
    assert has_adapters(params["blocks"])
    plain = Transformer(SIZES).init(jax.random.key(0))
    assert not has_adapters(plain["blocks"])
    jax.tree.map(np.testing.assert_array_equal, params_without(params), plain)


def test_how_adapters_begin():
    """As PEFT draws them: `a` uniform within 1 / sqrt(inputs), `b` zero; float32 on a bfloat16 base. Layers
    and projections have draws of their own."""
    model = Transformer(SIZES, param_dtype="bfloat16", lora=LoRA(rank=40))
    blocks = model.init(jax.random.key(0))["blocks"]
    drawn = []
    for module, linear in (("attention", "query"), ("attention", "key"), ("mlp", "down")):
        a, b = (blocks[module][linear][name] for name in ("lora_a", "lora_b"))
        assert (a.dtype, b.dtype, blocks[module][linear]["weight"].dtype) == (
            "float32",
            "float32",
            "bfloat16",
        )
        np.testing.assert_array_equal(b, 0)
        bound = a.shape[1] ** -0.5
        assert np.abs(a).max() == pytest.approx(bound, rel=0.05)
        assert np.abs(a).max() <= bound
        assert np.std(a) == pytest.approx(bound / 3**0.5, rel=0.05)
        drawn += [np.ravel(layer)[:100] / bound for layer in a]
    assert len(np.unique(np.concatenate(drawn))) == 100 * len(drawn)


def test_scale():
    lora = LoRA(rank=4, alpha=6.0, ranks=(("mlp.*", 9),), alphas=(("mlp.up", 3.0),))
    stabilised = dataclasses.replace(lora, rank_stabilised=True)
    for name, plain, root in (("attention.key", 1.5, 3.0), ("mlp.down", 6 / 9, 2.0), ("mlp.up", 3 / 9, 1.0)):
        assert lora.scale_of(name) == pytest.approx(plain)
        assert stabilised.scale_of(name) == pytest.approx(root)


def test_dropout_is_of_a_step_that_has_a_key():
    lora = LoRA(rank=3, dropout=0.25)
    model, params = with_adapters(lora, dataclasses.replace(SIZES, layers=1))
    batch = ragged_batch(r=4)
    exact = token_logps(dataclasses.replace(model, lora=LoRA(rank=3)), params, batch)
    np.testing.assert_array_equal(token_logps(model, params, batch), exact)
    one, same, other = (token_logps(model, params | {"noise": jax.random.key(i)}, batch) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert min(np.abs(one - other).max(), np.abs(one - exact).max()) > 0.01


def test_dropped_inputs():
    """A quarter is dropped, the rest grows by 4 / 3; the weight reads all of them."""
    layer = linear(64, 64, 64, 1.0)
    layer.lora_a, layer.lora_b = nnx.Param(jnp.eye(64)), nnx.Param(jnp.eye(64))
    layer.drop(0.25, jax.random.key(2))
    x = jnp.ones((50, 64))
    change = np.asarray(layer(x) - x @ layer.weight[...])
    dropped = np.isclose(change, 0, atol=1e-4)
    np.testing.assert_allclose(change[~dropped], 4 / 3, rtol=1e-3)
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: expected 1 or more, got 0"),
        ({"ranks": (("mlp.*", 0),)}, "rank: expected 1 or more, got 0"),
        ({"alpha": 0.0}, "alpha: expected a positive number"),
        ({"alphas": (("mlp.*", -1.0),)}, "alpha: expected a positive number"),
        ({"dropout": 1.0}, "dropout: expected a share in"),
        ({"targets": ()}, "name at least one projection"),
        ({"targets": "("}, "is no pattern"),
        ({"targets": "query"}, r"\['query'\] names no projection; there are .*attention.query"),
        ({"targets": ("query", "quary")}, r"\['quary'\] names no projection"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message):
        Transformer(SIZES, lora=LoRA(**settings)).axes()
