"""What is trained above a base, and what is not: of states, gradients and checkpoints."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.models.lora import LoRA
from jaxpref.models.merging import merged
from jaxpref.models.quantized import floats, nf4_table
from jaxpref.models.sizes import tiny
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import model_of, whole
from jaxpref.policies.comparing import comparing
from jaxpref.policies.transformer import transformer
from jaxpref.trees import nested
from jaxpref.types import Completions

SIZES = tiny(vocab=48, embed=16, layers=1, heads=2, mlp=40, tied=False)
OPTIMIZER = partial(adamw, schedule=partial(constant, value=1e-2))
plain = partial(transformer, sizes=SIZES, eos_id=1)


def base(**options):
    return jax.device_get(plain(**options).init(jax.random.key(0)))


def batch(b=3, k=2, p=5, r=4):
    rng = np.random.default_rng(0)
    tokens = partial(rng.integers, 0, SIZES.vocab)
    prompts, responses = jnp.asarray(tokens((b, p))), jnp.asarray(tokens((b, k, r)))
    return Completions(prompts, jnp.ones((b, p), bool), responses, jnp.ones((b, k, r), bool))


def named(tree):
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def started(policy, algorithm):
    """Params, as the loop begins with, and the state of the first step."""
    constants = {"policy": policy.constants().params}
    params = policy.init(jax.random.key(1))
    given = named(policy.given())
    params = jax.tree.map_with_path(
        lambda path, x: jnp.asarray(given.get(".".join(p.key for p in path), x)), params
    )
    return params, algorithm.init(params, constants)


def test_what_is_trained_beside_adapters_is_wide():
    """Of a bfloat16 base: a step of 1e-5 is less than half a unit of a norm's scale, and would be lost."""
    policy = adapted(
        policy=partial(plain, param_dtype="bfloat16", compute_dtype="bfloat16", outputs=1),
        base=partial(base, param_dtype="bfloat16"),
        train="final_norm.*",
        lora=LoRA(rank=2),
    )
    params, given = policy.init(jax.random.key(1)), policy.given()
    assert {x.dtype for x in jax.tree.leaves((params, jax.eval_shape(policy.init, jax.random.key(0))))} == {
        jnp.dtype("float32")
    }
    assert given["final_norm"]["scale"].dtype == jnp.float32
    kept = {x.dtype for x in jax.tree.leaves(policy.constants().params)}
    assert kept == {jnp.dtype("bfloat16")}


def inner_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield from inner_equations(value)


def products_of_shapes(function, *arguments):
    """Shapes that a product or a scatter in it results in."""
    made = inner_equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    formed = [e for e in made if e.primitive.name in ("dot_general", "scatter-add")]
    return {e.outvars[0].aval.shape for e in formed}


def test_a_step_of_dpo():
    """The state holds adapters only, its first loss is log 2, and no gradient of the base is computed."""
    policy = adapted(policy=plain, base=base, lora=LoRA(rank=3))
    algorithm = offline(policy, loss=losses.dpo, optimizer=OPTIMIZER)
    params, state = started(policy, algorithm)
    weights = named(base())
    assert {name.rpartition(".")[2] for name in named(params)} == {"lora_a", "lora_b"}
    jax.tree.map(np.testing.assert_array_equal, state.constants, {"policy": base()})
    adapters = sum(x.nbytes for x in jax.tree.leaves(params))
    moving = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state, state.policies)))
    assert 4 * adapters <= moving < 4 * adapters + 100, "params, reference and two moments"

    of_weights = {x.shape[x.ndim - 2 :] for name, x in weights.items() if "norm" not in name}
    assert not products_of_shapes(algorithm.step, state, batch(), jax.random.key(0)) & of_weights
    full = offline(plain(), loss=losses.dpo, optimizer=OPTIMIZER)
    formed = products_of_shapes(full.step, full.init(base()), batch(), jax.random.key(0))
    assert formed >= of_weights, "the same look finds the gradients of all weights where all are trained"

    step = jax.jit(algorithm.step)
    new, metrics = step(state, batch(), jax.random.key(0))
    assert np.float32(metrics["loss"].value) == np.float32(np.log(2))
    moved, _ = step(new, batch(), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, moved.policies["initial"], params)
    for name, x in named(moved.params).items():
        assert not np.array_equal(x, named(params)[name]), name


def test_the_reference_may_be_what_lies_below():
    """Adapters off, at no memory; of a head there is a copy."""
    policy = adapted(policy=partial(plain, outputs=1), base=base, lora=LoRA(rank=3))
    algorithm = offline(policy, loss=losses.dpo, optimizer=OPTIMIZER, reference="base")
    _, state = started(policy, algorithm)
    assert set(state.policies["base"]) == {"head"}
    moved = jax.tree.map(lambda x: x + 0.1, state.params)
    state = dataclasses.replace(state, params=moved)
    rewards = jax.jit(algorithm.rewards)(state, batch())
    logps = [
        p.token_logps(x, batch()).sum(-1)
        for p, x in ((policy, whole(moved, state.constants)), (plain(), base()))
    ]
    np.testing.assert_allclose(rewards, 0.1 * (logps[0] - logps[1]), atol=1e-5)
    assert np.abs(rewards).max() > 0.01
    with pytest.raises(ValueError, match="these params have no adapters that could be off"):
        offline(plain(), loss=losses.dpo, optimizer=OPTIMIZER, reference="base").init(base())


