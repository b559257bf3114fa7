"""Entries of the losses of single responses with a label."""

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["UNPAIRED"]

NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
NO_RUN = "none: no published number to compare with at this size"

UNPAIRED = (
    Method(
        losses.kto,
        "KTO",
        "λ_D σ(β(z - u)) or λ_U σ(β(u - z)), z = max(0, mean mismatched u)",
        "sum",
        "TRL",
        identities="value and slope at u = z, bounds, symmetry, z by hand, NaN in padding",
        parity="TRL 0.24, 1.16",
        real=NO_RUN,
        rejects=(*NO_BETA, {"desirable_weight": -1.0}, {"undesirable_weight": -1.0}),
        coupled="z is a mean over the batch",
        constants=("mismatched_logps",),
    ),
    Method(
        losses.bco,
        "BCO",
        "l(r - δ) or l(δ - r), δ = (E₊[r] + E₋[r]) / 2, moving averages",
        "sum",
        "β: TRL; decay: ours",
        identities="first shift, moving average by hand, missing label, exp identity, gradient",
        parity="TRL 0.24 (first step, labels equally frequent)",
        real=NO_RUN,
        rejects=(*NO_BETA, {"decay": 1.0}, {"decay": -0.1}),
        coupled="the shift is a mean over the batch",
        stops="the shift",
        state=losses.bco_state,
    ),
    Method(
        losses.bco_weighted,
        "BCO with matched prompts",
        "l(r - δ) or w l(δ - r), w = clip(p(+|x) / p(-|x))",
        "sum",
        "clamp: TRL; decay: ours",
        identities="equals bco at densities 1, clamp, linear in the weight, gradient",
        parity="none: TRL's classifier weights are not driven",
        real=NO_RUN,
        rejects=(*NO_BETA, {"lowest_weight": 0.0}, {"highest_weight": 0.1}, {"decay": 1.0}),
        coupled="the shift is a mean over the batch",
        stops="the shift",
        state=losses.bco_state,
    ),
    Method(
        losses.apo_zero_unpaired,
        "APO-zero (unpaired)",
        "σ(-r) or σ(r)",
        "sum",
        "paper",
        identities="two labels sum to apo_zero, slopes, equals kto at z = 0",
        parity="TRL 0.24, 1.16",
        real=NO_RUN,
        rejects=NO_BETA,
        at_equality=0.5,
    ),
    Method(
        losses.pmpo,
        "PMPO",
        "-α log π(y₊) or (1-α) log π(y₋), + β KL(ref ‖ π)",
        "sum",
        "a port",
        identities="likelihood at α = 1 and β = 0, slopes, each label alone, optimum with a table",
        parity="none: no public code",
        real=NO_RUN,
        rejects=({"alpha": -0.1}, {"alpha": 1.1}, {"beta": -1.0}, {"beta": 0.0, "alpha": 0.0}),
    ),
)
