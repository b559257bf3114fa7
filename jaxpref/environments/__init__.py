"""Toys with exact answers: games, bandits, trees, duels. Arrays and closed forms; nothing is learnt here."""

from jaxpref.environments.bandits import bt_bandit, didactic_bandit, rlhf_optimum, uncovered_bandit
from jaxpref.environments.base import Bandit, Game, bandit, game
from jaxpref.environments.coverage import coverage_gap, hypo_optimum, log_linear_policy
from jaxpref.environments.delivery import delivery, random_delivery, varied_delivery
from jaxpref.environments.duels import LinearDuels, linear_duels
from jaxpref.environments.fitted import FittedGame, fitted_game
from jaxpref.environments.grids import gridworld, object_features
from jaxpref.environments.matrices import (
    dice,
    elo_game,
    elo_policy,
    population_game,
    population_nash,
    random_game,
    rock_paper_scissors,
)
from jaxpref.environments.random_worlds import random_world
from jaxpref.environments.trees import Tree, sequence_logps, token_mixture, two_token_tree

__all__ = [
    "Bandit",
    "FittedGame",
    "Game",
    "LinearDuels",
    "Tree",
    "bandit",
    "bt_bandit",
    "coverage_gap",
    "delivery",
    "dice",
    "didactic_bandit",
    "elo_game",
    "elo_policy",
    "fitted_game",
    "game",
    "gridworld",
    "hypo_optimum",
    "linear_duels",
    "log_linear_policy",
    "object_features",
    "population_game",
    "population_nash",
    "random_delivery",
    "random_game",
    "random_world",
    "rlhf_optimum",
    "rock_paper_scissors",
    "sequence_logps",
    "token_mixture",
    "two_token_tree",
    "uncovered_bandit",
    "varied_delivery",
]
