"""The transformer as a policy: its contract, its FLOPs, and that it trains on a mesh as on one device."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.models.sizes import llama3_1_8b, stories260k, tiny
from jaxpref.policies.transformer import forward_flops, transformer
from jaxpref.types import Completions

SIZES = tiny(vocab=64, embed=32, heads=4, layers=2)


def _batch(b=4, k=2, p=6, r=5, seed=0):
    rng = np.random.default_rng(seed)
    return Completions(
        jnp.asarray(rng.integers(0, 64, (b, p)), jnp.int32),
        jnp.asarray(np.arange(p) < rng.integers(1, p + 1, b)[:, None]),
        jnp.asarray(rng.integers(0, 64, (b, k, r)), jnp.int32),
        jnp.asarray(np.arange(r) < rng.integers(1, r + 1, (b, k))[..., None]),
    )


def test_contract():
    policy, batch = transformer(sizes=SIZES, eos_id=1), _batch()
    params = policy.init(jax.random.key(0))
    logps = jax.jit(policy.token_logps)(params, batch)
    assert policy.vocab_size == 64
    assert logps.shape == batch.response_mask.shape
    assert logps.dtype == jnp.float32
    np.testing.assert_array_equal(logps == 0, ~batch.response_mask)
    same = jax.tree.map(np.array_equal, params, policy.init(jax.random.key(0)))
    other = jax.tree.map(np.array_equal, params["embedding"], policy.init(jax.random.key(1))["embedding"])
    assert all(jax.tree.leaves(same))
    assert not other


def test_sizes_as_a_function():
    assert transformer(sizes=stories260k, eos_id=2).vocab_size == 512


@pytest.mark.parametrize("name", ["eos_id", "pad_id"])
def test_special_token_outside_the_vocabulary(name):
    with pytest.raises(ValueError, match=f"{name}: expected an id below the vocabulary of 64, got 64"):
        transformer(**{"sizes": SIZES, "eos_id": 1, name: 64})


def test_each_of_several_ends_is_checked():
    for ends, message in (((1, 64), "got 64"), ((), "got none"), ((1, 2.5), "got 2.5")):
        with pytest.raises(ValueError, match=f"eos_id: expected .*{message}"):
            transformer(sizes=SIZES, eos_id=ends)


def test_flops_of_a_known_case():
    """Llama-3.1-8B, one pair of 512 + 512 + 512 tokens: 69 TFLOP for forward and backward."""
    b, k, p, r = 1, 2, 512, 512
    ids, flags = jax.ShapeDtypeStruct((b, k, r), jnp.int32), jax.ShapeDtypeStruct((b, k, r), bool)
    prompt, mask = jax.ShapeDtypeStruct((b, p), jnp.int32), jax.ShapeDtypeStruct((b, p), bool)
    flops = forward_flops(llama3_1_8b(), Completions(prompt, mask, ids, flags))
    tokens, pairs = 512 * 3, 512 * 513 / 2 + 2 * (512 * 512 + 512 * 513 / 2)
    weights = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
    assert flops == 2 * tokens * weights + 32 * 4 * 4096 * pairs + 2 * 1024 * 4096 * 128_256
    assert 3 * flops == pytest.approx(69e12, rel=0.01)


def test_eight_devices_equal_one():
    """Weights sharded by their axis names, batch over rows: values and gradients agree."""
    policy, batch = transformer(sizes=SIZES, eos_id=1), _batch()
    params = policy.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(lambda params, batch: policy.token_logps(params, batch).sum()))
    one, one_gradient = step(params, batch)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    rules = {"embed": "fsdp", "vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor"}

    def place(x, names):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*map(rules.get, names))))

    sharded = jax.tree.map(place, params, policy.axes())
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    eight, eight_gradient = step(sharded, jax.device_put(batch, rows))
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    settings = {"num_samples": 2, "max_tokens": 4}
    drawn = policy.sample(params, batch.prompts, jax.random.key(0), **settings)
    on_mesh = policy.sample(sharded, jax.device_put(batch.prompts, rows), jax.random.key(0), **settings)
    np.testing.assert_array_equal(on_mesh.completions.response_tokens, drawn.completions.response_tokens)
    np.testing.assert_allclose(on_mesh.token_logps, drawn.token_logps, atol=1e-5)
    for a, b in zip(jax.tree.leaves(eight_gradient), jax.tree.leaves(one_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tied", "microbatches"), [(True, 1), (False, 2)])
def test_a_dpo_step_with_pair_scan_is_the_same_step(tied, microbatches):
    policy = transformer(sizes=tiny(vocab=64, embed=32, heads=4, layers=2, tied=tied), eos_id=1)
    batch, params = _batch(), policy.init(jax.random.key(0))
    batch = dataclasses.replace(batch, response_mask=batch.response_mask.at[3].set(False))
    outcomes = []
    for pair_scan in (False, True):
        algorithm = offline(
            policy,
            loss=partial(losses.dpo, beta=0.5),
            optimizer=partial(optax.sgd, 0.5),
            pair_scan=pair_scan,
            microbatches=microbatches,
        )
        state = algorithm.init(params)
        for _ in range(2):
            state, metrics = jax.jit(algorithm.step)(state, batch, jax.random.key(0))
        outcomes.append((state.params, metrics))
    for plain, scanned in zip(*map(jax.tree.leaves, outcomes), strict=True):
        np.testing.assert_allclose(scanned, plain, rtol=1e-5, atol=1e-6)


def test_a_tied_matrix_gets_the_float32_sum_of_both_gradients():
    """Compute in bfloat16, weights in float32: the lookup's and the head's gradients meet unrounded."""
    sizes, batch = tiny(vocab=64, embed=32, heads=4, layers=1), _batch(b=8)
    tied = transformer(sizes=sizes, compute_dtype="bfloat16", eos_id=1)
    apart = transformer(sizes=dataclasses.replace(sizes, tied=False), compute_dtype="bfloat16", eos_id=1)
    params = tied.init(jax.random.key(0))

    def gradient(policy, params):
        return jax.jit(jax.grad(lambda p: policy.token_logps(p, batch).sum()))(params)

    parts = gradient(apart, params | {"unembedding": params["embedding"]})
    both = gradient(tied, params)["embedding"]
    assert both.dtype == jnp.float32
    np.testing.assert_allclose(both, parts["embedding"] + parts["unembedding"], rtol=1e-6, atol=1e-6)
