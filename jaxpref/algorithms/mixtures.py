"""Who draws the responses: mixtures of policies by name, one for each response.

A mixture is a dict from policies to weights, `{"policy": 0.875, "initial": 0.125}`: next tokens come from the
softmax of the weighted sum of their logits, mixed at every token. A weight may be a schedule, `step ->
weight`. A tuple of mixtures gives the responses to a prompt. A tuple of such tuples lists alternatives, one
of which is chosen for each prompt, uniformly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.types import PRNGKey

__all__ = ["Mixture", "Mixtures", "alternatives", "members", "nash_md", "pilaf", "table", "xpo"]

Mixture = Mapping[str, float | Callable[[Array], Array]]
Mixtures = Sequence[Mixture] | Sequence[Sequence[Mixture]]


def nash_md(
    beta: float = 0.125, *, num_samples: int = 1, num_opponents: int = 1, opponent: str = "initial"
) -> tuple[Mixture, ...]:
    """`num_samples` of the policy, then `num_opponents` of its geometric mixture with `opponent`:
    arXiv:2312.00886. Select with `selection.versus` of as many opponents.

    `beta` is the weight of the opponent: 0 is self-play, 1 the best response to it.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"nash_md: expected a mixture weight beta in [0, 1], got {beta}")
    mixture = {"policy": 1.0 - beta, opponent: beta}
    return ({"policy": 1.0},) * num_samples + (mixture,) * num_opponents


def pilaf(beta: float = 0.1, *, reference: str = "initial") -> tuple[tuple[Mixture, ...], ...]:
    """With equal probability two of the policy, or one of policy (policy / reference)^beta and one of policy
    (reference / policy)^beta.

    arXiv:2502.04270; `beta` is that of the DPO loss.
    """
    more, less = {"policy": 1.0 + beta, reference: -beta}, {"policy": 1.0 - beta, reference: beta}
    return (({"policy": 1.0}, {"policy": 1.0}), (more, less))


def xpo(*, reference: str = "initial") -> tuple[Mixture, ...]:
    """One of the policy, one of the reference: arXiv:2405.21046."""
    return ({"policy": 1.0}, {reference: 1.0})


def alternatives(mixtures: Mixtures) -> Sequence[Sequence[Mixture]]:
    """The tuples of mixtures to choose from.

    Raises:
      ValueError: no mixture, or alternatives that give different numbers of responses.
    """
    given: list[Any] = list(mixtures)
    choices = [given] if given and isinstance(given[0], Mapping) else [list(one) for one in given]
    if not choices or not choices[0] or len({len(one) for one in choices}) > 1:
        raise ValueError(
            f"mixtures: expected one or more responses, as many in each alternative, got {mixtures}"
        )
    return choices


def members(mixtures: Mixtures) -> tuple[str, ...]:
    """Names of the policies in the mixtures, in the order of their first mention."""
    names = [name for one in alternatives(mixtures) for mixture in one for name in mixture]
    return tuple(dict.fromkeys(names))


def table(mixtures: Mixtures, rows: int, step: Int[Array, ""], key: PRNGKey) -> Float[Array, "b k m"]:
    """Weights of `members(mixtures)` for each response of each row."""
    names = members(mixtures)

    def weight(value: float | Callable[[Array], Array] | None) -> Array:
        return jnp.asarray(value(step) if callable(value) else value or 0.0, jnp.float32)

    given = jnp.stack(
        [
            jnp.stack([jnp.stack([weight(mixture.get(name)) for name in names]) for mixture in one])
            for one in alternatives(mixtures)
        ]
    )
    return given[jax.random.randint(key, (rows,), 0, len(given))]
