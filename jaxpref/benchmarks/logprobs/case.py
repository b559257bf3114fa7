"""The problem that every variant solves: a DPO-like loss over pairs of sequences."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Case", "dpo_like", "inputs"]

BETA = 0.1
TOKENS = 256  # of a response, where that many come out even
LOGIT_STD = 0.45  # sums of 256 log-probs then differ by ten nats: no link saturates
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Case:
    """`rows` tokens of `rows / (2 tokens)` pairs, width `embed`, vocabulary `vocab`."""

    rows: int = 2048
    embed: int = 512
    vocab: int = 32_768
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2 or min(self.embed, self.vocab) < 1 or self.dtype not in DTYPES:
            raise ValueError(f"{self}: rows must be even, sizes positive, dtype one of {', '.join(DTYPES)}")

    @property
    def tokens(self) -> int:
        return math.gcd(self.rows // 2, TOKENS)

    @property
    def pairs(self) -> int:
        return self.rows // (2 * self.tokens)

    @property
    def product_flops(self) -> int:
        """Operations of the product of hidden states and unembedding; value and gradients need three."""
        return 2 * self.rows * self.embed * self.vocab

    @property
    def logits_bytes(self) -> int:
        """Bytes of the logits in the dtype of the inputs."""
        return self.rows * self.vocab * jnp.dtype(self.dtype).itemsize


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states `[n, d]`, unembedding `[v, d]`, targets `[n]`."""
    rng = np.random.default_rng(0)
    dtype = jnp.dtype(case.dtype)
    hidden = rng.standard_normal((case.rows, case.embed), np.float32)
    weight = rng.standard_normal((case.vocab, case.embed), np.float32)
    weight *= LOGIT_STD / math.sqrt(case.embed)
    targets = rng.integers(0, case.vocab, case.rows, np.int32)
    return hidden.astype(dtype), weight.astype(dtype), targets


def dpo_like(case: Case, logps: jax.Array) -> jax.Array:
    """Scalar loss of per-token log-probs `[n]`."""
    sums = logps.reshape(-1, 2, case.tokens).sum(-1)
    return -jax.nn.log_sigmoid(BETA * (sums[:, 0] - sums[:, 1])).sum()
