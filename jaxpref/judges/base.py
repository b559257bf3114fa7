"""The contracts of judges and scorers.

A judge maps `(policies, completions)` to `P [b, k, k]`, `P[:, i, j]` the probability that response i beats
response j, with `P + P^T = 1` and one half on the diagonal. A scorer maps the same to `[b, k]`, higher is
better. The state holds the params of every policy by name: "policy" is being trained, "initial" is its frozen
start, and there may be others. Neither has a gradient.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
from jaxtyping import Array, Float

from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params

__all__ = ["Policies", "Judge", "Scorer", "head_of", "member_of"]

Policies = Mapping[str, Params]


class Judge(Protocol):
    def __call__(self, policies: Policies, completions: Completions, /) -> Float[Array, "b k k"]: ...


class Scorer(Protocol):
    def __call__(self, policies: Policies, completions: Completions, /) -> Float[Array, "b k"]: ...


def member_of(policies: Policies, name: str, what: str) -> Params:
    """Params of one of the other policies, with no gradient.

    Args:
      what: who asks, for the error.

    Returns:
      The params.

    Raises:
      ValueError: no such member; it says which there are.

    Example:
      >>> from jaxpref.judges.base import member_of
      >>> print(float(member_of({"judge": jnp.array(2.0)}, "judge", "a judge")))
      2.0000
    """
    if not isinstance(policies, Mapping) or name not in policies:
        given = sorted(policies) if isinstance(policies, Mapping) else type(policies).__name__
        raise ValueError(f"{what}: expected params called {name!r}, got {given}; set `member`")
    return jax.lax.stop_gradient(policies[name])


def head_of(policy: Policy, what: str, fits: Callable[[int], bool], wanted: str):
    """The outputs of a policy's head, as a function that is compiled once.

    Args:
      what: who asks, for the error. fits: whether a number of outputs will do. wanted: that number, in words.

    Returns:
      `(params, completions) -> [b, n, m]`.

    Raises:
      ValueError: the policy has no head that fits.

    Example:
      >>> from jaxpref.judges.base import head_of
      >>> from jaxpref.policies.tabular import tabular
      >>> read = lambda params, batch, *_: {"embeddings": params[batch]}
      >>> policy = tabular(prompts=1, vocab=3)._replace(outputs=1, quantities=read)
      >>> outputs = head_of(policy, "a judge", lambda m: m == 1, "one output")
      >>> print(outputs(jnp.array([0.0, 1.0, 3.0]), jnp.array([[[2], [1]]])).tolist())
      [[[3.0], [1.0]]]
    """
    if policy.quantities is None or not policy.outputs or not fits(policy.outputs):
        raise ValueError(f"{what}: expected a policy whose head has {wanted}, got {policy.outputs}")
    read = policy.quantities

    @jax.jit  # a judge is called outside of compiled functions, since some read values on the host
    def outputs(params: Params, completions: Completions) -> Float[Array, "b n m"]:
        return read(params, completions, ("embeddings",), None, None)["embeddings"]

    return outputs
