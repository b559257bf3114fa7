"""Combining objectives: the mixture of RACO against grids, scipy and the closed form for two objectives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from loss_inputs import inputs_for
from scipy.optimize import minimize
from x64 import enable_x64

from jaxpref import losses
from jaxpref.losses import multi
from jaxpref.losses.multi import weighted_sum

# Compiled once for a shape: the tests below call them often.
conflict_averse_mixture = jax.jit(multi.conflict_averse_mixture)
raco = jax.jit(multi.raco, static_argnames=("c", "clip"))


@pytest.fixture
def _float64():
    with enable_x64():
        yield


def _problem(o, size=6, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(o))
    return rng.normal(size=(o, size)), weights


def _objective(g, w, c):
    g0 = w @ g
    return lambda p: (p @ g) @ g0 + c * np.linalg.norm(g0) * np.linalg.norm(p @ g)


def _mixture(g, w, c):
    return np.asarray(conflict_averse_mixture(jnp.asarray(g @ g.T), jnp.asarray(w), c))


def _on_simplex(p):
    return (p >= 0).all() and abs(p.sum() - 1) < 1e-12


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_three_objectives_beat_the_grid(seed, c):
    g, w = _problem(3, size=2 + seed, seed=seed)
    value, p = _objective(g, w, c), _mixture(g, w, c)
    assert _on_simplex(p)
    n = 60
    grid = [
        value(np.array([i, j, n - i - j]) / n)
        for i, j in itertools.product(range(n + 1), repeat=2)
        if i + j <= n
    ]
    assert value(p) <= min(grid) + 1e-10
    assert value(p) >= min(grid) - 0.01 * (max(grid) - min(grid)), "the grid is fine enough to be a test"


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(("o", "size"), [(2, 5), (3, 5), (4, 9), (5, 20), (5, 3)])
def test_equals_scipy(o, size):
    interior = 0
    for seed in range(6):
        g, w = _problem(o, size, seed=10 * o + seed)
        value, p = _objective(g, w, 0.5), _mixture(g, w, 0.5)
        assert _on_simplex(p)
        found = minimize(
            value,
            np.full(o, 1 / o),
            method="SLSQP",
            bounds=[(0, 1)] * o,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert value(p) <= found.fun + 1e-8
        if size > o and found.success:
            np.testing.assert_allclose(p, found.x, atol=2e-3)
            interior += (p > 0.01).sum() > 1
    assert interior or size <= o, "some of the minimisers are not at a corner"


def _closed_form(g, w, c):
    """Two objectives: roots of the squared stationarity condition, and the ends."""
    g0 = w @ g
    s, d = c * np.linalg.norm(g0), (g[0] - g[1]) @ g0
    q2, q1, q0 = (g[0] - g[1]) @ (g[0] - g[1]), 2 * (g[0] - g[1]) @ g[1], g[1] @ g[1]
    roots = np.roots([d**2 * q2 - s**2 * q2**2, d**2 * q1 - s**2 * q1 * q2, d**2 * q0 - s**2 * q1**2 / 4])
    ends = [0.0, 1.0, *(r.real for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < 1)]
    value = _objective(g, w, c)
    return min((np.array([x, 1 - x]) for x in ends), key=value)


@pytest.mark.usefixtures("_float64")
def test_two_objectives_equal_the_closed_form():
    inside = 0
    for seed in range(20):
        g, w = _problem(2, seed=seed)
        expected = _closed_form(g, w, 0.4)
        np.testing.assert_allclose(_mixture(g, w, 0.4), expected, atol=1e-7)
        inside += 0.001 < expected[0] < 0.999
    assert inside > 3


@pytest.mark.usefixtures("_float64")
def test_float32_reaches_the_same_value():
    for seed in range(5):
        g, w = _problem(3, seed=seed)
        value = _objective(g, w, 0.4)
        gram = jnp.asarray(g @ g.T, jnp.float32)
        p = np.asarray(conflict_averse_mixture(gram, jnp.asarray(w, jnp.float32), 0.4), float)
        exact = value(_mixture(g, w, 0.4))
        assert value(p / p.sum()) <= exact + 1e-5 * max(1, abs(exact))


@pytest.mark.parametrize("ratio", [1e-2, 1e-4, 1e-6])
def test_gradients_that_are_far_shorter_are_not_rounding(ratio):
    """In float32: the mixture may be all on short ones, whose squares are tiny beside the third's."""
    mixed = 0
    for seed in range(8):
        g, w = _problem(3, seed=seed)
        g[:2] *= ratio
        with enable_x64():
            p = _mixture(g, w, 0.4)
            exact = raco({"a": jnp.asarray(g)}, jnp.asarray(w), clip=False)["a"]
        ours = raco({"a": jnp.asarray(g, jnp.float32)}, jnp.asarray(w, jnp.float32), clip=False)["a"]
        np.testing.assert_allclose(ours, exact, atol=2e-3 * np.linalg.norm(exact))
        mixed += (p[:2] > 0.01).all()
    assert mixed


