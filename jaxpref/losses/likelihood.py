"""Likelihood losses: imitation of given responses."""

from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats

__all__ = ["sft"]


def sft(logps: Float[Array, " b"]) -> Float[Array, " b"]:
    """Negative log-likelihood of a response, summed over its scored tokens (nats).

    Maximum likelihood, as in the supervised stage of Ouyang et al. 2022, arXiv:2203.02155, Sec. 3.5. The
    algorithm divides the sum over the global batch by its number of scored tokens (token NLL), so
    microbatches and hosts of unequal lengths change nothing.
    """
    (logps,) = as_floats(logps=logps)
    return -logps
