"""Rules that turn batches into updates: `(init, step, evaluate[, collect])`, run by one host loop."""

from jaxpref.algorithms.adversarial import AdversarialState, adversarial
from jaxpref.algorithms.base import Algorithm, Model, TrainState
from jaxpref.algorithms.bayesian_rex import bayesian_rex
from jaxpref.algorithms.matrix_game import matrix_game
from jaxpref.algorithms.occupancy_matching import occupancy_matching
from jaxpref.algorithms.offline import offline
from jaxpref.algorithms.online import online
from jaxpref.algorithms.preference_iql import PreferenceIQLState, preference_iql
from jaxpref.algorithms.replayed import replayed
from jaxpref.algorithms.reward_posterior import RewardPosterior, reward_posterior
from jaxpref.algorithms.spac import SpacState, spac
from jaxpref.algorithms.supervised import sft

__all__ = [
    "AdversarialState",
    "Algorithm",
    "Model",
    "PreferenceIQLState",
    "RewardPosterior",
    "SpacState",
    "TrainState",
    "adversarial",
    "bayesian_rex",
    "matrix_game",
    "occupancy_matching",
    "offline",
    "online",
    "preference_iql",
    "replayed",
    "reward_posterior",
    "sft",
    "spac",
]
