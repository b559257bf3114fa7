"""Entries of the vision-language losses (on given log-probs)."""

import math

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["MULTIMODAL"]

LOG2 = math.log(2)
NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
NO_RUN = "none: no vision-language model here; the losses take given log-probs"

MULTIMODAL = (
    Method(
        losses.mdpo,
        "mDPO",
        "l(β(u_w - u_l)) + l(β(u_w - u_c)) + l(βu_w)",
        "sum",
        "released code",
        identities="three dpo losses, slopes",
        parity="none: released loss is a method of its trainer",
        real=NO_RUN,
        rejects=NO_BETA,
        at_equality=3 * LOG2,
    ),
    Method(
        losses.re_align,
        "Re-Align",
        "l(β(u_w - u_l)) + l(β(u_w - u_r))",
        "sum",
        "released code",
        identities="mdpo without its anchor",
        parity="none: released loss is a method of its trainer",
        real=NO_RUN,
        rejects=NO_BETA,
        at_equality=2 * LOG2,
    ),
    Method(
        losses.v_dpo,
        "V-DPO",
        "l(β(u'_w - u'_l)), u' = γ p - (γ-1) sg(p∅) - p_ref",
        "sum",
        "β: released script; γ: ours",
        identities="γ=1 gives dpo, slopes, γ=0 refused",
        parity="none: released script sets gamma = 0, where nothing is trained",
        real=NO_RUN,
        rejects=(*NO_BETA, {"gamma": 0.0}, {"gamma": -1.0}),
        at_equality=LOG2,
        constants=("chosen_image_free_logps", "rejected_image_free_logps"),
    ),
)
