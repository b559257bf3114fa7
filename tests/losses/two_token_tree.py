"""A language model of two tokens out of three: its nine responses are few enough to take every mean exactly.

`theta [12]`: logits of the first token, then of the second after each first. A third, unscored position holds
garbage. Means over draws are sums over rows, weighted by the probabilities of the draws, which carry no
gradient; the same rows drawn at random give Monte Carlo.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Rows", "kl", "probabilities", "tokens"]

RESPONSES = np.array(list(itertools.product(range(3), range(3))))
RNG = np.random.default_rng(33)
THETA, REFERENCE, BEHAVIOUR = RNG.normal(0, 1.0, (3, 12))
SCORES = RNG.normal(0, 1.0, 9)
SKEW = np.triu(RNG.uniform(-0.4, 0.4, (9, 9)), 1)
PREFERENCES = 0.5 + SKEW - SKEW.T  # cyclic, P + P^T = 1


def tokens(theta):
    """Log-probs of the tokens of the nine responses [9, 3]; the third is not scored."""
    first = jax.nn.log_softmax(theta[:3])[RESPONSES[:, 0]]
    second = jax.nn.log_softmax(theta[3:].reshape(3, 3), -1)[RESPONSES[:, 0], RESPONSES[:, 1]]
    return jnp.stack([first, second, jnp.full(9, -7.0)], -1)


MASK = np.array([True, True, False])


def logps(theta):
    return tokens(theta)[:, :2].sum(-1)


def probabilities(theta):
    return jnp.exp(logps(theta))


def kl(theta, other=REFERENCE):
    """KL of the responses."""
    return (probabilities(theta) * (logps(theta) - logps(jnp.asarray(other)))).sum()


class Rows:
    """All tuples of `k` responses, with the probabilities that `policies` (one each) draw them."""

    def __init__(self, *policies):
        self.index = np.array(list(itertools.product(range(9), repeat=len(policies))))
        drawn = [np.asarray(jax.jit(probabilities)(p))[self.index[:, i]] for i, p in enumerate(policies)]
        self.weights = np.prod(drawn, 0)

    def gradients(self, losses):
        """Of `losses(theta, index) [n]` at THETA, a row each [n, 12]."""
        return np.asarray(jax.jit(jax.jacrev(lambda theta: losses(theta, self.index)))(THETA))

    def mean(self, losses):
        """The exact mean gradient of `losses`."""
        return self.weights @ self.gradients(losses)

    def errors(self, rows, exact, draws=200_000):
        """|Monte Carlo mean of `gradients` - exact| in standard errors, the largest of all entries."""
        share = np.random.default_rng(0).multinomial(draws, self.weights / self.weights.sum()) / draws
        mean = share @ rows
        error = np.sqrt(np.maximum(share @ rows**2 - mean**2, 0) / draws)
        return np.max(np.abs(mean - exact) / error)
