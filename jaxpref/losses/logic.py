"""Preference losses as logic: which predictions of a model count for a pair, and which against it.

A proposition says that a model predicts a response: `chosen` and `rejected` for the policy,
`reference_chosen` and `reference_rejected` for the reference. It is true with that response's probability,
and propositions are independent. A preference structure (P, P_C, P_A) has three formulas: what should hold,
on which condition, and what counts for both sides. The truth assignments ("models")

    for:      P_C and (P or P_A)
    against:  P_C and (not P or P_A)

have weighted counts, and the loss is -log sigmoid(log count(for) - log count(against)), nats.

After Richardson et al. 2024, arXiv:2412.17696: the three formulas, counting, entailment and the number of
structures, 4^(2^n), are the paper's. The two lines above have not been checked against its text, nor have
the named structures below against its table of losses: they are derived here, and give our losses exactly.
Every pair of sets has a structure: P_C = for or against, P_A = for and against, P = for (`structure_of`).

Equal sets make equal losses. That is sufficient only: counts may agree for other sets, because propositions
are independent (`chosen` against not `chosen`, with or without the condition `rejected`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_odds

__all__ = [
    "CPO",
    "CROSS_ENTROPY",
    "DPO",
    "ORPO",
    "STRUCTURES",
    "UNLIKELIHOOD",
    "PreferenceStructure",
    "entails",
    "equivalent",
    "log_weighted_count",
    "semantic_loss",
    "structure_of",
]

Formula = Callable[..., bool]
Model = tuple[bool, ...]  # truth values, in the order of the structure's propositions
Batch = Float[Array, " b"]


def _never(*_: bool) -> bool:
    return False


def _always(*_: bool) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class PreferenceStructure:
    """Formulas over `propositions`, called with their truth values in that order."""

    propositions: tuple[str, ...]
    preference: Formula  # P
    condition: Formula = _always  # P_C
    both: Formula = _never  # P_A: counts for and against

    def _models(self, wanted: Callable[[Model], bool]) -> frozenset[Model]:
        every = itertools.product((False, True), repeat=len(self.propositions))
        return frozenset(m for m in every if self.condition(*m) and (self.both(*m) or wanted(m)))

    @property
    def models_for(self) -> frozenset[Model]:
        return self._models(lambda m: self.preference(*m))

    @property
    def models_against(self) -> frozenset[Model]:
        return self._models(lambda m: not self.preference(*m))


def structure_of(
    propositions: tuple[str, ...], models_for: Iterable[Model], models_against: Iterable[Model]
) -> PreferenceStructure:
    """The structure with exactly these sets: P_C = for or against, P_A = for and against, P = for.

    Args:
      propositions: names, in the order of a model's truth values.
      models_for, models_against: truth assignments that count for, and against.

    Returns:
      A `PreferenceStructure` whose `models_for` and `models_against` are the given sets.

    Example:
      >>> made = structure_of(CPO.propositions, [(True, False), (True, True)], CPO.models_against)
      >>> print(equivalent(made, CPO))
      True
    """
    first, second = frozenset(models_for), frozenset(models_against)
    return PreferenceStructure(
        propositions,
        preference=lambda *m: m in first,
        condition=lambda *m: m in first | second,
        both=lambda *m: m in first & second,
    )


def _check_comparable(one: PreferenceStructure, other: PreferenceStructure) -> None:
    if one.propositions != other.propositions:
        raise ValueError(f"propositions: {one.propositions} and {other.propositions} are not comparable")


def equivalent(one: PreferenceStructure, other: PreferenceStructure) -> bool:
    """Whether two structures have the same models for and against: their losses then agree for every input.

    Returns:
      True or False.

    Raises:
      ValueError: the propositions differ.

    Example:
      >>> print(equivalent(DPO, STRUCTURES["dpo"]), equivalent(CPO, ORPO))
      True False
    """
    _check_comparable(one, other)
    return (one.models_for, one.models_against) == (other.models_for, other.models_against)


def entails(one: PreferenceStructure, other: PreferenceStructure) -> bool:
    """Whether what counts for `one` counts for `other`, and what counts against `other` counts against `one`.

    Counts grow with sets, so the loss of `one` is then at least that of `other`, for every input.

    Returns:
      True or False.

    Raises:
      ValueError: the propositions differ.

    Example:
      >>> print(entails(UNLIKELIHOOD, CROSS_ENTROPY), entails(CROSS_ENTROPY, UNLIKELIHOOD))
      True False
    """
    _check_comparable(one, other)
    return one.models_for <= other.models_for and one.models_against >= other.models_against


def log_weighted_count(models: Iterable[Model], log_ps: list[Batch]) -> Batch:
    """log of the summed probabilities of `models`, propositions being independent.

    Args:
      models: truth assignments, at least one.
      log_ps: log-probability of each proposition, 0 or less; one above -1e-6 counts as -1e-6 where the
        proposition is false.

    Returns:
      [b] nats; 0 for all models together.

    Raises:
      ValueError: there are no models: the loss of an empty side is infinite.

    Example:
      >>> p, q = jnp.log(jnp.array([0.8])), jnp.log(jnp.array([0.25]))  # 0.8 * 0.75 + 0.2 * 0.25
      >>> print(jnp.exp(log_weighted_count([(True, False), (False, True)], [p, q])))
      [0.6500]
    """
    log_not = [jnp.minimum(p, -1e-6) - log_odds(p) for p in log_ps]
    terms = [
        sum(
            (p if true else q for true, p, q in zip(model, log_ps, log_not, strict=True)),
            jnp.zeros_like(log_ps[0]),
        )
        for model in sorted(models)
    ]
    if not terms:
        raise ValueError("models: expected one at least; the loss of an empty side is infinite")
    return jax.nn.logsumexp(jnp.stack(terms), axis=0)


def semantic_loss(structure: PreferenceStructure, **log_ps: Batch) -> Batch:
    """-log sigmoid(log count(for) - log count(against)) of a structure.

    Richardson et al. 2024, arXiv:2412.17696.

    Args:
      structure: which models count for, and which against; such as `DPO`, `CPO` or `ORPO`.
      log_ps: log-probability of each proposition, 0 or less [b]; those named `reference_...` are data.

    Returns:
      [b] nats, 0 or more; `DPO` gives `losses.dpo` with beta = 1.

    Raises:
      ValueError: shapes differ, or log_ps does not name the structure's propositions.

    Example:
      >>> p, q = jnp.log(jnp.array([0.6])), jnp.log(jnp.array([0.2]))  # three times as likely: -log(3/4)
      >>> print(semantic_loss(DPO, chosen=p, rejected=q, reference_chosen=q, reference_rejected=q))
      [0.2877]
    """
    if set(log_ps) != set(structure.propositions):
        raise ValueError(f"log_ps: expected {sorted(structure.propositions)}, got {sorted(log_ps)}")
    ordered = as_floats(**{name: log_ps[name] for name in structure.propositions})
    given = [
        jax.lax.stop_gradient(p) if name.startswith("reference") else p
        for name, p in zip(structure.propositions, ordered, strict=True)
    ]
    margin = log_weighted_count(structure.models_for, given) - log_weighted_count(
        structure.models_against, given
    )
    return logistic(margin)


_PAIR = ("chosen", "rejected")

# `rejected implies chosen`, where one of the two holds, both counting for both sides: p_w / p_l.
CPO = PreferenceStructure(
    _PAIR,
    preference=lambda chosen, rejected: chosen or not rejected,
    condition=lambda chosen, rejected: chosen or rejected,
    both=lambda chosen, rejected: chosen and rejected,
)

# The same where exactly one holds: the odds ratio p_w (1 - p_l) / (p_l (1 - p_w)).
ORPO = PreferenceStructure(
    _PAIR,
    preference=lambda chosen, rejected: chosen or not rejected,
    condition=lambda chosen, rejected: chosen != rejected,
)

# p_w / (1 - p_w), so the loss is -log p_w.
CROSS_ENTROPY = PreferenceStructure(_PAIR, preference=lambda chosen, rejected: chosen)

# p_w (1 - p_l) against all else: the loss is -log p_w - log(1 - p_l).
UNLIKELIHOOD = PreferenceStructure(_PAIR, preference=lambda chosen, rejected: chosen and not rejected)

# As CPO, of `chosen and reference_rejected` and of `rejected and reference_chosen`:
# (p_w / reference p_w) / (p_l / reference p_l).
DPO = PreferenceStructure(
    (*_PAIR, "reference_chosen", "reference_rejected"),
    preference=lambda w, x, ref_w, ref_x: (w and ref_x) or not (x and ref_w),
    condition=lambda w, x, ref_w, ref_x: (w and ref_x) or (x and ref_w),
    both=lambda w, x, ref_w, ref_x: w and ref_x and x and ref_w,
)

STRUCTURES = {
    "cpo": CPO,
    "orpo": ORPO,
    "cross_entropy": CROSS_ENTROPY,
    "unlikelihood": UNLIKELIHOOD,
    "dpo": DPO,
}
