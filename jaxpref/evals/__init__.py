"""Evaluators: functions of a policy that return estimates with intervals, and samples to read."""

from jaxpref.evals.bandits import bandit_policy
from jaxpref.evals.base import Context, Estimate, Evaluation, Map, TextSample
from jaxpref.evals.diversity import diversity
from jaxpref.evals.exploitability import game_exploitability, sampled_exploitability
from jaxpref.evals.generation import generation
from jaxpref.evals.kl import sampled_kl
from jaxpref.evals.rewards import reward_accuracy
from jaxpref.evals.routes import route_choice

__all__ = [
    "Context",
    "Estimate",
    "Evaluation",
    "Map",
    "TextSample",
    "bandit_policy",
    "diversity",
    "game_exploitability",
    "generation",
    "reward_accuracy",
    "route_choice",
    "sampled_exploitability",
    "sampled_kl",
]