def _tree(g):
    return {"a": jnp.asarray(g[:, :1, None]), "b": [jnp.asarray(g[:, 1:]), jnp.asarray(g[:, 0])]}


def _flat(g):
    return np.concatenate([g, g[:, :1]], 1)


def _combined(out):
    return np.concatenate([np.ravel(out["a"]), np.ravel(out["b"][0]), np.ravel(out["b"][1])])


@pytest.mark.usefixtures("_float64")
def test_weighted_sum_is_raco_without_aversion():
    g, w = _problem(3)
    plain = _combined(weighted_sum(_tree(g), jnp.asarray(w)))
    np.testing.assert_allclose(plain, w @ _flat(g), rtol=1e-12)
    for clip in (True, False):
        np.testing.assert_allclose(
            _combined(raco(_tree(g), jnp.asarray(w), c=0.0, clip=clip)), plain, rtol=1e-12
        )


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("o", [1, 2, 4])
def test_equal_gradients_are_stretched(o, clip):
    g, w = _problem(1)[0].repeat(o, 0), _problem(o)[1]
    out = _combined(raco(_tree(g), jnp.asarray(w), c=0.4, clip=clip))
    np.testing.assert_allclose(out, 1.4 * _flat(g)[0], rtol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_clip_bounds_the_mixture_by_the_weights():
    clipped = 0
    for seed in range(6):
        g, w = _problem(3, seed=seed)
        whole = _flat(g)
        p = _mixture(whole, w, 0.4)
        g0 = w @ whole
        for clip in (True, False):
            q = (np.minimum(p, w) if clip else p) @ whole
            expected = g0 + 0.4 * np.linalg.norm(g0) * q / np.linalg.norm(q)
            out = _combined(raco(_tree(g), jnp.asarray(w), clip=clip))
            np.testing.assert_allclose(out, expected, rtol=1e-7, atol=1e-9)
        clipped += (p > w + 0.01).any()
    assert clipped


@pytest.mark.usefixtures("_float64")
def test_the_addition_has_its_length_and_helps_the_worst_objective():
    """Unclipped, it is CAGrad: the best worst-case improvement within the ball, so no less than g0's own."""
    for seed in range(6):
        g, w = _problem(3, seed=seed)
        whole = _flat(g)
        g0, out = w @ whole, _combined(raco(_tree(g), jnp.asarray(w), clip=False))
        np.testing.assert_allclose(np.linalg.norm(out - g0), 0.4 * np.linalg.norm(g0), rtol=1e-9)
        assert (whole @ out).min() >= (whole @ g0).min() - 1e-9
        # Duality: the worst improvement equals the value of the mixture's objective.
        value = _objective(whole, w, 0.4)(_mixture(whole, w, 0.4))
        np.testing.assert_allclose((whole @ out).min(), value, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_scale_of_the_gradients(scale):
    g, w = _problem(3)
    out = _combined(raco(_tree(scale * g), jnp.asarray(w)))
    np.testing.assert_allclose(out / scale, _combined(raco(_tree(g), jnp.asarray(w))), rtol=1e-9)


@pytest.mark.usefixtures("_float64")
def test_gradients_that_vanish_or_cancel():
    zero = raco(_tree(np.zeros((3, 4))), jnp.array([0.2, 0.3, 0.5]))
    np.testing.assert_array_equal(_combined(zero), 0)
    g = np.stack([np.arange(1.0, 5), -np.arange(1.0, 5)])
    balanced = raco(_tree(g), jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(_combined(balanced), 0, atol=1e-12)
    # Opposite gradients, unequal weights: the minimiser has G_p = 0 and nothing is added.
    out = raco(_tree(g), jnp.array([0.8, 0.2]), c=2.0, clip=False)
    np.testing.assert_allclose(_combined(out), 0.6 * _flat(g)[0], rtol=1e-6)
    np.testing.assert_allclose(_mixture(g, np.array([0.8, 0.2]), 2.0), 0.5, atol=1e-6)


def test_bad_input():
    g, w = _tree(np.ones((3, 4), np.float32)), jnp.ones(3) / 3
    with pytest.raises(ValueError, match="c: expected"):
        raco(g, w, c=-1.0)
    with pytest.raises(ValueError, match="axis 0 of 2 objectives"):
        raco(g, jnp.ones(2) / 2)
    with pytest.raises(ValueError, match="axis 0"):
        weighted_sum({"a": jnp.ones(())}, jnp.ones(2) / 2)
    with pytest.raises(ValueError, match="at most 10 objectives"):
        raco({"a": jnp.ones((11, 2))}, jnp.ones(11) / 11)


def test_dtypes_are_kept_and_jit_changes_nothing():
    g, w = _problem(3, size=8)
    tree = {"a": jnp.asarray(g, jnp.bfloat16), "b": jnp.asarray(g, jnp.float32)}
    out = multi.raco(tree, jnp.asarray(w, jnp.float32))
    assert (out["a"].dtype, out["b"].dtype) == (jnp.bfloat16, jnp.float32)
    compiled = raco(tree, jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(compiled["b"], out["b"], rtol=1e-4, atol=1e-5)


def test_inner_products_are_global_over_devices():
    """A gradient that is sharded over devices: the mixture is of the whole, not of each shard."""
    g, w = _problem(3, size=16)
    tree, weights = {"a": jnp.asarray(g, jnp.float32)}, jnp.asarray(w, jnp.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("model",))
    spread = jax.device_put(tree, NamedSharding(mesh, PartitionSpec(None, "model")))
    one, eight = raco(tree, weights), raco(spread, weights)
    assert len(eight["a"].sharding.device_set) == 8
    np.testing.assert_allclose(one["a"], eight["a"], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_float64")
def test_signed_dpo_columns():
    x = {n: jnp.asarray(v, jnp.float64) for n, v in inputs_for(losses.dpo).items()}
    signs = jnp.array([[1.0, -1.0, 0.0]]).repeat(5, 0)
    columns = losses.signed_dpo(**x, signs=signs, beta=0.3)
    assert columns.shape == (5, 3)
    np.testing.assert_allclose(columns[:, 0], losses.dpo(**x, beta=0.3), rtol=1e-13)
    swap = {"chosen": "rejected", "rejected": "chosen"}
    flipped = {n.replace(s, swap[s]): x[n] for n in x for s in swap if s in n}
    np.testing.assert_allclose(columns[:, 1], losses.dpo(**flipped, beta=0.3), rtol=1e-13)
    np.testing.assert_allclose(columns[:, 2], np.log(2), rtol=1e-14)
    gradient = jax.grad(lambda c: losses.signed_dpo(**x | {"chosen_logps": c}, signs=signs)[:, 2].sum())
    np.testing.assert_array_equal(gradient(x["chosen_logps"]), 0)


@pytest.mark.usefixtures("_float64")
def test_raco_on_the_gradients_of_signed_dpo():
    """From losses to a direction: `jax.jacrev` of the mean columns gives the gradients that `raco` takes."""
    x = {n: jnp.asarray(v, jnp.float64) for n, v in inputs_for(losses.dpo).items()}
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    moved = {n: x.pop(n) for n in ("chosen_logps", "rejected_logps")}
    gradients = jax.jacrev(lambda m: losses.signed_dpo(**m, **x, signs=signs).mean(0))(moved)
    assert gradients["chosen_logps"].shape == (2, 5)
    out = raco(gradients, jnp.array([0.8, 0.2]))
    assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, moved)
    step = jax.tree.map(lambda m, d: m - 1e-3 * d, moved, out)
    before, after = (losses.signed_dpo(**m, **x, signs=signs).mean(0) for m in (moved, step))
    assert after @ jnp.array([0.8, 0.2]) < before @ jnp.array([0.8, 0.2])
