"""Entries of the pairwise losses that couple the rows of a batch."""

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["BATCHWISE"]

NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
NO_RUN = "none: no published number to compare with at this size"

BATCHWISE = (
    Method(
        losses.aot,
        "AOT (paired)",
        "l(β(P_(i) - R_(i))), sorted margins of policy and reference",
        "sum",
        "TRL's documentation",
        identities="least of all pairings, one row gives dpo, permutations",
        parity="TRL 0.24, 1.16",
        real=NO_RUN,
        rejects=(*NO_BETA, {"label_smoothing": 0.5}),
        coupled="a sort of the margins",
    ),
    Method(
        losses.aot_unpaired,
        "AOT (unpaired)",
        "l(β(u_w(i) - u_l(i))), each side sorted",
        "sum",
        "TRL's documentation",
        identities="least of all pairings, one row gives dpo, permutations of a side",
        parity="TRL 0.24, 1.16",
        real=NO_RUN,
        rejects=(*NO_BETA, {"label_smoothing": 0.5}),
        coupled="a sort of either side",
    ),
    Method(
        losses.relative_po,
        "Relative PO",
        "mean_j l(β W_ij (u_w[i] - u_l[j])), W = softmax(-d/τ)",
        "sum",
        "released code",
        identities="one row gives dpo, limits of τ, loops",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=(*NO_BETA, {"tau": 0.0}),
        coupled="every chosen response against every rejected one",
    ),
)
