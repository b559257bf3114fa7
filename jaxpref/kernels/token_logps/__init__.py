"""Log-probs of given tokens: the one place where hidden states meet the vocabulary."""

from jaxpref.kernels.token_logps.api import linear_logits, linear_token_logps, token_logps
from jaxpref.kernels.token_logps.dispatch import IMPLEMENTATIONS
from jaxpref.kernels.token_logps.fold import KL, STATISTICS
from jaxpref.kernels.token_logps.pair_scan import SummedLoss, linear_summed_loss

__all__ = [
    "IMPLEMENTATIONS",
    "KL",
    "STATISTICS",
    "SummedLoss",
    "linear_logits",
    "linear_summed_loss",
    "linear_token_logps",
    "token_logps",
]
