"""Objectives as pure functions: arrays in, one number per example out, no reduction.

An input is a parameter without a default, named as in `jaxpref.algorithms.inputs`; a hyper-parameter is
keyword-only with a default. `README.md` in this folder has the conventions and the table of names.
"""

from jaxpref.losses.divergences import alpha_dpo, chi_po, forward_kl_dpo, js_dpo
from jaxpref.losses.lengths import ipo_mean, length_dpo, ln_dpo, mipo, simpo
from jaxpref.losses.likelihood import sft
from jaxpref.losses.list_averages import pro, tree_po
from jaxpref.losses.list_contrastive import exo_list, info_nca, nca_list
from jaxpref.losses.listwise import (
    lipo_lambda,
    list_mle,
    list_pair_hinge,
    list_pair_logistic,
    list_point_mse,
    list_point_sigmoid,
    list_softmax,
)
from jaxpref.losses.listwise_rewards import (
    reward_list_net,
    reward_list_pairs,
    reward_plackett_luce,
    reward_softmax,
)
from jaxpref.losses.offsets import cal_dpo, dpo_sft, dpop, flex_dpo, iterative_rpo
from jaxpref.losses.pairwise import cdpo, discopop, dpo, exo, ipo, robust_dpo, rso_hinge
from jaxpref.losses.pointwise import apo_down, apo_zero, bco_pair, nca, sppo_hard
from jaxpref.losses.reference_free import cpo, orpo, slic_hf
from jaxpref.losses.reward import bradley_terry
from jaxpref.losses.unpaired import apo_zero_unpaired, bco, bco_state, bco_weighted, kto, pmpo

__all__ = [
    "alpha_dpo",
    "apo_down",
    "apo_zero",
    "apo_zero_unpaired",
    "bco",
    "bco_pair",
    "bco_state",
    "bco_weighted",
    "bradley_terry",
    "cal_dpo",
    "cdpo",
    "chi_po",
    "cpo",
    "discopop",
    "dpo",
    "dpo_sft",
    "dpop",
    "exo",
    "exo_list",
    "flex_dpo",
    "forward_kl_dpo",
    "info_nca",
    "ipo",
    "ipo_mean",
    "iterative_rpo",
    "js_dpo",
    "kto",
    "length_dpo",
    "lipo_lambda",
    "list_mle",
    "list_pair_hinge",
    "list_pair_logistic",
    "list_point_mse",
    "list_point_sigmoid",
    "list_softmax",
    "ln_dpo",
    "mipo",
    "nca",
    "nca_list",
    "orpo",
    "pmpo",
    "pro",
    "reward_list_net",
    "reward_list_pairs",
    "reward_plackett_luce",
    "reward_softmax",
    "robust_dpo",
    "rso_hinge",
    "sft",
    "simpo",
    "slic_hf",
    "sppo_hard",
    "tree_po",
]
