"""Whether values of a world have a limit, and if not, why. On the host."""

import numpy as np
from jaxtyping import Bool

from jaxpref.planning.tabular import TabularMDP, values

__all__ = ["DivergentValues", "check_finite", "reaches_end"]


class DivergentValues(ValueError):
    """Optimal values that are not finite: a state never ends, or some loop is worth repeating for ever."""


def reaches_end(mdp: TabularMDP) -> Bool[np.ndarray, " s"]:
    """Which states have a path to a terminal one, themselves included.

    Returns:
      `[s]`, True for those that have. If all have, every policy that may take any action ends.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1], [2, 2]]), jnp.array([False, True, False])
      >>> mdp = planning.deterministic_mdp(successors, jnp.zeros((3, 2)), ended)
      >>> print(planning.reaches_end(mdp))
      [ True  True False]
    """
    leads = np.asarray(mdp.transitions).max(1) > 0
    reached = np.asarray(mdp.terminal, bool)
    while True:
        wider = reached | leads[:, reached].any(1)
        if (wider == reached).all():
            return reached
        reached = wider


def check_finite(
    mdp: TabularMDP, temperature: float = 0.0, *, tolerance: float = 1e-6, max_sweeps: int = 10_000
) -> None:
    """Checks that optimal values are finite, and that their type holds them (`values`, with its arguments).

    Returns:
      Nothing.

    Raises:
      DivergentValues: at a discount of 1, a state without a path to a terminal one; or no finite values,
        where outcomes are certain and there is a temperature with the spectral radius of
        sum_a P exp(r / temperature): below 1, the sum over all paths to an end has a limit. At a discount
        below 1, a horizon 1 / (1 - discount) beyond the precision of the type.

    Example:
      >>> loop = planning.deterministic_mdp(jnp.array([[0]]), jnp.array([[1.0]]), jnp.array([False]))
      >>> try:
      ...     planning.check_finite(loop, max_sweeps=100)  # 1 for ever, not discounted
      ... except planning.DivergentValues as error:
      ...     print("no state is terminal" in str(error))
      True
    """
    lost = np.flatnonzero(~reaches_end(mdp)) if mdp.discount == 1 else np.zeros(0, int)
    if not lost.size:
        found = np.asarray(values(mdp, temperature, tolerance=tolerance, max_sweeps=max_sweeps)[0])
        if np.isfinite(found).all():
            return
    told = f"values: not finite at discount {mdp.discount:g} and temperature {temperature:g}: "
    if lost.size:
        named = ", ".join(map(str, lost[:10])) + (", ..." if lost.size > 10 else "")
        why = f"states that cannot reach a terminal one: {named} ({lost.size} of {len(mdp.terminal)})"
        why = why if np.asarray(mdp.terminal).any() else "no state is terminal"
        raise DivergentValues(f"{told}{why}. Make states terminal, set a horizon, or a discount below 1")
    if not np.isfinite(np.asarray(mdp.rewards)[~np.asarray(mdp.terminal)]).all():
        raise DivergentValues(f"{told}rewards are not finite. Check what they are made of")
    kind = np.asarray(mdp.rewards).dtype
    precise = f"so many steps until the end are beyond the precision of {kind}. Use float64"
    if mdp.discount < 1:
        raise DivergentValues(f"{told}{precise}, or a lower discount")
    advice = "Lower the rewards (each step must cost enough), set a horizon, or a discount below 1"
    radius = _spectral_radius(mdp, temperature)
    if radius is None:
        nearly = ", or nearly so" if temperature else ""
        raise DivergentValues(f"{told}some loop is worth repeating{nearly}. {advice}")
    if radius < 1:
        raise DivergentValues(
            f"{told}the spectral radius of the sum over paths is {radius:.9g}, below 1 but so near it that "
            f"{precise}, or: {advice[0].lower()}{advice[1:]}"
        )
    raise DivergentValues(
        f"{told}some loop is worth repeating; the spectral radius of the sum over paths is {radius:.7g}, and "
        f"it must be below 1. {advice}"
    )


def _spectral_radius(mdp: TabularMDP, temperature: float) -> float | None:
    """Of sum_a P exp(r / temperature) before the end; None where that is not what decides."""
    transitions, going = np.asarray(mdp.transitions, np.float64), ~np.asarray(mdp.terminal)
    if temperature == 0 or not going.any() or transitions.max(-1).min() < 1:
        return None
    weights = np.exp(np.asarray(mdp.rewards, np.float64) / temperature)
    kernel = np.einsum("sa,sat->st", weights, transitions)[np.ix_(going, going)]
    return float(np.abs(np.linalg.eigvals(kernel)).max())
