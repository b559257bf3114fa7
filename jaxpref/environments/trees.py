"""Responses of two tokens: sequences and tokens differ here, and all sequences can be listed."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from jaxpref.environments.base import Float64, Game, game

__all__ = ["Tree", "sequence_logps", "token_mixture", "two_token_tree"]


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """A game over all `v * v` sequences of two tokens, of one prompt, in lexicographic order."""

    game: Game  # [1, v v, v v] and [1, v v]
    tokens: NDArray[np.int32]  # [v v, 2]
    reference_logits: Float64  # [1, 1 + v, v]: of the first token, then of the second after each first one


def two_token_tree(*, vocab: int = 3, seed: int = 0) -> Tree:
    """Random preferences over sequences, P = sigmoid(A - A^T), and a random reference, token by token.

    `reference_logits` are params of `policies.tabular` with `length=2`.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(1, 1 + vocab, vocab))
    scores = rng.normal(size=(vocab**2, vocab**2))
    table = np.exp(-np.logaddexp(0, scores.T - scores))
    tokens = np.indices((vocab, vocab)).reshape(2, -1).T.astype(np.int32)
    return Tree(game(table, np.exp(sequence_logps(logits[0]))), tokens, logits)


def sequence_logps(logits: Float64) -> Float64:
    """Log-probs `[v v]` of all sequences, of logits `[1 + v, v]`."""
    logps = _log_softmax(logits)
    return (logps[0][:, None] + logps[1:]).reshape(-1)


def token_mixture(logits: Float64, reference_logits: Float64, beta: float) -> Float64:
    """Log-probs `[v v]` of the mixture that Nash-MD-PG samples: normalised at each token.

    `games.mixture` of the two `sequence_logps` is normalised once, over sequences. The two differ, since the
    normaliser of the second token depends on the first.
    """
    mixed = (1 - beta) * _log_softmax(logits) + beta * _log_softmax(reference_logits)
    return sequence_logps(mixed)


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
