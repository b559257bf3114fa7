"""Entries of the token-level and feature-level losses."""

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["TOKENS"]

NO_BETA = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
NO_RUN = "none: no published number to compare with at this size"

TOKENS = (
    Method(
        losses.ld_dpo,
        "LD-DPO",
        "l(β(u'_w - u'_l)), u' = Σ_(t≤n) u_t + α Σ_(t>n) u_t, n = min(n_w, n_l)",
        "tokens",
        "β: DPO's; α: TRL's documentation",
        identities="α=1 gives dpo, α=0 cuts to one length, only scored tokens count",
        parity="TRL 1.16",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -0.1}, {"alpha": 1.1}, {"alpha": float("nan")}),
    ),
    Method(
        losses.tdpo1,
        "TDPO-1",
        "l(β(u_w - u_l - (K_l - K_w)))",
        "sum",
        "released code",
        identities="no KL gives dpo, slopes",
        parity="none: released loss takes logits of both models",
        real=NO_RUN,
        rejects=NO_BETA,
    ),
    Method(
        losses.tdpo2,
        "TDPO-2",
        "l(β(u_w - u_l - α(K_l - sg(K_w))))",
        "sum",
        "released code",
        identities="α=0 gives dpo, value of tdpo1 at α=1, gradient with K_w frozen",
        parity="none: released loss takes logits of both models",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -0.1}),
        stops="KL of the chosen response",
        constants=("chosen_forward_kl",),
    ),
    Method(
        losses.sparse_po,
        "SparsePO",
        "l(β(Σm u_w - Σm u_l - (Σm' K_l - Σm' K_w))) + λ|m|₁ + λ'|m'|₁",
        "tokens",
        "released code (HH)",
        identities="unit weights give tdpo1, no KL weights dpo; L1 slope of the weights",
        parity="none: released loss is inside its trainer",
        real=NO_RUN,
        rejects=(*NO_BETA, {"l1_tokens": -1.0}, {"l1_kl": -1.0}),
    ),
    Method(
        losses.fpo,
        "FPO",
        "l(β(u_w/n_w - u_l/n_l - α(E_l - sg(E_w))))",
        "mean",
        "released code",
        identities="α=0 gives ln_dpo, top features by brute force, gradient with E_w frozen",
        parity="none: released loss needs a sparse autoencoder",
        real=NO_RUN,
        rejects=(*NO_BETA, {"alpha": -0.1}, {"top_k": 0}),
        stops="feature gap of the chosen response",
        constants=("chosen_features",),
    ),
    Method(
        losses.wpo,
        "WPO",
        "sg(min(1, w_w w_l)) l(β(u_w - u_l))",
        "tokens",
        "released code",
        identities="uniform and certain policies give dpo, bound at 1, gradient with the weight frozen",
        parity="TRL 1.16 (up to its bound), 0.24 (but for its last token)",
        real=NO_RUN,
        rejects=NO_BETA,
        stops="weight of the pair",
        constants=("chosen_log_sum_p2", "rejected_log_sum_p2"),
    ),
)
