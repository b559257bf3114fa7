"""DFT: gradients and the state are what is tested, since the value is a surrogate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_inputs import inputs_for, is_float
from x64 import enable_x64

from jaxpref import losses


@pytest.fixture(autouse=True)
def _float64():
    with enable_x64():
        yield


def _inputs(loss, batch=5, seed=0):
    x = inputs_for(loss, batch, seed=seed) | {"valid": np.ones(batch, bool)}
    return {n: jnp.asarray(v, jnp.float64) if is_float(v) else jnp.asarray(v) for n, v in x.items()}


def _gradient(loss, x, state, **arguments):
    total = lambda logps: loss(**x | {"logps": logps}, state=state, **arguments)[0].sum()  # noqa: E731
    return jax.grad(total)(x["logps"])


def _log_weights(loss, x, tau):
    s = np.asarray(x["logps"])
    if loss is losses.dft:
        return (s / tau - np.asarray(x["reference_logps"]))[:, 1:]
    return (s / np.asarray(x["lengths"]) / tau)[:, 1:]


@pytest.mark.parametrize("loss", [losses.dft, losses.dft2])
def test_without_memory_samples_are_weighted_by_softmax(loss):
    x = _inputs(loss)
    g = _log_weights(loss, x, 0.7)
    w = np.exp(g - g.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    expected = np.concatenate([-np.ones((5, 1)), w], 1)
    if loss is losses.dft2:
        expected /= np.asarray(x["lengths"])
    state = jnp.full(5, 123.0)  # without memory, whatever the state says
    np.testing.assert_allclose(_gradient(loss, x, state, tau=0.7, gamma=1.0), expected, rtol=1e-10)


def test_without_memory_the_gradient_is_that_of_a_log_partition():
    """tau = 1: -logp_0 + log mean_j exp(logp_j - reference_j)."""
    x = _inputs(losses.dft)

    def contrastive(logps):
        return (-logps[:, 0] + jax.nn.logsumexp(logps[:, 1:] - x["reference_logps"][:, 1:], axis=1)).sum()

    ours = _gradient(losses.dft, x, jnp.zeros(5), tau=1.0, gamma=1.0)
    np.testing.assert_allclose(ours, jax.grad(contrastive)(x["logps"]), rtol=1e-10)


@pytest.mark.parametrize("loss", [losses.dft, losses.dft2])
def test_state_and_gradient_over_steps(loss):
    """In plain numbers, over three steps; rows 1 and 3 of the batch do not count."""
    u, state = np.ones(9), losses.dft_state(9)
    for seed in range(3):
        x = _inputs(loss, seed=seed)
        x["example_ids"] = jnp.array([7, 0, 2, 0, 4])
        x["valid"] = jnp.array([True, False, True, False, True])
        x["logps"] = x["logps"].at[1].set(jnp.nan)
        weights = np.exp(_log_weights(loss, x, 2.0))
        expected = np.zeros((5, 4))
        for row, i in ((0, 7), (2, 2), (4, 4)):
            u[i] = 0.4 * u[i] + 0.6 * weights[row].mean()
            expected[row] = [-1, *(weights[row] / u[i] / 3)]
        if loss is losses.dft2:
            expected /= np.asarray(x["lengths"])
        gradient = _gradient(loss, x, state, tau=2.0, gamma=0.6)
        np.testing.assert_allclose(gradient, expected, rtol=1e-10)
        values, state = loss(**x, state=state, tau=2.0, gamma=0.6)
        np.testing.assert_array_equal(values[jnp.array([1, 3])], 0)
        np.testing.assert_allclose(state, np.log(u), rtol=1e-10, atol=1e-12)


def test_the_estimate_settles_at_the_mean_weight():
    x, state = _inputs(losses.dft), losses.dft_state(5)
    for _ in range(60):
        _, state = losses.dft(**x, state=state, gamma=0.5)
    g = _log_weights(losses.dft, x, 1.0)
    expected = np.log(np.exp(g).mean(1))
    np.testing.assert_allclose(state[x["example_ids"]], expected, rtol=1e-9)


def test_tau_divides_the_policy_but_not_the_reference():
    x = _inputs(losses.dft)
    moved = x | {"reference_logps": x["reference_logps"] + 1.5}
    _, before = losses.dft(**x, state=losses.dft_state(5), tau=3.0, gamma=1.0)
    _, after = losses.dft(**moved, state=losses.dft_state(5), tau=3.0, gamma=1.0)
    np.testing.assert_allclose(after - before, -1.5, rtol=1e-10)


def test_dft2_at_unit_lengths_is_dft_without_reference():
    x = _inputs(losses.dft2) | {"lengths": jnp.ones((5, 4), int)}
    same = {n: x[n] for n in ("logps", "example_ids", "valid")} | {"reference_logps": jnp.zeros((5, 4))}
    ours = losses.dft2(**x, state=losses.dft_state(5))
    other = losses.dft(**same, state=losses.dft_state(5), tau=0.3, gamma=0.9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, other)


@pytest.mark.parametrize("example", [-1, 5, 1000])
def test_an_unknown_example_is_loud(example):
    x = _inputs(losses.dft)
    x["example_ids"] = x["example_ids"].at[1].set(example)
    values, after = losses.dft(**x, state=losses.dft_state(5))
    assert jnp.isnan(values[1])
    assert jnp.isfinite(jnp.delete(values, 1)).all()
    assert jnp.isfinite(after).all()
    x["valid"] = x["valid"].at[1].set(False)
    assert losses.dft(**x, state=losses.dft_state(5))[0][1] == 0


def test_a_list_of_one_response_is_an_error():
    x = _inputs(losses.dft)
    one = x | {n: x[n][:, :1] for n in ("logps", "reference_logps")}
    with pytest.raises(ValueError, match="at least one sample"):
        losses.dft(**one, state=losses.dft_state(5))


def test_a_response_of_no_tokens_has_no_weight():
    x = _inputs(losses.dft2)
    x |= {"lengths": x["lengths"].at[0, 1].set(0), "logps": x["logps"].at[0, 1].set(0.0)}
    values, state = losses.dft2(**x, state=losses.dft_state(5))
    assert jnp.isfinite(values).all()
    assert jnp.isfinite(state).all()
