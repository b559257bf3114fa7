"""A policy, a batch and an algorithm for every row of the table of methods."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
from toys import scored_table_policy

from jaxpref.algorithms import offline
from jaxpref.algorithms.inputs import inputs_of
from jaxpref.losses.multi import raco
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer
from jaxpref.types import Completions, check_completions

B, R, V = 4, 5, 11
SGD = partial(optax.sgd, 0.1)
KINDS = {"f": jnp.float32, "i": jnp.int32, "b": bool}


def small_transformer(outputs: int = 0):
    return transformer(
        sizes=tiny(vocab=V, embed=8, heads=2, kv_heads=1, layers=1, mlp=16), outputs=outputs, eos_id=1
    )


def batch_of(k: int = 2, b: int = B, seed: int = 0) -> Completions:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, R + 1, (b, k))
    p = rng.uniform(0.1, 0.9, (b, k, k))
    columns = {
        "scores": rng.uniform(0.05, 0.95, (b, k)),
        "labels": rng.integers(0, 2, (b, k)),
        "ratings": rng.normal(size=(b, k, 4)),
        "margins": rng.normal(size=b),
        "annotators": np.zeros(b, int),
        "example_ids": np.arange(b),
        "prompt_embeddings": rng.normal(size=(b, 3)),
        "signs": rng.choice([-1.0, 1.0], (b, 2)),
        "degrees": rng.integers(0, 4, b),
        "densities": rng.gamma(1.0, 1.0, (b, k)),
        "step_ids": np.minimum(np.arange(R) // 2, 2) * np.ones((b, k, 1), int),
        "step_weights": np.ones((b, k, R)),
        "token_rewards": rng.gamma(1.0, 1.0, (b, k, R)),
        "token_weights": rng.uniform(size=(b, k, R)),
        "segment_mask": np.arange(R) < 2 * np.ones((b, k, 1), int),
        "image_free_logps": -rng.gamma(2.0, 2.0, (b, k)),
        "win_rates": rng.uniform(size=(b, k)),
        "behaviour_logps": -rng.gamma(2.0, 2.0, (b, k)),
        "behaviour_token_logps": -rng.gamma(2.0, 2.0, (b, k, R)),
        "behaviour_values": rng.normal(size=(b, k, R)),
        "kl_weights": rng.uniform(size=(b, k, R)),
    }
    more = np.random.default_rng([seed, 1])  # later columns, so that the batch itself stays what it was
    columns |= {
        "generator_logps": -more.gamma(2.0, 2.0, (b, k)),
        "returns": more.normal(size=(b, k)),
        "best_returns": more.gamma(1.0, 1.0, (b, k)),
        "log_density_ratios": more.normal(size=(b, k, R)),
        **{f"{name}_values": more.normal(size=(b, k, R)) for name in ("action", "state", "next")},
    }
    columns["scores"][:, ::-1].sort(-1)  # response 0 is the best
    batch = Completions(
        jnp.asarray(rng.integers(2, V, (b, 3))),
        jnp.ones((b, 3), bool),
        jnp.asarray(rng.integers(2, V, (b, k, R))),
        jnp.asarray(np.arange(R) < lengths[..., None]),
        preferences=jnp.asarray((p + 1 - p.swapaxes(1, 2)) / 2, jnp.float32),
        columns={n: jnp.asarray(x, KINDS[x.dtype.kind]) for n, x in columns.items()},
    )
    check_completions(batch)
    return batch


def _features(params, batch, key):
    """Two features of each response that move with the params."""
    weight = params["logits"][:2].mean(-1)
    return {"features": jnp.tile(weight[None, None], (*batch.lengths.shape, 2)) * batch.lengths[..., None]}


def algorithm_of(method, **arguments):
    bases = {i.base for i in inputs_of(method.loss)}
    outputs = (
        1
        if bases & {"rewards", "values"}
        else (2 if method.name == "odin" else 4)
        if "embeddings" in bases
        else 0
    )
    kl = bases & {"forward_kl", "reverse_kl"}
    objectives = "signs" in bases
    return scored_table_policy(V, outputs), partial(
        offline,
        loss=method.loss,
        optimizer=SGD,
        reference="initial" if method.reference or kl else None,
        loss_state=method.state,
        features=_features if "features" in bases else None,
        combine=partial(raco, weights=(0.5, 0.5)) if objectives else None,
        **arguments,
    )


def responses_of(method) -> int:
    sides = [i.response for i in inputs_of(method.loss)]
    if any(i.sampled for i in inputs_of(method.loss)):
        return 4
    if all(i is None for i in sides):
        return 3
    return max(i for i in sides if i is not None) + 1
