"""Evaluators: functions of a policy that return estimates with intervals, and samples to read."""

from jaxpref.evals.bandits import bandit_policy
from jaxpref.evals.base import Context, Estimate, Evaluation, Picture, TextSample
from jaxpref.evals.control import compiled_returns, control_returns
from jaxpref.evals.diversity import diversity
from jaxpref.evals.exploitability import game_exploitability, sampled_exploitability
from jaxpref.evals.generation import generation
from jaxpref.evals.kl import sampled_kl
from jaxpref.evals.planned import budget_shares, learned_weights, planned_return
from jaxpref.evals.posterior import posterior_returns
from jaxpref.evals.recovery import policy_recovery, reward_recovery
from jaxpref.evals.rewards import list_agreement, reward_accuracy
from jaxpref.evals.routes import route_choice
from jaxpref.evals.soft_optimal import soft_optimal_error
from jaxpref.evals.sweeps import value_sweeps

__all__ = [
    "Context",
    "Estimate",
    "Evaluation",
    "Picture",
    "TextSample",
    "bandit_policy",
    "compiled_returns",
    "control_returns",
    "budget_shares",
    "diversity",
    "game_exploitability",
    "generation",
    "learned_weights",
    "list_agreement",
    "planned_return",
    "policy_recovery",
    "posterior_returns",
    "reward_accuracy",
    "reward_recovery",
    "route_choice",
    "sampled_exploitability",
    "sampled_kl",
    "soft_optimal_error",
    "value_sweeps",
]
