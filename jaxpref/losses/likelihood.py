"""Likelihood losses: imitation of given responses."""

from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats

__all__ = ["sft"]


def sft(logps: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log-likelihood of a response: -logp, summed over its scored tokens.

    Maximum likelihood, as in the supervised stage of Ouyang et al. 2022, arXiv:2203.02155, Sec. 3.5. The
    algorithm divides the sum over the global batch by its number of scored tokens (token NLL), so
    microbatches and hosts of unequal lengths change nothing.

    Returns:
      [*n], nats, 0 or more; 0 where the response is certain.

    Example:
      >>> tokens = jnp.log(jnp.array([[0.5, 0.25], [1.0, 0.5]]))
      >>> print(losses.sft(tokens.sum(-1)))  # log 8 and log 2
      [2.0794 0.6931]
    """
    (logps,) = as_floats(logps=logps)
    return -logps
