"""Objectives as pure functions: arrays in, one number per example out, no reduction.

An input is a parameter without a default, named as in `jaxpref.algorithms.inputs`; a hyper-parameter is
keyword-only with a default. `README.md` in this folder has the conventions and the table of names.
"""

from jaxpref.losses.actor_critic import ppo
from jaxpref.losses.adaptive import beta_dpo, beta_dpo_state, mixed_po, mixed_po_state, spa, spa_state
from jaxpref.losses.annotated import (
    dove,
    odpo,
    odpo_ratio,
    osp,
    rationale_dpo,
    rationale_dpo_released,
    spo_degree,
    spo_sequential,
)
from jaxpref.losses.attributes import attribute_regression
from jaxpref.losses.batchwise import aot, aot_unpaired, relative_po
from jaxpref.losses.contrastive import cpl, cpl_bc, cpl_kl, cpl_rank
from jaxpref.losses.divergence_offsets import fpo, tdpo1, tdpo2
from jaxpref.losses.divergences import alpha_dpo, chi_po, forward_kl_dpo, js_dpo
from jaxpref.losses.guidance import step_dpo, token_guided_sft, token_reward_list_mle
from jaxpref.losses.hypo import hypo
from jaxpref.losses.imitation import airl, f_irl, gail, iq_learn, max_margin_planning
from jaxpref.losses.lengths import alpha_po, ipo_mean, length_dpo, ln_dpo, mipo, simpo
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
from jaxpref.losses.multi import signed_dpo
from jaxpref.losses.multimodal import mdpo, re_align, v_dpo
from jaxpref.losses.odin import odin
from jaxpref.losses.offsets import cal_dpo, dpo_sft, dpop, flex_dpo, iterative_rpo
from jaxpref.losses.online_pairs import dno, online_ipo, xpo
from jaxpref.losses.pairwise import cdpo, discopop, dpo, exo, ipo, robust_dpo, rso_hinge
from jaxpref.losses.pointwise import apo_down, apo_zero, bco_pair, nca, sppo_hard
from jaxpref.losses.policy_gradient import grpo, nash_md, reinforce, rloo
from jaxpref.losses.preference_model import (
    general_preference,
    general_preference_soft,
    pair_preference,
    pair_preference_penalised,
    pair_preference_soft,
)
from jaxpref.losses.reference_free import cpo, orpo, slic_hf
from jaxpref.losses.reliability import re_cpo, re_ipo, re_po, re_po_state, re_simpo
from jaxpref.losses.reward import (
    bradley_terry,
    bradley_terry_margin,
    bradley_terry_regression,
    bradley_terry_sft,
    bradley_terry_soft,
)
from jaxpref.losses.samples_contrastive import dft, dft2, dft_state
from jaxpref.losses.spac import spac, spac_critic, spac_linear
from jaxpref.losses.tokenwise import ld_dpo, sparse_po, wpo
from jaxpref.losses.trajectories import trajectory_bradley_terry
from jaxpref.losses.unpaired import apo_zero_unpaired, bco, bco_state, bco_weighted, kto, pmpo
from jaxpref.losses.win_rates import gpo, sppo

__all__ = [
    "airl",
    "alpha_dpo",
    "alpha_po",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "apo_zero_unpaired",
    "attribute_regression",
    "bco",
    "bco_pair",
    "bco_state",
    "bco_weighted",
    "beta_dpo",
    "beta_dpo_state",
    "bradley_terry",
    "bradley_terry_margin",
    "bradley_terry_regression",
    "bradley_terry_sft",
    "bradley_terry_soft",
    "cal_dpo",
    "cdpo",
    "chi_po",
    "cpl",
    "cpl_bc",
    "cpl_kl",
    "cpl_rank",
    "cpo",
    "dft",
    "dft2",
    "dft_state",
    "discopop",
    "dno",
    "dove",
    "dpo",
    "dpo_sft",
    "dpop",
    "exo",
    "exo_list",
    "f_irl",
    "flex_dpo",
    "forward_kl_dpo",
    "fpo",
    "gail",
    "general_preference",
    "general_preference_soft",
    "gpo",
    "grpo",
    "hypo",
    "info_nca",
    "ipo",
    "ipo_mean",
    "iq_learn",
    "iterative_rpo",
    "js_dpo",
    "kto",
    "ld_dpo",
    "length_dpo",
    "lipo_lambda",
    "list_mle",
    "list_pair_hinge",
    "list_pair_logistic",
    "list_point_mse",
    "list_point_sigmoid",
    "list_softmax",
    "ln_dpo",
    "max_margin_planning",
    "mdpo",
    "mipo",
    "mixed_po",
    "mixed_po_state",
    "nash_md",
    "nca",
    "nca_list",
    "odin",
    "odpo",
    "odpo_ratio",
    "online_ipo",
    "orpo",
    "osp",
    "pair_preference",
    "pair_preference_penalised",
    "pair_preference_soft",
    "pmpo",
    "ppo",
    "pro",
    "rationale_dpo",
    "rationale_dpo_released",
    "re_align",
    "re_cpo",
    "re_ipo",
    "re_po",
    "re_po_state",
    "re_simpo",
    "reinforce",
    "relative_po",
    "reward_list_net",
    "reward_list_pairs",
    "reward_plackett_luce",
    "reward_softmax",
    "rloo",
    "robust_dpo",
    "rso_hinge",
    "sft",
    "signed_dpo",
    "simpo",
    "slic_hf",
    "spa",
    "spa_state",
    "spac",
    "spac_critic",
    "spac_linear",
    "sparse_po",
    "spo_degree",
    "spo_sequential",
    "sppo",
    "sppo_hard",
    "step_dpo",
    "tdpo1",
    "tdpo2",
    "token_guided_sft",
    "token_reward_list_mle",
    "trajectory_bradley_terry",
    "tree_po",
    "v_dpo",
    "wpo",
    "xpo",
]
