"""Log-probs of given tokens: the one place where hidden states meet the vocabulary."""

from jaxpref.kernels.token_logps.api import linear_logits, linear_token_logps, token_logps
from jaxpref.kernels.token_logps.dispatch import IMPLEMENTATIONS
from jaxpref.kernels.token_logps.fold import STATISTICS

__all__ = ["IMPLEMENTATIONS", "STATISTICS", "linear_logits", "linear_token_logps", "token_logps"]
