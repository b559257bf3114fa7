"""Softmax attention over rows `[prompt | response 1 | ... | response k]` without an array of all scores."""

from jaxpref.kernels.attention.api import planned, row_attention
from jaxpref.kernels.attention.dispatch import IMPLEMENTATIONS, Choice
from jaxpref.kernels.attention.rows import Marks, Row

__all__ = ["IMPLEMENTATIONS", "Choice", "Marks", "Row", "planned", "row_attention"]
