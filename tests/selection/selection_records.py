"""Small records for tests of selection."""

import jax.numpy as jnp
import numpy as np

from jaxpref.types import Completions


def record(lengths, r=4, seed=0, preferences=None, **columns) -> Completions:
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
    )


def scored(scores, **columns) -> Completions:
    scores = np.asarray(scores, np.float32)
    return record(np.full(scores.shape, 3), scores=scores, **columns)


def picked(given: Completions, pairs: Completions) -> list:
    """For each row, which responses of `given` the pair is made of; None where it was dropped."""
    found = []
    for row in range(len(given.prompt_tokens)):
        if not bool(pairs.valid[row]):
            found.append(None)
            continue
        sides = [
            next(
                i
                for i, (tokens, mask) in enumerate(
                    zip(given.response_tokens[row], given.response_mask[row], strict=True)
                )
                if (tokens == pairs.response_tokens[row, side]).all()
                and (mask == pairs.response_mask[row, side]).all()
            )
            for side in (0, 1)
        ]
        found.append(tuple(sides))
    return found
