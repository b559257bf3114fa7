"""Evaluators: functions of a policy that return estimates with intervals, and samples to read."""

from jaxpref.evals.base import Context, Estimate, Evaluation, TextSample
from jaxpref.evals.generation import generation
from jaxpref.evals.rewards import reward_accuracy

__all__ = ["Context", "Estimate", "Evaluation", "TextSample", "generation", "reward_accuracy"]
