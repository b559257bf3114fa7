"""Entries of token-level and step-level guidance."""

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["GUIDANCE"]

NO_RUN = "none: no published number to compare with at this size"

GUIDANCE = (
    Method(
        losses.token_guided_sft,
        "Token-guided likelihood",
        "-Σ_t w_t log π(y_t), w = r / Σr",
        "tokens",
        "-",
        identities="equal rewards give the mean NLL, scale of rewards cancels",
        parity="none: released loss is inside its trainer",
        real=NO_RUN,
        constants=("token_rewards",),
    ),
    Method(
        losses.token_reward_list_mle,
        "Token rewards from rankings (listMLE)",
        "-log PL(ranking | C · mean_t r_t)",
        "rewards",
        "released code",
        identities="two responses give Bradley-Terry, all rankings add up to 1, aggregates by hand",
        parity="none: released loss has one batch-wide draw for ties",
        real=NO_RUN,
        rejects=({"temperature": 0.0}, {"mode": "median"}),
    ),
    Method(
        losses.step_dpo,
        "Step DPO (SVPO's preference term)",
        "l(β(u_w - u_l)) over the tokens of a segment",
        "tokens",
        "β: DPO's",
        identities="the whole response gives dpo, prefixes carry nothing",
        parity="none: released loss is inside its trainer",
        real=NO_RUN,
        rejects=({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")}),
    ),
)
