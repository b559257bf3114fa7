"""Rows of the losses of reward and preference models."""

from jaxpref import losses
from jaxpref.methods.base import Method

__all__ = ["REWARDS"]

REWARDS = (
    Method(
        losses.bradley_terry,
        "Bradley-Terry reward model",
        "l(r_w - r_l - margin)",
        "rewards",
        "-",
        identities="value, slopes, shift",
        parity="Stigler's journal citations to 4 digits",
        real="experiments/rm_hh.py",
        at_equality=0.6931471805599453,
    ),
)
