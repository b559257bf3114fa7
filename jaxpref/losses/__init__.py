"""Objectives as pure functions: arrays in, one number per example out, no reduction.

An input is a parameter without a default, named as in `jaxpref.algorithms.inputs`; a hyper-parameter is
keyword-only with a default. `README.md` in this folder has the conventions and the table of names.
"""

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
from jaxpref.losses.batchwise import aot, aot_unpaired, relative_po
from jaxpref.losses.divergences import alpha_dpo, chi_po, forward_kl_dpo, js_dpo
from jaxpref.losses.lengths import ipo_mean, length_dpo, ln_dpo, mipo, simpo
from jaxpref.losses.likelihood import sft
from jaxpref.losses.multi import signed_dpo
from jaxpref.losses.offsets import cal_dpo, dpo_sft, dpop, flex_dpo, iterative_rpo
from jaxpref.losses.pairwise import cdpo, discopop, dpo, exo, ipo, robust_dpo, rso_hinge
from jaxpref.losses.pointwise import apo_down, apo_zero, bco_pair, nca, sppo_hard
from jaxpref.losses.reference_free import cpo, orpo, slic_hf
from jaxpref.losses.reliability import re_cpo, re_ipo, re_po, re_po_state, re_simpo
from jaxpref.losses.reward import bradley_terry
from jaxpref.losses.samples_contrastive import dft, dft2, dft_state

__all__ = [
    "alpha_dpo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "bco_pair",
    "beta_dpo",
    "beta_dpo_state",
    "bradley_terry",
    "cal_dpo",
    "cdpo",
    "chi_po",
    "cpo",
    "dft",
    "dft2",
    "dft_state",
    "discopop",
    "dove",
    "dpo",
    "dpo_sft",
    "dpop",
    "exo",
    "flex_dpo",
    "forward_kl_dpo",
    "ipo",
    "ipo_mean",
    "iterative_rpo",
    "js_dpo",
    "length_dpo",
    "ln_dpo",
    "mipo",
    "mixed_po",
    "mixed_po_state",
    "nca",
    "odpo",
    "odpo_ratio",
    "orpo",
    "osp",
    "rationale_dpo",
    "rationale_dpo_released",
    "re_cpo",
    "re_ipo",
    "re_po",
    "re_po_state",
    "re_simpo",
    "relative_po",
    "robust_dpo",
    "rso_hinge",
    "sft",
    "signed_dpo",
    "simpo",
    "slic_hf",
    "spa",
    "spa_state",
    "spo_degree",
    "spo_sequential",
    "sppo_hard",
]
