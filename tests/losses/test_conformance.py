"""The battery that every exported loss passes for one row of `jaxpref.methods`."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import DATA, axes_of, inputs_for, is_float, moving, value
from x64 import enable_x64

from jaxpref import losses
from jaxpref.methods import METHODS, Method


def over(methods):
    return pytest.mark.parametrize("method", methods, ids=lambda m: m.name)


ALL = over(METHODS)
ONE_BY_ONE = over([m for m in METHODS if not m.coupled])
BY_NAME = {m.name: m for m in METHODS}


def _slopes(method: Method):
    """The losses and the gradient of their sum by the first argument, of `(moves, rest)`."""

    def total(moves, rest):
        values = value(method, {**moves, **rest})
        return values.sum(), values

    def both(moves, rest):
        (_, values), gradient = jax.value_and_grad(total, has_aux=True)(moves, rest)
        return values, gradient

    return both


def _in_float32(inputs):
    """The float inputs, in float32, and the other ones."""
    floats = {n: jnp.asarray(x, jnp.float32) for n, x in inputs.items() if is_float(x)}
    return floats, {n: x for n, x in inputs.items() if n not in floats}


@functools.cache
def _compiled(name: str):
    """Losses and gradients of all float inputs of `_batch` rows: compiled once for all tests that ask."""
    return jax.jit(_slopes(BY_NAME[name]))


@functools.cache
def _drawn(name: str):
    """The same at random inputs."""
    method = BY_NAME[name]
    return _compiled(name)(*_in_float32(inputs_for(method.loss, _batch(method))))


def test_every_exported_loss_has_a_row():
    names = [m.name for m in METHODS]
    assert sorted(names) == sorted(set(names))
    functions = {n for n in losses.__all__ if not n.endswith("_state")}
    assert functions <= set(names), (
        f"no row for {sorted(functions - set(names))}: add a Method(...) to a file of jaxpref/methods "
        "(jaxpref/methods/pairwise.py shows the fields); the battery of this file then runs over it"
    )
    assert set(names) <= functions, (
        f"rows without an exported loss: {sorted(set(names) - functions)}; see jaxpref/losses/__init__.py"
    )


@over([m for m in METHODS if not m.stops])
def test_gradients_equal_float64_finite_differences(method: Method):
    with enable_x64():
        drawn = inputs_for(method.loss)
        given = {n: np.asarray(x, np.float64) if is_float(x) else x for n, x in drawn.items()}
        moves = moving(method, given)
        fixed = {n: x for n, x in given.items() if n not in moves}

        def total(x):
            out = value(method, {**x, **fixed})
            return (out * jnp.arange(1.0, out.size + 1).reshape(out.shape)).sum()

        @jax.jit
        def at(x, v):
            """The total, its slope along `v` in forward mode, and its gradient in reverse mode."""
            return *jax.jvp(total, (x,), (v,)), jax.grad(total)(x)

        rng, step = np.random.default_rng(1), 1e-5
        for _ in range(3):
            direction = {n: rng.normal(size=x.shape) for n, x in moves.items()}
            ahead, _, _ = at({n: moves[n] + step * direction[n] for n in moves}, direction)
            behind, _, _ = at({n: moves[n] - step * direction[n] for n in moves}, direction)
            numeric = float((ahead - behind) / (2 * step))
            _, forward, reverse = at(moves, direction)
            backward = sum(float((np.asarray(reverse[n]) * direction[n]).sum()) for n in moves)
            for mode, slope in (("forward", float(forward)), ("reverse", backward)):
                np.testing.assert_allclose(
                    slope,
                    numeric,
                    rtol=5e-7,
                    atol=1e-8,
                    err_msg=f"{method.name}: the slope of {mode} mode is not that of finite differences. If "
                    "a gradient stops on purpose, say where in `stops` of its row; if an array inside is "
                    "float32, give it the dtype of the inputs",
                )


def _to_extremes(method: Method) -> tuple[list[str], bool]:
    """What goes to +-size, and whether every pattern of signs does (where those inputs are [b] and few)."""
    drawn = inputs_for(method.loss)
    names = [n for n, x in drawn.items() if is_float(x) and (n in moving(method, drawn) or "logps" in n)]
    return names, all(axes_of(method.loss)[n] == ("b",) for n in names) and len(names) <= 8


def _batch(method: Method) -> int:
    """Rows that hold every pattern of signs. Tests share the size because they share what is compiled."""
    names, patterns = _to_extremes(method)
    return max(64, 2 ** len(names)) if patterns else 64


def _extremes(method: Method, size: float):
    """Inputs at +-size: every pattern of signs where inputs are [b], else random signs of every element."""
    names, patterns = _to_extremes(method)
    inputs, rng = inputs_for(method.loss, _batch(method)), np.random.default_rng(2)
    signs = {n: rng.choice([-1.0, 1.0], inputs[n].shape) for n in names}
    if patterns:
        every = np.array(list(itertools.product((-1.0, 1.0), repeat=len(names))))
        every = np.tile(every, (_batch(method) // len(every), 1))
        signs = {n: every[:, i] for i, n in enumerate(names)}
    for n in names:
        s = signs[n]
        if n.endswith("_kl"):
            s = np.abs(s)
        if n.endswith("log_sum_p2"):
            s = -np.abs(s)
        inputs[n] = s * size
    return inputs, names


@ALL
@pytest.mark.parametrize("slopes", ["compiled", pytest.param("eager", marks=pytest.mark.exhaustive)])
def test_finite_in_float32_at_extremes(method: Method, slopes):
    """Values op by op in both: a compiler may simplify an overflow away, as it does log(exp(x))."""
    both = _compiled(method.name) if slopes == "compiled" else _slopes(method)
    for size in (1.0, 1e4):
        inputs, names = _extremes(method, size)
        floats, rest = _in_float32(inputs)
        values, gradient = jax.tree.map(np.asarray, both(floats, rest))
        eager = np.asarray(value(method, floats | rest))
        for kind, found in ((slopes, values), ("eager", eager)):
            bad = ~np.isfinite(found)
            where = bad.reshape(len(bad), -1).any(-1)
            given = {n: np.asarray(inputs[n])[where][:1] for n in names}
            assert not bad.any(), (
                f"not finite ({kind}) where log-probs differ by {size:g} nats, for example at {given}: use "
                "`jax.nn.log_sigmoid`, `logaddexp` and the like, or clip"
            )
        for name in moving(method, inputs):
            assert np.isfinite(gradient[name]).all(), f"the slope by {name} is not finite at {size:g} nats"


def _rank(method: Method) -> int:
    """1: a number for each example; 2: for each of its responses, or objectives, as the signature says."""
    if any("o" in axes for axes in axes_of(method.loss).values()):
        return 2
    returned = inspect.signature(method.loss).return_annotation
    return len(returned.dim_str.split()) if hasattr(returned, "dim_str") else 1


@ALL
def test_one_number_per_example_in_float32(method: Method):
    inputs = inputs_for(method.loss)
    for dtype in (jnp.bfloat16, jnp.float32):
        given = {n: np.asarray(x, dtype) if is_float(x) else x for n, x in inputs.items()}
        out = jax.eval_shape(functools.partial(value, method), given)
        assert (out.ndim, out.shape[0]) == (_rank(method), 5), (
            f"{method.name} returns {out.shape} for 5 prompts: a loss returns one number for each "
            'prompt (Float[Array, "b"]) or response (Float[Array, "b k"]), as its return annotation says'
        )
        assert out.dtype == jnp.float32, (
            f"{method.name} returns {out.dtype} of {jnp.dtype(dtype)}: pass its inputs through "
            "`losses.checks.as_floats` (or `scores.log_ratios`), which makes them float32 or better"
        )


@ONE_BY_ONE
def test_examples_stand_for_themselves(method: Method):
    """The first rows do not feel that all others change; a row alone is one number."""
    inputs, axes = inputs_for(method.loss, _batch(method)), axes_of(method.loss)
    others = inputs_for(method.loss, _batch(method), seed=1)
    mixed = {
        n: np.concatenate([np.asarray(x)[:5], np.asarray(others[n])[5:]]) if "b" in axes[n] else x
        for n, x in inputs.items()
    }
    values = np.asarray(_compiled(method.name)(*_in_float32(mixed))[0])
    np.testing.assert_array_equal(
        values[:5],
        _drawn(method.name)[0][:5],
        err_msg=f"{method.name}: rows feel other rows. If intended, say so in `coupled` of its row",
    )
    assert (values[5:] != _drawn(method.name)[0][5:]).any()
    alone = {n: np.asarray(x)[:1] if "b" in axes[n] else x for n, x in inputs.items()}
    assert jax.eval_shape(functools.partial(value, method), alone).shape[0] == 1


@over([m for m in METHODS if m.coupled and {"valid", "where", "mask"} & set(m.inputs)])
def test_padding_rows_change_nothing(method: Method):
    """Whatever stands in rows that are not real, and however many there are: NaN must not leak either."""
    inputs, axes = inputs_for(method.loss), axes_of(method.loss)
    keep = np.array([True, True, False, True, False])
    real = next(n for n in ("valid", "where", "mask") if n in inputs)
    inputs[real] = inputs[real] & keep[:, None, None] if real == "mask" else keep
    rows = {n for n in inputs if "b" in axes[n]}
    garbage = dict(inputs)
    for n in rows:
        if is_float(inputs[n]):
            shape = (-1, *(1,) * (inputs[n].ndim - 1))
            garbage[n] = np.where(keep.reshape(shape), inputs[n], np.nan)
    floats, rest = _in_float32(garbage)
    moves = moving(method, floats)
    rest |= {n: x for n, x in floats.items() if n not in moves}

    @jax.jit
    def total(moves, rest):
        values = value(method, {**moves, **rest})
        return jnp.where(keep.reshape(-1, *(1,) * (values.ndim - 1)), values, 0).sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(moves, rest)
    clean, others = _in_float32(inputs)
    _, expected = total({n: clean.pop(n) for n in moves}, clean | others)
    np.testing.assert_allclose(values[keep], expected[keep], rtol=1e-6)
    for name, g in gradient.items():
        assert np.isfinite(g[keep]).all(), name
        np.testing.assert_array_equal(g[~keep], 0, err_msg=name)
    if "key" in inputs:
        return  # a draw depends on how many rows there are
    fewer = {n: x[keep] if n in rows else x for n, x in inputs.items()}
    few = jax.jit(functools.partial(value, method))(fewer)
    np.testing.assert_allclose(few, expected[keep], rtol=1e-5, atol=1e-6)


def _refused(call, given, *, match: str, how: str) -> None:
    """`call(given)` raises a ValueError that says `match`; if not, the test says how to mend it."""
    raised = None
    try:
        call(given)
    except Exception as error:
        raised = error
    right = isinstance(raised, ValueError) and match in str(raised)
    assert right, f"{how}\n(raised: {raised!r})"


@over([m for m in METHODS if len(m.inputs) > 1])
def test_shape_mismatch_is_an_error(method: Method):
    inputs = inputs_for(method.loss)
    for name, axes in axes_of(method.loss).items():
        if "b" in axes:
            _refused(
                lambda given: jax.eval_shape(functools.partial(value, method), given),
                inputs | {name: inputs[name][:1]},
                match="expected one shape",
                how=f"{method.name} must refuse {name} of one row beside other inputs of five: pass all "
                "inputs through `losses.checks.as_floats` or `check_axes`",
            )


@ALL
def test_jit_equals_eager(method: Method):
    floats, rest = _in_float32(inputs_for(method.loss, _batch(method)))
    np.testing.assert_allclose(_drawn(method.name)[0], value(method, floats | rest), rtol=2e-6, atol=2e-6)


@ALL
def test_reference_has_exactly_zero_gradient(method: Method):
    moves = moving(method, inputs_for(method.loss))
    for name, g in _drawn(method.name)[1].items():
        if name.startswith("reference") or name in method.constants:
            np.testing.assert_array_equal(
                g,
                0,
                err_msg=f"{method.name}: {name} is data and has a gradient; use `scores.log_ratio`",
            )
        elif name in moves:
            assert np.abs(g[:5]).max() > 0, (
                f"{method.name}: {name} has no gradient; if intended, name it in `constants` of its row"
            )
        else:
            assert DATA.match(name), (
                f"{name}: not a reference, a constant or matched by DATA (loss_inputs.py)"
            )


@over([m for m in METHODS if m.at_equality is not None])
def test_value_at_equality(method: Method):
    inputs = {n: jnp.ones(5) for n in inputs_for(method.loss)}
    np.testing.assert_allclose(
        method.loss(**inputs),
        method.at_equality,
        rtol=1e-6,
        err_msg=f"{method.name}: `at_equality` of its row is the value where every input is 1",
    )


@pytest.mark.parametrize(
    ("method", "arguments"),
    [(method, arguments) for method in METHODS for arguments in method.rejects],
    ids=lambda v: v.name if isinstance(v, Method) else str(v),
)
def test_bad_hyper_parameter_is_an_error(method: Method, arguments):
    _refused(
        lambda given: value(method, given, **arguments),
        inputs_for(method.loss),
        match=next(iter(arguments)),
        how=f"{method.name} must refuse {arguments}, as `rejects` of its row says, and name it: "
        "`losses.checks.positive`, `not_negative` and `within` do",
    )


@ALL
def test_every_hyper_parameter_has_its_range(method: Method):
    numbers = {
        name
        for name, default in method.hyper_parameters.items()
        if isinstance(default, int | float) and not isinstance(default, bool)
    }
    refused = {name for arguments in method.rejects for name in arguments}
    assert not numbers - refused - set(method.unbounded), (
        f"{method.name}: {sorted(numbers - refused - set(method.unbounded))} may be any number: let "
        "`losses.checks` refuse what has no meaning and name it in `rejects` of the row, as dpo does for "
        "beta; or name it in `unbounded`"
    )
    assert not refused & set(method.unbounded)


@ALL
def test_signature_and_docstring(method: Method):
    for parameter in inspect.signature(method.loss).parameters.values():
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        assert keyword == (parameter.default is not parameter.empty), (
            f"losses.{method.name}, {parameter}: inputs have no default; hyper-parameters have one and come "
            "after `*,` in the signature"
        )
        assert parameter.annotation is not parameter.empty, (
            f"losses.{method.name}, {parameter}: no type; inputs are jaxtyping arrays such as "
            'Float[Array, "b"]'
        )
    doc = inspect.getdoc(method.loss) or ""
    where = f"in the docstring of losses.{method.name} (losses.dpo shows the form)"
    assert method.sources, (
        f"no paper {where}: write 'Rafailov et al. 2023, arXiv:2305.18290, Eq. 7.' or, "
        "of your own, 'Name 2026'"
    )
    assert "nats" in doc or "log" in doc, f"no unit {where}: say that the log-probs are in nats"
    if method.coupled:
        assert "microbatch" in doc, f"nothing on microbatches {where}: rows are coupled"
