"""Objectives as pure functions: arrays in, one number per example out, no reduction.

An input is a parameter without a default, named as in `jaxpref.algorithms.inputs`; a hyper-parameter is
keyword-only with a default. `README.md` in this folder has the conventions and the table of names.
"""

from jaxpref.losses.likelihood import sft
from jaxpref.losses.pairwise import cdpo, dpo, ipo, ipo_mean, simpo
from jaxpref.losses.reward import bradley_terry

__all__ = ["bradley_terry", "cdpo", "dpo", "ipo", "ipo_mean", "sft", "simpo"]
