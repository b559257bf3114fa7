"""Rules that turn batches into updates: `(init, step, evaluate[, collect])`, run by one host loop."""

from jaxpref.algorithms.base import Algorithm, Model, TrainState
from jaxpref.algorithms.matrix_game import matrix_game
from jaxpref.algorithms.offline import offline
from jaxpref.algorithms.online import online
from jaxpref.algorithms.preference_iql import PreferenceIQLState, preference_iql
from jaxpref.algorithms.replayed import replayed
from jaxpref.algorithms.spac import SpacState, spac
from jaxpref.algorithms.supervised import sft

__all__ = [
    "Algorithm",
    "Model",
    "PreferenceIQLState",
    "SpacState",
    "TrainState",
    "matrix_game",
    "offline",
    "online",
    "preference_iql",
    "replayed",
    "sft",
    "spac",
]
