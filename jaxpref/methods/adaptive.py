"""Entries of the losses that carry state from step to step."""

from functools import partial

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["ADAPTIVE"]

NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
NO_RATE = ({"rate": 1.0}, {"rate": -0.1})
NO_RUN = "none: no published number to compare with at this size"
NO_CODE = "none: no released code"
POSTERIOR = "the posterior that a label is right"
RELIABILITY = "the state: a mean over the rows of an annotator"
ANNOTATORS = partial(losses.re_po_state, 2)

ADAPTIVE = (
    Method(
        losses.mixed_po,
        "Mixed PO (MPO)",
        "0.8 l(r_w - r_l) + 0.2 (l(r_w - δ) + l(δ - r_l)) - p_w/n_w",
        "sum",
        "released code",
        identities="sum of its three parts, shift is the mean of all rewards",
        parity="TRL 1.16 (at shift 0); its shift: TRL 0.24, equal batches",
        real=NO_RUN,
        rejects=(
            *NO_BETA,
            {"preference_weight": -1.0},
            {"quality_weight": -1.0},
            {"generation_weight": -1.0},
        ),
        coupled="the shift, a running mean of all rewards",
        stops="the shift",
        state=losses.mixed_po_state,
    ),
    Method(
        losses.beta_dpo,
        "β-DPO",
        "l(β₀(1 + α(mean D - M)) D) on a draw of the batch",
        "sum",
        "released code",
        identities="α = 0 without filter gives dpo, formula of beta, draws, recursion of the state",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -1.0}, {"filtered": 1.0}, {"momentum": 1.0}),
        coupled="beta, and which rows are drawn",
        stops="beta of the batch",
        state=losses.beta_dpo_state,
    ),
    Method(
        losses.spa,
        "SPA (Selfie)",
        "l(h) + e h where h is low, else l(h)",
        "sum",
        "released code; warm-up: ours",
        identities="warm-up gives dpo, all below the threshold gives cdpo, ring",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=(*NO_BETA, {"label_smoothing": 0.5}, {"percentile": 0.0}, {"warmup_steps": -1}),
        coupled="the state: means of the batches before",
        state=losses.spa_state,
    ),
    Method(
        losses.re_po,
        "RE-PO (DPO)",
        "w l(h) + (1-w) l(-h), w = σ(h + logit η)",
        "sum",
        "η, rate: paper; β: ours",
        identities="gradient of the mixture likelihood, η = 1 gives dpo, η = 1/2 no gradient",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=(*NO_BETA, *NO_RATE),
        coupled=RELIABILITY,
        stops=POSTERIOR,
        state=ANNOTATORS,
    ),
    Method(
        losses.re_ipo,
        "RE-PO (IPO)",
        "as re_po, h = 2(u_w - u_l)/τ",
        "sum",
        "η, rate: paper; τ: ipo's",
        identities="logit of swapped ipo losses",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=({"tau": 0.0}, *NO_RATE),
        coupled=RELIABILITY,
        stops=POSTERIOR,
        state=ANNOTATORS,
    ),
    Method(
        losses.re_simpo,
        "RE-PO (SimPO)",
        "as re_po, h = log σ(s - γ) - log σ(-s - γ)",
        "mean",
        "η, rate: paper; others: simpo's",
        identities="logit of swapped simpo losses",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=(*NO_BETA, {"gamma_beta_ratio": -1.0}, *NO_RATE),
        coupled=RELIABILITY,
        stops=POSTERIOR,
        state=ANNOTATORS,
    ),
    Method(
        losses.re_cpo,
        "RE-PO (CPO)",
        "as re_po, h = (β + α)(p_w - p_l)",
        "sum",
        "η, rate: paper; others: cpo's",
        identities="logit of swapped cpo losses",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=(*NO_BETA, {"sft_weight": -1.0}, *NO_RATE),
        coupled=RELIABILITY,
        stops=POSTERIOR,
        state=ANNOTATORS,
    ),
    Method(
        losses.dft,
        "DFT",
        "-p_0 + mean_j sg(exp(p_j/τ - ref_j) / u) p_j",
        "sum",
        "released code",
        identities="γ = 1 weights by softmax, recursion of the state, gradients",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=({"tau": 0.0}, {"gamma": 0.0}, {"gamma": 1.5}),
        stops="the weights of the samples",
        state=partial(losses.dft_state, 64),
    ),
    Method(
        losses.dft2,
        "DFT2",
        "-p_0/n_0 + mean_j sg(exp(p_j/n_j/τ) / u) p_j/n_j",
        "mean",
        "released code",
        identities="γ = 1 weights by softmax, recursion of the state, gradients",
        parity="none: no numbers of the released code are kept here",
        real=NO_RUN,
        rejects=({"tau": 0.0}, {"gamma": 0.0}, {"gamma": 1.5}),
        stops="the weights of the samples",
        state=partial(losses.dft_state, 64),
    ),
)
