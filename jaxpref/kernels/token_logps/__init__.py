"""Log-probs of given tokens: the one place where hidden states meet the vocabulary.

A row in this package is a row of the matrix of logits, one position of one response. Elsewhere a row is a
prompt of a batch.
"""

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
