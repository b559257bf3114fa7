"""Entries of the pairwise losses that read one more column of the data."""

import math

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["ANNOTATED"]

LOG2 = math.log(2)
NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
NO_RUN = "none: no published number to compare with at this size"

ANNOTATED = (
    Method(
        losses.odpo,
        "ODPO",
        "l(β(u_w - u_l) - α log(s_w - s_l))",
        "sum",
        "released README (IMDB)",
        identities="gap 1 or α = 0 gives dpo, no gradient where the gap is not positive",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -1.0}),
        at_equality=0.0,
    ),
    Method(
        losses.odpo_ratio,
        "ODPO (ratio of scores)",
        "l(β(u_w - u_l) - α log(s_w / s_l))",
        "sum",
        "as odpo",
        identities="equal scores give dpo, scale of the scores, no gradient where they contradict",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -1.0}),
        at_equality=LOG2,
    ),
    Method(
        losses.spo_sequential,
        "Sequential PO (SPO)",
        "l(β(u_w - u_l) - α margin)",
        "sum",
        "ours",
        identities="α = 0 gives dpo, zero margin, tabular optimum of two rounds",
        parity="none: no released code",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -1.0}),
        at_equality=math.log1p(math.e),
    ),
    Method(
        losses.osp,
        "Online self-preferring (soft labels)",
        "p l(h) + (1-p) l(-h), h = β(u_w - u_l)",
        "sum",
        "ours",
        identities="p = 1 gives dpo, constant p gives cdpo, minimum at logit p",
        parity="none: no released code",
        real=NO_RUN,
        rejects=NO_BETA,
        at_equality=LOG2,
    ),
    Method(
        losses.rationale_dpo,
        "DPO with rationales",
        "l(β(u_w - u_l)) - γ p_rationale",
        "sum",
        "γ: released code; β: ours",
        identities="γ = 0 gives dpo, slope -γ",
        parity="none: released code has another form",
        real=NO_RUN,
        rejects=(*NO_BETA, {"gamma": -1.0}),
        at_equality=LOG2 - 0.1,
    ),
    Method(
        losses.rationale_dpo_released,
        "DPO with rationales (released form)",
        "l(β(u_w - u_l)) + l(γ p_rationale)",
        "sum",
        "γ: released code; β: ours",
        identities="slope -γ far away, -γ/2 at 0",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=(*NO_BETA, {"gamma": 0.0}),
        at_equality=LOG2 + math.log1p(math.exp(-0.1)),
    ),
    Method(
        losses.dove,
        "DOVE (joint preferences)",
        "l(β(u_w - u_l)), u of prompt and response",
        "sum",
        "DPO's",
        identities="equal prompts give dpo",
        parity="none: TRL's sigmoid on other log-probs",
        real=NO_RUN,
        rejects=NO_BETA,
        at_equality=LOG2,
    ),
    Method(
        losses.spo_degree,
        "Self-supervised PO (degree)",
        "l(β(u_w - u_l)) - γ log softmax(z)_degree",
        "sum",
        "ours",
        identities="γ = 0 gives dpo, uniform logits give log m, degrees out of range add nothing",
        parity="none: released repository is empty",
        real=NO_RUN,
        rejects=(*NO_BETA, {"gamma": -1.0}),
    ),
    Method(
        losses.signed_dpo,
        "DPO by objective (RACO)",
        "l(β sign_i (u_w - u_l)) for objective i",
        "sum",
        "ours",
        identities="+1 gives dpo, -1 the swapped pair, 0 no gradient",
        parity="none: TRL's sigmoid on signed margins",
        real=NO_RUN,
        rejects=NO_BETA,
    ),
)
