"""An ensemble of adapters: members learn as if alone, and act as the mean of their changes of weights."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import losses
from jaxpref.algorithms import offline, online, sft
from jaxpref.algorithms.copies import copied, frozen
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.kernels.token_logps import KL
from jaxpref.models.lora import LoRA
from jaxpref.models.sizes import tiny
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import whole
from jaxpref.policies.comparing import comparing
from jaxpref.policies.ensemble import ensemble
from jaxpref.policies.transformer import transformer
from jaxpref.selection import two_samples
from jaxpref.trees import flat, joined, nested
from jaxpref.types import Completions

SIZES = tiny(vocab=48, embed=16, layers=2, heads=2, mlp=40)
LORA = LoRA(rank=3, targets=("query", "mlp.down"))
OPTIMIZER = partial(adamw, schedule=partial(constant, value=1e-2))  # clips each gradient at 1
plain = partial(transformer, sizes=SIZES, eos_id=1, unroll=1)
KEY = jax.random.key(3)


def base():
    """Of which distributions are far from uniform."""
    params = jax.device_get(plain().init(jax.random.key(0)))
    return params | {"embedding": 20 * params["embedding"]}


one = partial(adapted, policy=plain, base=base, lora=LORA, train="final_norm.scale")
BASE = {"policy": one().constants().params}


def batch(b=4, k=2, p=5, r=4):
    rng = np.random.default_rng(0)
    tokens = partial(rng.integers, 2, SIZES.vocab)
    prompts, responses = jnp.asarray(tokens((b, p))), jnp.asarray(tokens((b, k, r)))
    return Completions(prompts, jnp.ones((b, p), bool), responses, jnp.ones((b, k, r), bool))


def drawn(members):
    """Params of members that have learnt something, each something else."""
    rng, shapes = np.random.default_rng(1), jax.eval_shape(one().init, KEY)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=(members, *x.shape), scale=0.3), x.dtype), shapes
    )


def member(params, i):
    return jax.tree.map(lambda x: x[i], params)


def close(first, second, **how):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(partial(np.testing.assert_allclose, **how), first, second)


def test_the_average_has_the_mean_of_the_changes_of_weights():
    params, policy = drawn(3), ensemble(policy=one, members=3)
    leaves, expected = flat(params), flat(base())
    for name in ("attention.query", "mlp.down"):
        a, b = (np.asarray(leaves[f"blocks.{name}.lora_{x}"], np.float64) for x in "ab")
        weight = expected[f"blocks.{name}.weight"]
        expected[f"blocks.{name}.weight"] = (weight + (32 / 3 * a @ b).mean(0)).astype(np.float32)
    expected["final_norm.scale"] = np.asarray(leaves["final_norm.scale"]).mean(0)
    ours = policy.token_logps(whole(params, BASE), batch())
    close(ours, plain().token_logps(nested(expected), batch()), rtol=0, atol=1e-5)


def trained(algorithm, params, *, steps=3, **policies):
    state = algorithm.init(params, BASE)
    state = dataclasses.replace(state, policies=state.policies | policies)
    step, metrics = jax.jit(algorithm.step), []
    for i in range(steps):
        state, more = step(state, batch(), jax.random.fold_in(KEY, i))
        metrics.append({name: float(mean.value) for name, mean in more.items()})
    return state, metrics


BPO = partial(
    offline,
    loss=partial(losses.dpo, beta=0.5),
    optimizer=OPTIMIZER,
    reference="behaviour",
    policies={"behaviour": partial(copied, every=2)},
)


@pytest.mark.exhaustive  # what they share has cheaper tests
def test_an_ensemble_of_one_is_the_policy():
    params = drawn(1)
    alone, said = trained(BPO(one()), member(params, 0))
    policy = ensemble(policy=one, members=1)
    state, said_too = trained(BPO(policy), params)
    close(member(state.params, 0), alone.params, atol=1e-6)
    close(member(state.policies["behaviour"], 0), alone.policies["behaviour"], atol=1e-6)
    close(said_too, said, rtol=1e-5)


def test_members_learn_as_if_alone():
    """From the same pairs and held to the same anchor, the average at the start."""
    params, policy = drawn(2), ensemble(policy=one, members=2)
    dpo = partial(offline, loss=losses.dpo, optimizer=OPTIMIZER, microbatches=2)
    state, said = trained(dpo(policy), params)
    anchored = dpo(one(), reference="anchor", policies={"anchor": frozen})
    anchor, apart = policy.members.average(params), []
    for i in range(2):
        alone, metrics = trained(anchored, member(params, i), anchor=anchor)
        close(member(state.params, i), alone.params, atol=2e-6)
        apart.append(metrics)
    for name in ("loss", "grad_norm", "rewards/margins"):
        means = [(x[name] + y[name]) / 2 for x, y in zip(*apart, strict=True)]
        np.testing.assert_allclose([x[name] for x in said], means, rtol=1e-5)
    assert abs(apart[0][0]["loss"] - apart[1][0]["loss"]) > 0.05, "they differ, and one mean hides it"


@pytest.mark.exhaustive  # what they share has cheaper tests
def test_imitation_of_members_that_learn_apart():
    params, policy = drawn(2), ensemble(policy=one, members=2)
    algorithm = sft(policy, optimizer=OPTIMIZER)
    state, said = trained(algorithm, params)
    single = sft(one(), optimizer=OPTIMIZER)
    alone = [trained(single, member(params, i)) for i in range(2)]
    for i, (of_one, _) in enumerate(alone):
        close(member(state.params, i), of_one.params, atol=2e-6)
    np.testing.assert_allclose(said[0]["loss"], np.mean([m[0]["loss"] for _, m in alone]), rtol=1e-5)
    assert said[0]["num_tokens"] == alone[0][1][0]["num_tokens"], "tokens of a batch count once"
    held_out = algorithm.evaluate(state, batch(), KEY)["loss"].value
    logps = policy.token_logps(whole(state.params, BASE), batch())
    np.testing.assert_allclose(held_out, -logps.mean(), rtol=1e-5)


def test_a_phase_begins_at_log_two_only_for_equal_members():
    params, policy = drawn(2), ensemble(policy=one, members=2)
    equal, algorithm = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), params), BPO(policy)
    evaluate = jax.jit(algorithm.evaluate)
    for start, at_once in ((equal, True), (params, False)):
        first = trained(algorithm, start, steps=1)[1][0]["loss"]
        assert (abs(first - np.log(2)) < 1e-5) == at_once
        held_out = evaluate(algorithm.init(start, BASE), batch(), KEY)["loss"].value
        assert held_out == np.float32(np.log(2)), "the average is its own anchor"


@pytest.mark.exhaustive  # what they share has cheaper tests
def test_responses_are_drawn_by_the_average():
    params, policy = drawn(2), ensemble(policy=one, members=2)
    prompts, how = batch().prompts, {"num_samples": 2, "max_tokens": 4}
    ours = policy.sample(whole(params, BASE), prompts, KEY, **how)
    theirs = one().sample(whole(policy.members.average(params), BASE), prompts, KEY, **how)
    close(ours, theirs)
    mixed = policy.sample((whole(params, BASE),) * 2, prompts, KEY, weights=jnp.full((1, 1, 2), 0.5), **how)
    np.testing.assert_array_equal(mixed.completions.response_tokens, ours.completions.response_tokens)


def test_quantities_are_those_of_the_average():
    params, other, policy = drawn(2), jax.tree.map(jnp.flip, drawn(2)), ensemble(policy=one, members=2)
    names, average = ("token_logps", *KL), policy.members.average
    ours = policy.quantities(whole(params, BASE), batch(), names, whole(other, BASE), None)
    pair = (whole(average(x), BASE) for x in (params, other))
    theirs = one().quantities(next(pair), batch(), names, next(pair), None)
    close(ours, theirs)
    assert np.max(np.abs(ours[KL[0]])) > 0.01


def first_token_wins():
    def judge(models, completions):
        first = completions.response_tokens[..., 0]
        return (first[:, :, None] > first[:, None]) + 0.5 * (first[:, :, None] == first[:, None])

    return judge


@pytest.mark.exhaustive  # what they share has cheaper tests
def test_bpo_draws_from_the_average_and_is_held_to_it():
    policy = ensemble(policy=one, members=2)
    algorithm = online(
        policy,
        loss=losses.dpo,
        optimizer=OPTIMIZER,
        sample_from=({"behaviour": 1.0},) * 2,
        policies={"behaviour": partial(copied, every=2)},
        reference="behaviour",
        judge=first_token_wins,
        select=two_samples,
        max_tokens=4,
    )
    state = algorithm.init(drawn(2), BASE)
    step = jax.jit(algorithm.step)
    for i in range(3):
        record, _ = algorithm.collect(state, batch(), jax.random.fold_in(KEY, i))
        before, (state, _) = state, step(state, record, KEY)
        renewed = state.params if i == 1 else before.policies["behaviour"]
        jax.tree.map(np.testing.assert_array_equal, state.policies["behaviour"], renewed)
    assert not np.array_equal(*(x["blocks"]["mlp"]["down"]["lora_b"] for x in (state.params, before.params)))


def bytes_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_the_base_exists_once_and_moments_are_those_of_adapters():
    policy = ensemble(policy=one, members=4)
    state = BPO(policy).init(drawn(4), BASE)
    own = bytes_of(drawn(1))
    assert bytes_of(state.params) == bytes_of(state.policies) == 4 * own
    assert 2 * 4 * own <= bytes_of(state.opt_state) < 2 * 4 * own + 200, "two moments, and counters"
    assert bytes_of(state.constants) == bytes_of(base()) - SIZES.embed * 4  # the scale is trained


def test_members_begin_apart_and_change_nothing():
    policy = ensemble(policy=one, members=2)
    params = policy.init(KEY)
    a, b = (params["blocks"]["mlp"]["down"][f"lora_{x}"] for x in "ab")
    assert not np.array_equal(a[0], a[1])
    assert not np.any(b)
    given = joined(params, policy.given())
    np.testing.assert_array_equal(given["final_norm"]["scale"], [base()["final_norm"]["scale"]] * 2)
    expected = plain().token_logps(base(), batch())
    np.testing.assert_array_equal(policy.token_logps(whole(given, BASE), batch()), expected)
    axes = jax.tree.map(len, policy.axes(), is_leaf=lambda x: isinstance(x, tuple))
    assert axes == jax.tree.map(lambda x: x.ndim, params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ensemble, policy=one, members=0), "ensemble.members: expected 1 or more, got 0"),
        (partial(ensemble, policy=plain, members=2), "give a policy of adapters"),
        (partial(ensemble, policy=partial(ensemble, policy=one, members=2), members=2), "one of them"),
        (
            partial(
                comparing,
                policy=partial(ensemble, policy=partial(one, policy=partial(plain, outputs=1)), members=2),
                separator_id=0,
            ),
            "build the ensemble around it",
        ),
        (
            lambda: offline(
                ensemble(policy=partial(one, policy=partial(plain, outputs=0)), members=2),
                loss=losses.bco,
                optimizer=OPTIMIZER,
                loss_state=losses.bco_state,
            ),
            "loss_state and combine are for one policy",
        ),
    ],
)
def test_what_is_no_ensemble(make, message):
    with pytest.raises(ValueError, match=message):
        make()
