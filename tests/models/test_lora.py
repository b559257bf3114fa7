"""Adapters of projections: the model they make, where they are, and how they begin."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import FAMILIES, ragged_batch, random_params
from x64 import enable_x64

from jaxpref.models.layers import Linear
from jaxpref.models.lora import LoRA, has_adapters, merged
from jaxpref.models.scoring import token_logps
from jaxpref.models.transformer import Transformer

SIZES = dataclasses.replace(FAMILIES["qwen3"], mlp=10)
EVERY = ["attention.key", "attention.output", "attention.query", "attention.value", "mlp.down", "mlp.gate", "mlp.up"]


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


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("qwen3", LoRA(rank=3)),
        ("pythia", LoRA(rank=2, alpha=5.0, rank_stabilised=True, targets=("query", "mlp.down"))),
        ("gemma2", LoRA(rank=4, ranks=(("mlp.*", 2), ("mlp.up", 7)), alphas=(("attention.key", 1.0),))),
    ],
)
def test_adapters_are_the_merged_weights(family, lora):
    with enable_x64():
        model, params = with_adapters(lora, FAMILIES[family], "float64")
        batch = ragged_batch()
        plain = Transformer(FAMILIES[family], param_dtype="float64", compute_dtype="float64")
        logps, base = token_logps(model, params, batch), token_logps(plain, params_without(params), batch)
        np.testing.assert_allclose(token_logps(plain, merged(params, lora), batch), logps, atol=1e-12)
        assert np.abs(logps - base).max() > 0.1
        on_host = merged(jax.device_get(params), lora)
        assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(on_host))
        np.testing.assert_array_equal(token_logps(model, params_without(params), batch), base)


def params_without(params):
    """The same with the adapters off."""
    return {
        k: params_without(v) if isinstance(v, dict) else v for k, v in params.items() if not k.startswith("lora_")
    }


def test_the_gradient_of_adapters_is_that_of_finite_differences():
    with enable_x64():
        model, params = with_adapters(LoRA(rank=2), dtype="float64")
        batch = ragged_batch(b=2, k=1, p=3, r=3)
        score = jax.jit(lambda params: token_logps(model, params, batch).sum())
        gradient, rng = jax.grad(score)(params), np.random.default_rng(0)
        for path, slope in jax.tree.leaves_with_path(gradient):
            if not path[-1].key.startswith("lora_"):
                continue
            place = tuple(rng.integers(n) for n in slope.shape)

            def moved(by, path=path, place=place):
                return score(jax.tree.map_with_path(lambda p, x: x.at[place].add(by) if p == path else x, params))

            difference = (moved(1e-6) - moved(-1e-6)) / 2e-6
            np.testing.assert_allclose(slope[place], difference, rtol=1e-6, atol=1e-8)


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
    """As PEFT draws them: `a` uniform within 1 / sqrt(inputs), `b` zero; float32 on a bfloat16 base. Layers and
    projections have draws of their own."""
    model = Transformer(SIZES, param_dtype="bfloat16", lora=LoRA(rank=40))
    blocks = model.init(jax.random.key(0))["blocks"]
    drawn = []
    for module, linear in (("attention", "query"), ("attention", "key"), ("mlp", "down")):
        a, b = (blocks[module][linear][name] for name in ("lora_a", "lora_b"))
        assert (a.dtype, b.dtype, blocks[module][linear]["weight"].dtype) == ("float32", "float32", "bfloat16")
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


def test_dropout_is_of_the_inputs_of_a_and_only_with_a_key():
    lora = LoRA(rank=3, dropout=0.25)
    model, params = with_adapters(lora)
    batch = ragged_batch()
    logps = partial(token_logps, model)
    without_dropout = Transformer(SIZES, lora=dataclasses.replace(lora, dropout=0.0))
    np.testing.assert_array_equal(logps(params, batch), token_logps(without_dropout, params, batch))
    one, same, other = (logps(params | {"noise": jax.random.key(i)}, batch) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
    off = params_without(params)
    np.testing.assert_array_equal(logps(off | {"noise": jax.random.key(0)}, batch), logps(off, batch))


def test_dropped_inputs():
    """A quarter is dropped, the rest grows by 4 / 3; the weight reads all of them."""
    from flax import nnx

    linear = Linear(64, 64, ("a", "b"), bias=False, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    linear.adapt(64, 1.0, jax.random.key(1))
    linear.lora_a, linear.lora_b = nnx.Param(jnp.eye(64)), nnx.Param(jnp.eye(64))
    x = jnp.ones((50, 64))
    linear.drop(0.25, jax.random.key(2))
    change = linear(x) - x @ linear.weight[...]
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
