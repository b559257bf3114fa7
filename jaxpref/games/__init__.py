"""Exact two-player games of preferences: a matrix P(y beats y') for each prompt, and policies as log-probs.

Pure functions, batched over prompts. The regularised game is that of Munos et al. 2023, arXiv:2312.00886:
P(pi beats nu) - tau KL(pi || ref) + tau KL(nu || ref), which has one equilibrium for tau > 0.
"""

from jaxpref.games.equilibria import beta_fixed_point, constant_step_limit, regularised_nash
from jaxpref.games.measures import (
    best_response,
    duality_gap,
    exploitability,
    kl_divergence,
    mixture,
    win_rate,
    win_rates,
)
from jaxpref.games.schedules import (
    constant_step_size,
    decaying_step_size,
    nash_md_bound,
    nash_md_step_bound,
)
from jaxpref.games.updates import (
    best_response_step,
    extragradient_step,
    fictitious_play_step,
    mirror_step,
    mwu_step,
    nash_md_step,
    omd_step,
)

__all__ = [
    "best_response",
    "best_response_step",
    "beta_fixed_point",
    "constant_step_limit",
    "constant_step_size",
    "decaying_step_size",
    "duality_gap",
    "exploitability",
    "extragradient_step",
    "fictitious_play_step",
    "kl_divergence",
    "mirror_step",
    "mixture",
    "mwu_step",
    "nash_md_bound",
    "nash_md_step",
    "nash_md_step_bound",
    "omd_step",
    "regularised_nash",
    "win_rate",
    "win_rates",
]
