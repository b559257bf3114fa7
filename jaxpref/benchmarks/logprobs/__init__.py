"""Sequence log-probs from hidden states: time and memory of every implementation, beside what others do."""

from jaxpref.benchmarks.logprobs.run import measure
from jaxpref.benchmarks.logprobs.tables import table

__all__ = ["measure", "table"]
