"""Entries of the losses of segments of behaviour: control, states and routes, step by step."""

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["SEGMENTS"]

NO_CODE = "none: not a function of its released code that can be called"
NO_RUN = "none: no published number to compare with at this size"
BAD = tuple(
    {name: value}
    for name, values in (("alpha", (0.0, -1.0, float("nan"))), ("bias", (0.0, 1.5)), ("discount", (0.0, 1.1)))
    for value in values
)

SEGMENTS = (
    Method(
        losses.cpl,
        "CPL",
        "p l(a_0 - λ a_1) + (1-p) l(a_1 - λ a_0), a = α Σ_t γ^t p_t",
        "steps",
        "released code",
        identities="loops, swap of segments and labels, constants, masks are shorter segments, discounts, "
        "recovers the soft-optimal policy at λ=1 and not below",
        parity=NO_CODE,
        real="experiments/cpl_hopper_human.py",
        rejects=BAD,
    ),
    Method(
        losses.cpl_bc,
        "CPL with behaviour cloning",
        "p l(a_0 - λ a_1) + (1-p) l(a_1 - λ a_0) - β mean(p_t)",
        "steps",
        "released code",
        identities="β=0 gives cpl, a tie imitates both segments, hard labels one",
        parity=NO_CODE,
        real="experiments/cpl_hopper_human.py",
        rejects=(*BAD, {"bc_weight": -1.0}),
    ),
    Method(
        losses.cpl_kl,
        "CPL with a reference",
        "cpl with a = α Σ_t γ^t u_t",
        "steps",
        "released code",
        identities="one step and λ=1 give dpo exactly, many steps dpo of the sums",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=BAD,
    ),
    Method(
        losses.cpl_rank,
        "CPL, all pairs of a batch",
        "mean of l(a_i - λ a_j) over s_i > s_j",
        "steps",
        "released code",
        identities="loops over all pairs, ties, padding, two segments give cpl",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=BAD,
        coupled="every pair of segments with different scores",
    ),
)
