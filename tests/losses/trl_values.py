"""TRL's committed numbers (third_party/trl) as arrays, and the comparison of a loss with one case of them."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["agrees", "arrays", "cases", "document", "labelled", "token_arrays", "token_sums"]

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "trl"


def document(name):
    return json.loads((FOLDER / name).read_text())


def cases(found):
    return {case["name"]: case for case in found["cases"]}


def arrays(columns, rows=slice(None)):
    """Columns of a file: lengths and labels as integers, the rest as floats of the widest type that is on."""
    whole = ("lengths", "labels")
    return {
        name: jnp.asarray(np.asarray(values, int if name.endswith(whole) else float)[rows])
        for name, values in columns.items()
    }


def token_arrays(columns):
    """Log-probs per token, with the masks that the lengths mean."""
    found = arrays(columns)
    width = found["chosen_token_logps"].shape[1]
    for side in ("chosen", "rejected"):
        found[f"{side}_mask"] = jnp.asarray(
            np.arange(width) < np.asarray(columns[f"{side}_lengths"])[:, None]
        )
    return found


def token_sums(inputs):
    """Log-probs per token, summed over a response's tokens: the inputs of losses that do not weigh tokens."""
    found = {}
    for name in [n for n in inputs if n.endswith("token_logps")]:
        mask = inputs[name.replace("reference_", "").replace("token_logps", "mask")]
        found[name.replace("token_logps", "logps")] = jnp.where(mask, inputs[name], 0).sum(1)
    return found


def labelled(inputs):
    """Ten pairs as twenty single responses, the chosen ones (label 1) first."""
    sides = ("chosen", "rejected")
    n = len(inputs["chosen_logps"]), len(inputs["rejected_logps"])
    return {
        "logps": jnp.concatenate([inputs[f"{side}_logps"] for side in sides]),
        "reference_logps": jnp.concatenate([inputs[f"reference_{side}_logps"] for side in sides]),
        "labels": jnp.repeat(jnp.array([1, 0]), jnp.array(n), total_repeat_length=sum(n)),
        "where": jnp.ones(sum(n), bool),
    }


def agrees(values, inputs, losses, gradients, *, rows=..., rtol=1e-11, gradient_rtol=1e-9):
    """`values(inputs)` are TRL's `losses`, and the gradients of their sum are TRL's, on `rows`."""
    np.testing.assert_allclose(
        np.asarray(values(inputs))[rows], np.asarray(losses, float)[rows], rtol=rtol, atol=1e-13
    )
    for name, expected in gradients.items():
        found = jax.grad(lambda x, n=name: values(inputs | {n: x}).sum())(inputs[name])
        expected = np.asarray(expected, float)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found[rows], expected[rows], rtol=gradient_rtol, atol=1e-13)
        assert (expected[rows] != 0).any()
