"""Small records for tests of selection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.types import Completions


def record(lengths, r=4, seed=0, preferences=None, axes=(), **columns) -> Completions:
    """Responses of the given lengths `[b, k]`; their tokens are all different within a prompt."""
    lengths = np.asarray(lengths)
    b, k = lengths.shape
    rng = np.random.default_rng(seed)
    tokens = rng.permuted(np.tile(np.arange(2, 2 + k * r), (b, 1)), axis=1).reshape(b, k, r)
    return Completions(
        jnp.asarray(rng.integers(2, 9, (b, 3))),
        jnp.ones((b, 3), bool),
        jnp.asarray(tokens),
        jnp.asarray(np.arange(r) < lengths[..., None]),
        preferences=None if preferences is None else jnp.asarray(preferences, jnp.float32),
        columns={name: jnp.asarray(value) for name, value in columns.items()},
        column_axes=axes,
    )


def scored(scores, **columns) -> Completions:
    scores = np.asarray(scores, np.float32)
    return record(np.full(scores.shape, 3), scores=scores, **columns)


def picked(given: Completions, pairs: Completions) -> list:
    """For each row, which responses of `given` the pair is made of; None where it was dropped."""
    given, pairs = jax.tree.map(np.asarray, (given, pairs))
    n = len(pairs.prompt_tokens) // len(given.prompt_tokens)  # pairs of one prompt, next to each other
    found = []
    for row, valid in enumerate(pairs.response_mask.any(-1).all(-1)):
        sides = []
        for side in (0, 1):
            same = given.response_tokens[row // n] == pairs.response_tokens[row, side]
            same &= given.response_mask[row // n] == pairs.response_mask[row, side]
            sides.append(int(np.argmax(same.all(-1))) if valid else None)
        found.append(tuple(sides) if valid else None)
    return found


def pairs_of(build, batch: Completions, seed: int = 3, **parameters) -> list:
    """`picked` of a selector's pairs; compiled, which takes less time than one operation after another."""
    return picked(batch, jax.jit(functools.partial(build, **parameters))(batch, jax.random.key(seed)))
