"""A prompt computed once for all its responses gives what separate rows give, for fewer operations."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import FAMILIES, ragged_batch, random_params, unshared
from x64 import enable_x64

from jaxpref.models.scoring import token_logps
from jaxpref.models.sizes import tiny
from jaxpref.models.transformer import Transformer
from jaxpref.policies.transformer import forward_flops
from jaxpref.types import Completions

_score = jax.jit(token_logps, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _score_and_gradient(model, params, batch, weights):
    """Weighted sums of token log-probs by response, and the gradient of their total."""

    def total(params):
        sums = (token_logps(model, params, batch)).sum(-1).reshape(-1)
        return (sums * weights).sum(), sums

    (_, sums), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return sums, gradient


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        *((name, "float64", 1e-10) for name in ("smollm2", "gemma2", "pythia")),
        *(
            pytest.param(name, "float32", 1e-5, marks=pytest.mark.exhaustive)
            for name in ("smollm2", "gemma2", "pythia")
        ),
    ],
)
def test_shared_equals_unshared(name, dtype, tolerance):
    sizes = FAMILIES[name]
    with enable_x64(dtype == "float64"):
        params = random_params(sizes, dtype=dtype)
        batch = ragged_batch(b=3, k=3)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=9), dtype)
        model = Transformer(sizes, dtype, dtype)
        sums, gradient = _score_and_gradient(model, params, batch, weights)
        other_sums, other_gradient = _score_and_gradient(model, params, unshared(batch), weights)
        np.testing.assert_allclose(sums, other_sums, rtol=tolerance, atol=tolerance)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
            assert a.dtype == dtype
            scale = float(jnp.abs(b).max())
            assert scale > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, scale))


def _compiled_flops(batch):
    sizes = tiny(vocab=2048, embed=128, layers=2, heads=4)
    # Unrolled, because the cost analysis counts the body of a loop once.
    model = Transformer(sizes, unroll=sizes.layers)
    params = jax.eval_shape(model.init, jax.random.key(0))
    compiled = jax.jit(functools.partial(token_logps, model)).lower(params, batch).compile()
    return compiled.cost_analysis()["flops"], forward_flops(sizes, batch)


def test_sharing_costs_fewer_operations(capsys):
    p, r, k = 256, 128, 2

    def abstract(b, k):
        ids, flag = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32), jnp.bool_
        return Completions(
            ids((b, p)),
            jax.ShapeDtypeStruct((b, p), flag),
            ids((b, k, r)),
            jax.ShapeDtypeStruct((b, k, r), flag),
        )

    shared, formula = _compiled_flops(abstract(2, k))
    separate, other_formula = _compiled_flops(abstract(2 * k, 1))
    with capsys.disabled():
        print(f"\ncompiled FLOPs, shared / unshared prompt at p={p} r={r} k={k}: {shared / separate:.3f}")
    assert shared / separate < 0.9
    # The compiler counts masked pairs and element-wise work too, hence more than the formula.
    assert 1.0 < shared / formula < 1.25
    assert shared / separate == pytest.approx(formula / other_formula, rel=0.1)


def test_never_a_full_logits_array():
    sizes = dataclasses.replace(FAMILIES["smollm2"], vocab=997)
    batch = ragged_batch(b=2, k=2, p=6, r=7, vocab=997)
    params = random_params(sizes)
    program = jax.make_jaxpr(jax.grad(lambda p: token_logps(Transformer(sizes), p, batch).sum()))(params)
    with_vocab = {
        tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+),997\]", str(program))
    }
    # The b * k * r predicting rows and no more; [embed, vocab] is the transposed weight.
    assert with_vocab - {(1,), (sizes.embed,)} == {(2 * 2 * 7,)}


@pytest.mark.parametrize("name", ["smollm2", "gemma2"])
class TestInvariances:
    """Padding, the order of rows and the order of responses change nothing but rounding."""

    def score(self, name, batch):
        return np.asarray(_score(Transformer(FAMILIES[name]), random_params(FAMILIES[name]), batch))

    def test_padding(self, name):
        batch = ragged_batch()
        wide = [(0, 0), (0, 0), (0, 4)]
        padded = Completions(
            jnp.pad(batch.prompt_tokens, wide[1:], constant_values=60),
            jnp.pad(batch.prompt_mask, wide[1:]),
            jnp.pad(batch.response_tokens, wide, constant_values=60),
            jnp.pad(batch.response_mask, wide),
        )
        given, expected = self.score(name, padded), self.score(name, batch)
        np.testing.assert_allclose(given[..., : expected.shape[-1]], expected, atol=2e-6, rtol=2e-6)
        assert (given[..., expected.shape[-1] :] == 0).all()

    def test_content_of_padding(self, name):
        batch = ragged_batch()
        other = dataclasses.replace(
            batch,
            prompt_tokens=jnp.where(batch.prompt_mask, batch.prompt_tokens, 59),
            response_tokens=jnp.where(batch.response_mask, batch.response_tokens, 58),
        )
        np.testing.assert_array_equal(self.score(name, other), self.score(name, batch))

    def test_order_of_rows(self, name):
        batch, order = ragged_batch(), jnp.array([2, 0, 1])
        shuffled = jax.tree.map(lambda x: x[order], batch)
        np.testing.assert_allclose(self.score(name, shuffled), self.score(name, batch)[order], atol=2e-6)

    def test_order_of_responses(self, name):
        batch, order = ragged_batch(k=3), jnp.array([2, 0, 1])
        shuffled = dataclasses.replace(
            batch,
            response_tokens=batch.response_tokens[:, order],
            response_mask=batch.response_mask[:, order],
        )
        np.testing.assert_allclose(self.score(name, shuffled), self.score(name, batch)[:, order], atol=2e-6)

    def test_empty_prompt_array(self, name):
        batch = ragged_batch(p=1)
        joined = Completions(
            jnp.zeros((3, 0), jnp.int32),
            jnp.zeros((3, 0), bool),
            jnp.concatenate(
                [jnp.broadcast_to(batch.prompt_tokens[:, None], (3, 2, 1)), batch.response_tokens], -1
            ),
            jnp.concatenate([jnp.ones((3, 2, 1), bool), batch.response_mask], -1),
        )
        given = self.score(name, joined)
        assert (given[..., 0] == 0).all()  # nothing predicts it, even though the mask asks
        np.testing.assert_allclose(given[..., 1:], self.score(name, batch), atol=2e-6, rtol=2e-6)


def test_rows_without_a_prompt_do_not_score_their_first_token():
    sizes, batch = FAMILIES["smollm2"], ragged_batch()
    mask = batch.prompt_mask.at[1].set(False)
    logps = _score(Transformer(sizes), random_params(sizes), dataclasses.replace(batch, prompt_mask=mask))
    assert (logps[1, :, 0] == 0).all()
    assert (logps[0, :, 0] != 0).all()


def test_unscored_tokens_are_read_but_not_scored():
    sizes, batch = FAMILIES["smollm2"], ragged_batch()
    params, model = random_params(sizes), Transformer(FAMILIES["smollm2"])
    hole = dataclasses.replace(batch, response_mask=batch.response_mask.at[0, 0, 2].set(False))
    scored, holed = _score(model, params, batch), _score(model, params, hole)
    assert holed[0, 0, 2] == 0
    np.testing.assert_array_equal(holed.at[0, 0, 2].set(scored[0, 0, 2]), scored)
    changed = dataclasses.replace(
        hole, response_tokens=hole.response_tokens.at[0, 0, 2].set((hole.response_tokens[0, 0, 2] + 1) % 61)
    )
    other = _score(model, params, changed)
    assert (np.abs(other - holed)[0, 0, 3:] > 1e-4).all()
    np.testing.assert_array_equal(other[0, 0, :3], holed[0, 0, :3])
    np.testing.assert_array_equal(other[0, 1], holed[0, 1])  # the sibling does not read it


@pytest.mark.parametrize(
    ("remat", "unroll", "attention"),
    [
        ("none", 2, None),
        ("dots", 1, None),
        ("attention+mlp", 1, "blockwise"),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (("block", None, None), ("attention", 1, "blockwise"), ("mlp", None, None))
        ),
    ],
)
def test_remat_unroll_and_attention_change_nothing(remat, unroll, attention):
    sizes, batch = FAMILIES["gemma2"], ragged_batch()
    with enable_x64(True):
        params, weights = random_params(sizes, dtype="float64"), jnp.arange(1.0, 7.0)
        plain = Transformer(sizes, "float64", "float64")
        expected = _score_and_gradient(plain, params, batch, weights)
        other = dataclasses.replace(plain, remat=remat, unroll=unroll, attention=attention)
        given = _score_and_gradient(other, params, batch, weights)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("remat", "kept"),
    [("block", ()), ("attention", ("f,",)), ("mlp", ("m,", "m,")), ("attention+mlp", ("f,", "m,", "m,"))],
)
def test_remat_keeps_what_it_names(remat, kept):
    """Beside the input of a layer: what the heads read (f numbers a token), the widened states (m)."""
    sizes = dataclasses.replace(tiny(vocab=64, embed=24, layers=3, heads=4, mlp=40))
    batch, t = ragged_batch(b=3, k=2, p=6, r=7), 6 + 2 * 7
    model = Transformer(sizes, remat=remat, unroll=1, attention="blockwise")
    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.make_jaxpr(jax.grad(lambda p: token_logps(model, p, batch).sum()))(params)
    forward = next(e for e in program.eqns if e.primitive.name == "scan" and e.params["length"] == 3)
    stacked = [v.aval for v in forward.outvars[forward.params["num_carry"] :]]
    wide = [x.shape for x in stacked if x.dtype == jnp.float32 and x.size >= 3 * 3 * t * 24]
    sizes_kept = {"f,": (3, 3, 4, 1, t, 6), "m,": (3, 3, t, 40)}
    assert sorted(wide) == sorted([(3, 3, t, 24), *(sizes_kept[name] for name in kept)])