def test_weights_of_the_base_may_be_trained_from_their_values():
    policy = adapted(policy=plain, base=base, lora=None, train="final_norm.*|blocks.*norm.*")
    params, state = started(policy, sft(policy, optimizer=OPTIMIZER))
    trained = {"blocks.attention_norm.scale", "blocks.mlp_norm.scale", "final_norm.scale"}
    assert set(named(params)) == set(named(policy.axes())) == trained
    with_base = whole(params, state.constants)
    jax.tree.map(np.testing.assert_array_equal, with_base, base())
    assert policy.backward == pytest.approx(1, abs=0.02)


def test_heads_and_the_base_of_a_reward_model():
    """A head is trained: drawn where the base has none, and else that of the base."""
    headed = partial(plain, outputs=1)
    drawn = adapted(policy=headed, base=base, lora=LoRA(rank=2, targets=("query",)))
    assert set(named(drawn.given())) == set()
    begun = adapted(policy=headed, base=partial(base, outputs=1), lora=LoRA(rank=2, targets=("query",)))
    np.testing.assert_array_equal(begun.given()["head"], base(outputs=1)["head"])
    for policy in (drawn, begun):
        assert "head" in policy.init(jax.random.key(0))
        assert "head" not in policy.constants().params
    model = model_of(drawn, drawn.init(jax.random.key(0)))
    assert jax.tree.structure(model.params) == jax.tree.structure(
        model.axes, is_leaf=lambda x: isinstance(x, tuple)
    )


def test_a_preference_model_has_adapters_below():
    policy = comparing(
        policy=partial(adapted, policy=partial(plain, outputs=1), base=base, lora=LoRA(rank=2)),
        separator_id=3,
    )
    algorithm = offline(policy, loss=losses.bradley_terry, optimizer=OPTIMIZER, reference=None)
    _, state = started(policy, algorithm)
    new, metrics = jax.jit(algorithm.step)(state, batch(), jax.random.key(0))
    assert np.isfinite(float(metrics["loss"].value))
    assert set(new.params) == {"blocks", "head"}


def test_samples_are_those_of_the_merged_weights():
    lora = LoRA(rank=2)
    policy = adapted(policy=plain, base=base, lora=lora)
    params = jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(1)))
    joined = whole(params, {"policy": policy.constants().params})
    drawn, expected = (
        p.sample(x, batch().prompts, jax.random.key(2), num_samples=2, max_tokens=4)
        for p, x in ((policy, joined), (plain(), merged(joined, lora)))
    )
    np.testing.assert_array_equal(drawn.completions.response_tokens, expected.completions.response_tokens)
    np.testing.assert_allclose(drawn.token_logps, expected.token_logps, atol=1e-5)


def formats(*covered):
    """Some always, the others with -m exhaustive: tests/models/test_quantized.py enumerates all of them."""
    every = [("int8", None), ("int4", 8), ("nf4", 8)]
    rest = [pytest.param(*one, marks=pytest.mark.exhaustive) for one in every if one[0] not in covered]
    return pytest.mark.parametrize(("kind", "tile"), [one for one in every if one[0] in covered] + rest)


@formats("nf4")
def test_a_quantised_base(kind, tile):
    """Frozen projections alone are quantised; the policy, its reference and the gradients of its adapters are
    those above the floats that they stand for."""
    policy = adapted(
        policy=plain,
        base=base,
        lora=LoRA(rank=2),
        train="blocks.mlp.down.weight",
        quantize=kind,
        quantize_tile=tile,
    )
    model = policy.constants()
    quantized = {f"blocks.{name}" for name in ("attention.query", "attention.key", "attention.value")}
    quantized |= {f"blocks.{name}" for name in ("attention.output", "mlp.gate", "mlp.up")}
    made = {name: np.asarray(x) for name, x in named(model.params).items()}
    assert {name.rpartition(".weight")[0] for name in made if "weight." in name} == quantized
    assert policy.given()["blocks"]["mlp"]["down"]["weight"].dtype == np.float32
    for name, x in named(base()).items():
        if name in made:
            np.testing.assert_array_equal(made[name], x)
    axes = named(model.axes)
    assert axes.keys() == made.keys()
    assert axes[f"blocks.mlp.up.weight.{kind}"] == axes["blocks.mlp.up.weight.scales"]
    assert axes["blocks.mlp.up.weight.scales"] == ("layers", "embed", "mlp")

    algorithm = offline(policy, loss=losses.dpo, optimizer=OPTIMIZER)
    params, state = started(policy, algorithm)
    _, metrics = jax.jit(algorithm.step)(jax.tree.map(jnp.asarray, state), batch(), jax.random.key(0))
    assert np.float32(metrics["loss"].value) == np.float32(np.log(2))

    def gradient_and_logps(constants):
        def total(params):
            logps = policy.token_logps(whole(params, {"policy": constants}), batch())
            return logps.sum(), logps

        return jax.grad(total, has_aux=True)(jax.tree.map(lambda x: x + 0.1, params))

    below = jax.tree.map(jnp.asarray, model.params)
    original = nested({name: x for name, x in named(base()).items() if "mlp.down.weight" not in name})
    made, expected, other = (
        jax.jit(gradient_and_logps)(x) for x in (below, floats(below, jnp.float32), original)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), made, expected)
    assert np.abs(made[1] - other[1]).max() > 1e-4, "quantising changed something"


