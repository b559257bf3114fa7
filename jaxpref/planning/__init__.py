"""Exact planning in finite worlds: values, policies and occupancies. No learning in here."""

from jaxpref.planning.horizon import horizon_occupancy as horizon_occupancy
from jaxpref.planning.horizon import horizon_values as horizon_values
from jaxpref.planning.tabular import TabularMDP as TabularMDP
from jaxpref.planning.tabular import advantages as advantages
from jaxpref.planning.tabular import deterministic_mdp as deterministic_mdp
from jaxpref.planning.tabular import occupancy as occupancy
from jaxpref.planning.tabular import policy_values as policy_values
from jaxpref.planning.tabular import scaled_return as scaled_return
from jaxpref.planning.tabular import values as values
