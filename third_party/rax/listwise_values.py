"""Writes `listwise_values.json`: ranking losses of Rax and their gradients on fixed lists, in float64.

In an environment of its own (Python 3.11):

    python3.11 -m venv rax && rax/bin/pip install rax==0.4.0 jax==0.10.2
    rax/bin/python third_party/rax/listwise_values.py third_party/rax/listwise_values.json

Each loss is per list (`reduce_fn` inside a list, `vmap` over lists); `reduce` says which reduction was used.
"""

import importlib.metadata
import json
import sys
from functools import partial

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import rax


def rows() -> dict[str, np.ndarray]:
    """Twelve lists of up to five items. 0-5: all there, labels distinct. 6-8: some items missing. 9-10: tied
    labels (10: some missing too). 11: scores far apart."""
    rng = np.random.default_rng(20240501)
    scores = np.round(rng.normal(0, 2, (12, 5)), 3)
    labels = np.round(np.stack([rng.permutation(np.linspace(0.05, 0.95, 5)) for _ in range(12)]), 3)
    where = np.ones((12, 5), bool)
    where[6, 3:], where[7, 0], where[8, [1, 2]], where[10, 4] = False, False, False, False
    labels[9] = [0.5, 0.2, 0.5, 0.9, 0.2]
    labels[10] = [0.7, 0.7, 0.1, 0.7, 0.3]
    scores[11] = [-300.0, 250.0, 4.0, -2.0, 90.0]
    return {"scores": scores, "labels": labels, "where": where}


def best(labels: jax.Array, where: jax.Array) -> jax.Array:
    """1 at the item of the highest label."""
    return 1.0 * (labels == jnp.where(where, labels, -jnp.inf).max(-1, keepdims=True))


def softened(labels: jax.Array, where: jax.Array) -> jax.Array:
    return jax.nn.softmax(labels, axis=-1, where=where)


def losses() -> dict[str, tuple]:
    """Rax's function, the reduction inside a list, and the other arguments."""
    normalised = rax.utils.normalize_probabilities
    return {
        "pairwise_logistic": (rax.pairwise_logistic_loss, "mean", {}),
        "pairwise_logistic_dcg_lambda": (
            rax.pairwise_logistic_loss,
            "mean",
            {"lambdaweight_fn": rax.dcg_lambdaweight},
        ),
        "pairwise_logistic_dcg_lambda_sum": (
            rax.pairwise_logistic_loss,
            "sum",
            {"lambdaweight_fn": rax.dcg_lambdaweight},
        ),
        "pairwise_hinge": (rax.pairwise_hinge_loss, "mean", {}),
        "listmle": (rax.listmle_loss, "mean", {}),
        "unique_softmax": (rax.unique_softmax_loss, "mean", {"gain_fn": None}),
        "softmax": (rax.softmax_loss, "mean", {}),
        "softmax_normalised": (rax.softmax_loss, "mean", {"label_fn": normalised}),
        "softmax_best": (rax.softmax_loss, "mean", {"label_fn": best}),
        "softmax_softened": (rax.softmax_loss, "mean", {"label_fn": softened}),
        "pointwise_mse": (rax.pointwise_mse_loss, "mean", {}),
        "pointwise_sigmoid": (rax.pointwise_sigmoid_loss, "mean", {}),
    }


def cases(data: dict[str, np.ndarray]) -> list[dict]:
    scores, labels, where = (jnp.asarray(data[k]) for k in ("scores", "labels", "where"))
    found = []
    for name, (function, reduce, arguments) in losses().items():
        # Every list alone, so that a reduction never mixes lists.
        loss = partial(function, reduce_fn={"mean": jnp.mean, "sum": jnp.sum}[reduce], **arguments)
        one = lambda s, y, w, loss=loss: loss(s[None], y[None], where=w[None])
        values, gradients = jax.vmap(jax.value_and_grad(one))(scores, labels, where)
        found.append(
            {
                "name": name,
                "source": f"rax.{function.__name__}",
                "reduce": reduce,
                "arguments": sorted(arguments),
                "losses": values.tolist(),
                "gradients": gradients.tolist(),
            }
        )
    return found


def main(output: str) -> None:
    data = rows()
    document = {
        "about": "Values and gradients of ranking losses of Rax in float64, made by listwise_values.py",
        "versions": {name: importlib.metadata.version(name) for name in ("rax", "jax")},
        "units": "nats; scores and labels as given, `where` marks the items that exist",
        "inputs": {key: value.tolist() for key, value in data.items()},
        "cases": cases(data),
    }
    with open(output, "w") as file:
        file.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