def test_weights_that_a_format_has_are_the_same_policy():
    """NF4's values at powers of two: quantising changes no logit."""

    def on_the_grid():
        rng = np.random.default_rng(0)

        def drawn(x):
            codes = rng.integers(0, 16, x.shape)
            codes[:, ::8] = 15  # the largest of each tile
            return nf4_table()[codes] * np.float32(0.25)

        weights = {n: drawn(x) if n.endswith(".weight") else x for n, x in named(base()).items()}
        return nested(weights)

    exact, narrow = (
        adapted(policy=plain, base=on_the_grid, lora=LoRA(rank=2), **options)
        for options in ({}, {"quantize": "nf4", "quantize_tile": 8})
    )
    params = jax.tree.map(lambda x: x + 0.1, exact.init(jax.random.key(1)))
    made, expected = (
        jax.jit(p.token_logps)(whole(params, {"policy": jax.device_get(p.constants().params)}), batch())
        for p in (narrow, exact)
    )
    np.testing.assert_array_equal(made, expected)


@formats("int4")
def test_a_step_has_the_base_once_and_in_its_small_format(kind, tile):
    """By the bytes of the compiled step: in its arguments, and, where a copy of all layers would show, no
    floats of it among its temporaries."""

    def memory(**options):
        policy = adapted(policy=deep, base=lambda: weights, lora=LoRA(rank=1), **options)
        algorithm = offline(policy, loss=losses.dpo, optimizer=OPTIMIZER)
        _, state = started(policy, algorithm)
        state = jax.tree.map(jnp.asarray, state)
        lowered = jax.jit(algorithm.step).lower(state, batch(1, 2, 1, 1), jax.random.key(0))
        below = sum(np.asarray(x).nbytes for x in jax.tree.leaves(policy.constants().params["blocks"]))
        return lowered.compile().memory_analysis(), below

    deep = partial(plain, sizes=dataclasses.replace(SIZES, layers=12))
    weights = jax.device_get(deep().init(jax.random.key(0)))
    (plainly, floats_of), (narrowly, codes_of) = memory(), memory(quantize=kind, quantize_tile=tile)
    saved = plainly.argument_size_in_bytes - narrowly.argument_size_in_bytes
    assert saved == floats_of - codes_of
    count = 12 * (4 * 16 * 16 + 3 * 16 * 40)
    scales = 12 * (4 * 16 + 2 * 40 + 16 if kind == "int8" else (4 * 16 * 16 + 3 * 16 * 40) // 8)
    assert saved == 4 * count - (count if kind == "int8" else count // 2) - 4 * scales
    layer = 4 * count // 12
    assert narrowly.temp_size_in_bytes <= plainly.temp_size_in_bytes + layer


def test_mistakes():
    with pytest.raises(ValueError, match="nothing is trained; give lora="):
        adapted(policy=plain, base=base, lora=None)
    with pytest.raises(ValueError, match=r"'norm' matches no weight; there are .*final_norm.scale"):
        adapted(policy=plain, base=base, train="norm")
    with pytest.raises(ValueError, match="tiles of 64 do not divide the 16 inputs of blocks"):
        adapted(policy=plain, base=base, quantize="nf4")
    with pytest.raises(
        ValueError, match="quantize_tile: 8 inputs share a scale in no format; give quantize="
    ):
        adapted(policy=plain, base=base, quantize_tile=8)
    with pytest.raises(ValueError, match="is no pattern"):
        adapted(policy=plain, base=base, train="(")
    policy = adapted(policy=plain, base=base)
    with pytest.raises(ValueError, match="constants already"):
        adapted(policy=lambda: policy, base=base, lora=None, train=".*")
    less, more = {k: v for k, v in base().items() if k != "unembedding"}, base(lora=LoRA())
    with pytest.raises(ValueError, match=r"unembedding is missing in the base and \(48, 16\) in the policy"):
        adapted(policy=plain, base=lambda: less).constants()
    with pytest.raises(ValueError, match=r"lora_a is \(1, 16, 16\) in the base and unknown in the policy"):
        adapted(policy=plain, base=lambda: more, lora=None, train="embedding").constants()
