"""Entries of the losses of inverse reinforcement learning. MaxEnt IRL is `sft` of a planned policy."""

import math

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["INVERSE"]

NO_CODE = "none: exact worlds are the oracle, no released numbers are kept here"
NO_RUN = "none: the experiments of this family are worlds with hidden rewards"

INVERSE = (
    Method(
        losses.max_margin_planning,
        "Max-margin planning",
        "(max_π (R(π) + loss(π)) - R(demo))^q",
        "returns",
        "the paper's q: 1 or 2",
        identities="subgradient is a difference of features, no loss gives the perceptron, 0 at the best",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=({"power": 3}, {"power": 0}),
    ),
    Method(
        losses.iq_learn,
        "IQ-Learn (offline form)",
        "mean_t -φ(Q - γV') + V - γV', φ(x) = α f(x/α)",
        "soft values of steps",
        "ours",
        identities="α = ∞ is imitation, recovers a tabular expert, slope of φ is the ratio of occupancies",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=({"alpha": 0.0}, {"discount": 0.0}, {"discount": 1.1}),
    ),
    Method(
        losses.gail,
        "GAIL discriminator",
        "l(D_expert) + l(-D_learner), D a logit",
        "rewards",
        "-",
        identities="optimum is the log-ratio of densities, swap, airl with log-probs of 0",
        parity=NO_CODE,
        real=NO_RUN,
        at_equality=math.log1p(math.exp(-1)) + math.log1p(math.e),
    ),
    Method(
        losses.airl,
        "AIRL discriminator",
        "gail of the logit r - log π",
        "rewards",
        "-",
        identities="high where the expert is, optimum, gail of the shifted logit",
        parity=NO_CODE,
        real=NO_RUN,
        at_equality=2 * math.log(2),
        constants=("expert_generator_logps", "learner_generator_logps"),
    ),
    Method(
        losses.f_irl,
        "f-IRL",
        "(H - mean H) R/α, H = mean_t h(u_t)",
        "returns",
        "ours (weights: released code)",
        identities="finite differences of three divergences, a constant in h drops out",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=({"temperature": 0.0},),
        coupled="the mean of H over trajectories",
        constants=("log_density_ratios",),
    ),
    Method(
        losses.trajectory_bradley_terry,
        "T-REX (trajectory Bradley-Terry)",
        "-log(ε/2 + (1-ε)σ(clip(R_w - R_l)))",
        "rewards",
        "the paper (imitation: clip 50)",
        identities="off gives bradley_terry, bound of a pair, mixture with a coin, no slope beyond the clip",
        parity=NO_CODE,
        real=NO_RUN,
        rejects=({"noise_prob": 1.0}, {"noise_prob": -0.1}, {"clip": 0.0}),
        at_equality=math.log(2),
    ),
)
