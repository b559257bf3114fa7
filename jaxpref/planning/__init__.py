"""Exact planning in finite worlds: values, policies and occupancies. No learning in here."""

from jaxpref.planning.regret import deterministic_regret as deterministic_regret
from jaxpref.planning.regret import general_regret as general_regret
from jaxpref.planning.regret import partial_return as partial_return
from jaxpref.planning.regret import score_by_deterministic_regret as score_by_deterministic_regret
from jaxpref.planning.regret import score_by_regret as score_by_regret
from jaxpref.planning.regret import score_by_return as score_by_return
from jaxpref.planning.regret import score_by_successors as score_by_successors
from jaxpref.planning.regret import win_probability as win_probability
from jaxpref.planning.successors import gpi_values as gpi_values
from jaxpref.planning.successors import random_successors as random_successors
from jaxpref.planning.successors import successor_features as successor_features
from jaxpref.planning.tabular import TabularMDP as TabularMDP
from jaxpref.planning.tabular import advantages as advantages
from jaxpref.planning.tabular import deterministic_mdp as deterministic_mdp
from jaxpref.planning.tabular import occupancy as occupancy
from jaxpref.planning.tabular import policy_values as policy_values
from jaxpref.planning.tabular import scaled_return as scaled_return
from jaxpref.planning.tabular import values as values
from jaxpref.planning.worlds import World as World
from jaxpref.planning.worlds import greedy_policy as greedy_policy
from jaxpref.planning.worlds import optimal_policy as optimal_policy
from jaxpref.planning.worlds import state_action_features as state_action_features
from jaxpref.planning.worlds import with_weights as with_weights
